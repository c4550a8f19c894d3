"""Names of parts, and which of them count."""

import pytest

from lop_ray.results.parts import Part, check_trial_id, split_superseded


def test_a_name_carries_the_range_and_is_read_back():
    assert Part(0, 41).name == "part-00000000-00000041.parquet"
    assert Part.of_name(Part(7, 7).name) == Part(7, 7)
    assert [part.joined for part in (Part(7, 7), Part(7, 8))] == [False, True]


@pytest.mark.parametrize("name", [".part-00000000-00000041.parquet.ab12.tmp", "part-0.parquet", "x.parquet"])
def test_temporary_and_foreign_names_are_no_parts(name):
    assert Part.of_name(name) is None


def test_a_part_inside_the_range_of_another_is_superseded():
    parts = [Part(0, 3), Part(0, 0), Part(1, 2), Part(2, 2), Part(3, 3), Part(4, 4), Part(5, 9), Part(5, 5), Part(9, 9)]
    live, superseded = split_superseded(reversed(parts))
    assert live == [Part(0, 3), Part(4, 4), Part(5, 9)]
    assert sorted(superseded) == [Part(0, 0), Part(1, 2), Part(2, 2), Part(3, 3), Part(5, 5), Part(9, 9)]


@pytest.mark.parametrize("trial_id", ["", "12", "1e5", "a/b", "a=b", "..", ".a", "a b"])
def test_ids_that_a_path_or_a_reader_would_misread_are_refused(trial_id):
    with pytest.raises(ValueError, match="must begin with a letter"):
        check_trial_id(trial_id)
    assert check_trial_id("t0f3-a.b_c") == "t0f3-a.b_c"
