import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from lop_ray.problems.friction import FrictionOptions, Frictions, SlipperyOptions, read_frictions
from lop_ray.seeding import derive_seed


def frictions(seed=0, count=10, **options):
    made = Frictions(FrictionOptions(**options), seed)
    return [made[task] for task in range(count)]


def test_random_frictions_are_log_uniform_on_the_papers_range():
    drawn = [value for seed in range(40) for value in frictions(seed, 25)]
    assert min(drawn) >= 0.02
    assert max(drawn) <= 2.0
    scaled = (np.log(drawn) - math.log(0.02)) / math.log(100)
    assert stats.kstest(scaled, "uniform").pvalue > 0.01
    assert len(set(drawn)) == 1000


def test_a_friction_depends_on_seed_and_task_alone():
    made = Frictions(FrictionOptions(), 3)
    late = made[7]
    assert [made[task] for task in range(10)] == frictions(3)
    assert frictions(3)[7] == late
    assert not set(frictions(3)) & set(frictions(4))
    # Written out: the quantile that the stream of this task draws first.
    u = np.random.default_rng(derive_seed(3, "tasks", "friction", 7)).random()
    assert late == pytest.approx(0.02 * 100**u, rel=1e-12)


def test_the_first_friction_may_be_set_and_the_others_stay():
    assert frictions(3, first=1.0) == [1.0, *frictions(3)[1:]]


@pytest.mark.parametrize("distance", [0.0, 0.3, 1.0, 2.3])
def test_each_friction_has_its_distance_from_the_one_before(distance):
    for seed in range(5):
        logs = np.log(frictions(seed, 200, distance=distance))
        np.testing.assert_allclose(np.abs(np.diff(logs)), distance, rtol=1e-9, atol=1e-12)
        assert logs.min() >= math.log(0.02) - 1e-12
        assert logs.max() <= math.log(2) + 1e-12


def test_distances_go_up_and_down_and_all_doses_of_a_seed_begin_alike():
    near, far = (np.log(frictions(0, 400, distance=d)) for d in (0.1, 1.0))
    assert near[0] == far[0] == math.log(frictions(0)[0])
    inside = (far[:-1] > math.log(0.02) + 1) & (far[:-1] < math.log(2) - 1)
    ups = (np.diff(far) > 0)[inside]
    assert 0.35 < ups.mean() < 0.65
    assert frictions(0, distance=1.0, first=0.2)[0] == 0.2


def test_distances_can_be_asked_for_in_any_order():
    made = Frictions(FrictionOptions(distance=0.5), 1)
    assert made[9] == frictions(1, distance=0.5)[9]
    assert [made[task] for task in range(10)] == frictions(1, distance=0.5)


def test_listed_frictions_are_taken_as_they_are():
    made = Frictions(FrictionOptions(values=[0.296, 0.24, 0.039]), 5)
    assert (made.count, [made[task] for task in range(3)]) == (3, [0.296, 0.24, 0.039])
    by_seed = FrictionOptions(values=[[0.1, 0.2], [0.3, 0.4, 0.5]])
    assert [Frictions(by_seed, seed).count for seed in (0, 1)] == [2, 3]
    assert Frictions(by_seed, 1)[2] == 0.5
    with pytest.raises(ValueError, match=r"seeds 0\.\.1, and none for seed 2"):
        Frictions(by_seed, 2)


def test_between_tasks_friction_moves_on_a_logarithmic_scale():
    made = Frictions(FrictionOptions(values=[0.02, 2.0]), 0)
    assert [made.between(0, 1, progress) for progress in (0.0, 0.5, 0.75, 1.0)] == pytest.approx(
        [0.02, 0.2, 0.02 * 100**0.75, 2.0], rel=1e-12
    )
    assert made.between(0, 1, 1.0) == 2.0
    assert made.between(1, 1, 0.3) == 2.0


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.3\n0.2  # slippery\n\n# nothing\n1\n", (0.3, 0.2, 1.0)),
        ("0.3, 0.2,1", (0.3, 0.2, 1.0)),
        ("0.3 0.2\n1e-1 2\n", ((0.3, 0.2), (0.1, 2.0))),
    ],
)
def test_files_become_values(text, values, tmp_path):
    path = tmp_path / "frictions.txt"
    path.write_text(text)
    options = FrictionOptions(file=str(path))
    assert options.values == values
    assert options.file is None
    path.unlink()  # what a trial keeps needs no file
    assert FrictionOptions(**options.model_dump(mode="json")) == options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.3\nslow\n", r"line 2: 'slow' holds something that is no number"),
        ("0.3\n-1\n", r"line 2: '-1': a friction should be a number above 0"),
        ("0.3 nan\n", r"line 1: '0\.3 nan': a friction should be a number above 0"),
        ("# only a comment\n", "the list of frictions is empty"),
    ],
)
def test_bad_files_are_refused_with_their_line(text, message, tmp_path):
    path = tmp_path / "frictions.txt"
    path.write_text(text)
    with pytest.raises(ValidationError, match=message):
        FrictionOptions(file=str(path))


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the frictions in .*none: No such file"):
        read_frictions(str(tmp_path / "none"))
    (tmp_path / "pickle").write_bytes(b"\x80\x04\x95\xcd")
    with pytest.raises(ValueError, match=r"cannot read the frictions in .*pickle: it is no text"):
        read_frictions(str(tmp_path / "pickle"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"low": 0.0}, "greater than 0"),
        ({"high": -1.0}, "greater than 0"),
        ({"low": "slippery"}, "valid number"),
        ({"high": float("nan")}, "finite"),
        ({"low": 2.0, "high": 0.02}, "low=2.0 is not below high=0.02"),
        ({"first": 0.0}, "greater than 0"),
        ({"distance": -0.1}, "greater than or equal to 0"),
        ({"distance": 2.4}, "more than half"),
        ({"distance": 1.0, "first": 3.0}, r"first=3.0 is outside \[0.02, 2.0\]"),
        ({"values": [0.3, 0.0]}, "greater than 0"),
        ({"values": [0.3, "x"]}, "valid number"),
        ({"values": [[0.3], [-0.1]]}, "greater than 0"),
        ({"values": []}, "empty"),
        ({"values": [[0.3], []]}, "empty"),
        ({"values": [0.3], "low": 0.1}, "low has no effect with listed frictions"),
        ({"values": [0.3], "first": 0.1}, "first has no effect"),
        ({"values": [0.3], "file": "frictions.txt"}, "two ways to say the same"),
    ],
)
def test_bad_options_are_refused(bad, message):
    with pytest.raises(ValidationError, match=message):
        FrictionOptions(**bad)


def test_lists_have_to_last_for_the_run():
    listed = SlipperyOptions(friction={"values": [0.3, 0.2]})
    listed.check_tasks(2)
    with pytest.raises(ValueError, match="2 frictions, but the run needs 3"):
        listed.check_tasks(3)
    with pytest.raises(ValueError, match="1 frictions for seed 1, but the run needs 2"):
        SlipperyOptions(friction={"values": [[0.3, 0.2], [0.1]]}).check_tasks(2)
    SlipperyOptions(friction={"values": [0.3]}, schedule={"tasks": "same"}).check_tasks(10)
    SlipperyOptions().check_tasks(10**6)
