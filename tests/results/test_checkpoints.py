"""A checkpoint counts only if it is whole; a damaged one has a predecessor, and is named."""

import json

import pytest

from lop_ray.results import Checkpoints, CheckpointVersionError, DamagedCheckpointError, checkpoints
from lop_ray.results.checkpoints import CHECKPOINT_VERSION

VERSIONS = {"lop_ray": "0.1.0", "torch": "2.13"}


@pytest.fixture
def saver(place):
    return Checkpoints(place, "t1")


def save(saver, update):
    return saver.save(update, 10 * update, {"state.pt": b"weights %d" % update, "env.bin": b""}, VERSIONS)


def names(saver):
    return sorted({path.split("/")[0] for path in saver.location.list()})


def test_what_was_saved_comes_back(saver, place):
    assert saver.newest_valid() == (None, [])
    saved = save(saver, 7)
    found, passed_over = Checkpoints(place, "t1").newest_valid()
    assert found.files == saved.files
    assert (found.update, found.env_steps, dict(found.versions)) == (7, 70, VERSIONS)
    assert {name: found.read(name) for name in found.files} == {"state.pt": b"weights 7", "env.bin": b""}
    assert passed_over == []
    assert place.list("trials/t1/checkpoints") == [
        "000001-update-7/complete.json",
        "000001-update-7/env.bin",
        "000001-update-7/state.pt",
    ]
    with pytest.raises(KeyError, match=r"has no file 'state'; it has state.pt, env.bin"):
        found.read("state")


def test_the_newest_are_kept(place):
    saver = Checkpoints(place, "t1", keep=3)
    for update in range(1, 6):
        save(saver, update)
    assert names(saver) == ["000003-update-3", "000004-update-4", "000005-update-5"]
    with pytest.raises(ValueError, match="keep is 1; at least 2 are kept"):
        Checkpoints(place, "t1", keep=1)


def test_all_that_are_whole_come_oldest_first_and_the_others_are_named(place):
    saver = Checkpoints(place, "t1", keep=4)
    assert saver.valid() == ([], [])
    for update in (3, 6, 9):
        save(saver, update)
    _truncate(saver, "000002-update-6")
    saver.location.write_atomic("000004-update-12/state.pt", b"its writer is at work")
    before = place.list()
    found, passed_over = Checkpoints(place, "t1").valid()
    assert [checkpoint.update for checkpoint in found] == [3, 9]
    assert ["000002-update-6" in passed_over[0], "000004-update-12" in passed_over[1]] == [True, True]
    assert len(passed_over) == 2
    assert place.list() == before
    marker = f"000003-update-9/{checkpoints.MARKER}"
    other = json.loads(saver.location.read_bytes(marker)) | {"format": CHECKPOINT_VERSION + 1}
    saver.location.write_atomic(marker, json.dumps(other).encode())
    with pytest.raises(CheckpointVersionError, match="000003-update-9"):
        saver.valid()


def _truncate(saver, folder):
    saver.location.write_atomic(f"{folder}/state.pt", b"weig")


def _flip(saver, folder):
    content = saver.location.read_bytes(f"{folder}/state.pt")
    saver.location.write_atomic(f"{folder}/state.pt", b"W" + content[1:])


def _remove_file(saver, folder):
    saver.location.delete(f"{folder}/state.pt")


def _remove_marker(saver, folder):
    saver.location.delete(f"{folder}/complete.json")


def _truncate_marker(saver, folder):
    content = saver.location.read_bytes(f"{folder}/complete.json")
    saver.location.write_atomic(f"{folder}/complete.json", content[: len(content) // 2])


def _hollow_marker(saver, folder):
    saver.location.write_atomic(f"{folder}/complete.json", b'{"format": %d, "files": {}}' % CHECKPOINT_VERSION)


DAMAGES = {
    _truncate: "state.pt has 4 bytes, 9 were written.",
    _flip: "state.pt is not what was written: its SHA-256 differs.",
    _remove_file: "state.pt is missing.",
    _remove_marker: "it has no marker complete.json, its writer died before it was whole.",
    _truncate_marker: "its marker complete.json can't be read.",
    _hollow_marker: "its marker complete.json lacks 'update'.",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_said(saver, damage):
    save(saver, 1)
    save(saver, 2)
    damage(saver, "000002-update-2")
    found, passed_over = saver.newest_valid()
    assert found.update == 1
    assert found.read("state.pt") == b"weights 1"
    assert passed_over == [f"Checkpoint {saver.location}/000002-update-2 was passed over: {DAMAGES[damage]}"]


def test_if_all_are_damaged_each_is_named_newest_first(saver):
    save(saver, 1)
    save(saver, 2)
    _truncate(saver, "000001-update-1")
    _remove_marker(saver, "000002-update-2")
    found, passed_over = saver.newest_valid()
    assert found is None
    assert ["update-2" in passed_over[0], "update-1" in passed_over[1], len(passed_over)] == [True, True, 2]


def test_a_damaged_checkpoint_does_not_push_out_a_good_one(saver, place):
    save(saver, 1)
    save(saver, 2)
    _truncate(saver, "000002-update-2")
    second_life = Checkpoints(place, "t1")
    assert second_life.newest_valid()[0].update == 1
    save(second_life, 2)
    assert names(saver) == ["000001-update-1", "000003-update-2"]
    assert second_life.newest_valid()[0].read("state.pt") == b"weights 2"


def test_a_file_damaged_after_the_check_is_noticed_when_it_is_read(saver):
    save(saver, 1)
    found, _ = saver.newest_valid()
    _flip(saver, "000001-update-1")
    with pytest.raises(DamagedCheckpointError, match="SHA-256 differs"):
        found.read("state.pt")


def test_another_format_is_refused_with_what_to_do(saver, monkeypatch):
    save(saver, 1)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_VERSION", CHECKPOINT_VERSION + 1)
    with pytest.raises(CheckpointVersionError) as caught:
        saver.newest_valid()
    assert str(caught.value) == (
        f"checkpoint {saver.location}/000001-update-1/complete.json has format 1, this lop_ray reads 2: "
        "use the versions that wrote it (lop_ray 0.1.0, torch 2.13), or start the grid in an empty place"
    )


@pytest.mark.parametrize("operation", range(8))
def test_a_death_at_any_operation_of_a_save_leaves_a_valid_checkpoint(saver, place, monkeypatch, operation):
    save(saver, 1)
    save(saver, 2)
    done = []

    def dying(real):
        def act(self, *arguments):
            if len(done) == operation:
                raise InterruptedError("killed")
            done.append(real.__name__)
            return real(self, *arguments)

        return act

    location = type(saver.location)
    with monkeypatch.context() as patch:
        for name in ("write_atomic", "delete", "delete_tree"):
            patch.setattr(location, name, dying(getattr(location, name)))
        try:
            save(Checkpoints(place, "t1"), 3)
        except InterruptedError:
            pass
    marker_is_there = done[:3] == ["write_atomic"] * 3
    found, passed_over = Checkpoints(place, "t1").newest_valid()
    assert found.update == (3 if marker_is_there else 2)
    assert len(passed_over) == (0 if marker_is_there or not done else 1)
    save(Checkpoints(place, "t1"), 4)
    assert len([path for path in saver.location.list() if path.endswith("complete.json")]) == 2
    assert len(names(saver)) == 2


def test_the_marker_names_format_sizes_and_sums(saver):
    save(saver, 3)
    marker = json.loads(saver.location.read_bytes("000001-update-3/complete.json"))
    assert marker == {
        "format": CHECKPOINT_VERSION,
        "update": 3,
        "env_steps": 30,
        "versions": VERSIONS,
        "files": {
            # printf 'weights 3' | sha256sum; printf '' | sha256sum
            "state.pt": {"size": 9, "sha256": "c0f72102132542cac58c33196b4a9f06d04a6454d48b0dc56ed8b00568fb7d84"},
            "env.bin": {"size": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        },
    }


@pytest.mark.parametrize("name", ["complete.json", "a/b", "../x", "", ".x"])
def test_a_file_name_that_is_no_plain_one_is_refused(saver, name):
    with pytest.raises(ValueError, match="a checkpoint's file can't be named"):
        saver.save(1, 1, {name: b""}, {})
    assert saver.location.list() == []


def test_later_checkpoints_can_be_given_up(place):
    checkpoints = Checkpoints(place, "t1", keep=3)
    for update in (2, 4, 6):
        checkpoints.save(update, 10 * update, {"state.pt": b"%d" % update}, VERSIONS)
    checkpoints.give_up_after(6)
    assert checkpoints.newest_valid()[0].update == 6
    checkpoints.give_up_after(3)
    assert [each.update for each in checkpoints.valid()[0]] == [2]
    assert checkpoints.save(4, 40, {"state.pt": b"again"}, VERSIONS).update == 4
    assert checkpoints.newest_valid()[0].update == 4
