"""Files appear whole or not at all, wherever they are."""

import os

import fsspec
import pytest
from pyarrow import fs

from lop_ray.results.filesystem import Location, LocationError, is_temporary


def test_write_read_list_delete(place):
    place.write_atomic("a/x.bin", b"one")
    place.write_atomic("a/b/y.bin", b"two")
    place.write_atomic("a/x.bin", b"three")
    assert place.read_bytes("a/x.bin") == b"three"
    assert place.list() == ["a/b/y.bin", "a/x.bin"]
    assert place.list("a") == (place / "a").list() == ["b/y.bin", "x.bin"]
    assert place.exists("a/x.bin")
    place.delete("a/x.bin")
    place.delete("a/x.bin")
    assert not place.exists("a/x.bin")
    place.delete_tree("a")
    place.delete_tree("a")
    assert place.list() == []
    with pytest.raises(FileNotFoundError):
        place.read_bytes("a/b/y.bin")


def test_a_file_whose_writing_fails_does_not_appear_and_leaves_nothing(place):
    place.write_atomic("x.bin", b"old")

    def fail():
        with place.atomic_file("x.bin") as sink:
            sink.write(b"half of the n")
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        fail()
    assert place.read_bytes("x.bin") == b"old"
    assert place.list() == ["x.bin"]


def test_while_a_local_file_is_written_only_a_hidden_name_is_there(tmp_path):
    place = Location.of(tmp_path)
    with place.atomic_file("part.parquet") as sink:
        sink.write(b"half")
        (name,) = place.list()
        assert is_temporary(name)
        assert name.startswith(".")
        assert not name.endswith(".parquet")
    assert place.list() == ["part.parquet"]


def test_file_and_its_folder_entries_are_flushed_before_and_after_the_rename(tmp_path, monkeypatch):
    events = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        events.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        real_fsync(descriptor)

    def replace(source, target):
        events.append(("rename", os.path.basename(target)))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    Location.of(tmp_path / "new").write_atomic("x", b"1")
    assert events[0] == ("fsync", tmp_path.name)  # the entry of the folder that was made
    assert events[1][1].startswith(".x.")
    assert events[2:] == [("rename", "x"), ("fsync", "new")]


def test_relative_paths_are_made_absolute_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Location.of("results")
    monkeypatch.chdir("/")
    assert place.root == str(tmp_path / "results")
    assert Location.of(place) is place


def test_uris(tmp_path):
    Location.of(f"file://{tmp_path}").write_atomic("x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"
    with pytest.raises(LocationError, match=r"foo://bucket/x: .*; give a local path, or a URI such as file://, s3://"):
        Location.of("foo://bucket/x")


def test_a_writable_place_is_left_untouched(place, tmp_path):
    place.check_writable()
    assert place.list() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["a_file/results", "a_file"])
def test_a_place_below_a_regular_file_is_refused_in_one_line(tmp_path, below):
    (tmp_path / "a_file").write_text("")
    with pytest.raises(LocationError, match=r"can't be written: .*a directory.*; choose another with") as caught:
        Location.of(tmp_path / below).check_writable()
    assert "\n" not in str(caught.value)
    assert str(tmp_path / below) in str(caught.value)


def test_a_place_that_refuses_files_is_refused():
    with pytest.raises(LocationError, match="/proc/results can't be written"):
        Location.of("/proc/results").check_writable()


def test_a_remote_place_that_refuses_writes_is_refused():
    class Refusing(fs.FSSpecHandler):
        def open_output_stream(self, path, metadata):
            raise PermissionError("Access Denied\nrequest id 5")

    memory = fsspec.filesystem("memory", skip_instance_cache=True)
    place = Location(fs.PyFileSystem(Refusing(memory)), "bucket/refused")
    with pytest.raises(LocationError, match=r"py::.*refused can't be written: Access Denied request id 5; choose"):
        place.check_writable()
