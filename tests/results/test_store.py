"""A grid's manifest and trials."""

import pytest

from lop_ray.results import Store
from lop_ray.results.store import MANIFEST


def test_the_manifest_comes_back_as_it_was_written(place):
    store = Store(place, "ant_grid")
    assert store.read_manifest() is None
    manifest = {
        "z": 1e-4,
        "a": {"steps": 100_000_000, "betas": [0.9, 0.999], "on": True, "none": None},
        "text": "1e-4 ü",
    }
    store.write_manifest(manifest)
    assert store.read_manifest() == manifest
    assert list(store.read_manifest()) == ["z", "a", "text"]
    store.write_manifest({"trials": ["t1"]})
    assert store.read_manifest() == {"trials": ["t1"]}
    assert store.location.list() == ["grid.yaml"]


@pytest.mark.parametrize("text", [b"a: [1", b"- 1", b"", b"\xff\xfe"])
def test_an_unreadable_manifest_is_named(place, text):
    store = Store(place, "grid")
    store.location.write_atomic(MANIFEST, text)
    with pytest.raises(
        ValueError, match=r"grid/grid.yaml can't be read: .*; restore it, or start in an empty place"
    ) as e:
        store.read_manifest()
    assert "\n" not in str(e.value)


def test_making_a_store_and_reading_it_creates_nothing(place, tmp_path):
    store = Store(place, "grid")
    assert store.trials() == {}
    assert store.read_manifest() is None
    store.repair()
    assert store.trial_writer("t1")
    assert place.list() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("grid", ["", "a/b", "..", ".x", "a b"])
def test_a_grid_name_that_is_no_folder_name_is_refused(tmp_path, grid):
    with pytest.raises(ValueError, match="can't be a folder's"):
        Store(tmp_path, grid)
