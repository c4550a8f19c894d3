import pickle

import numpy as np
import pytest
from pydantic import ValidationError

from lop_ray.problems.schedule import NEVER, Schedule, ScheduleOptions


def options(every_steps=100, at="once", **more):
    return ScheduleOptions(every_steps=every_steps, at=at, **more)


def walk(schedule, steps, episodes=(), clock=0):
    """Tasks of all copies in every step, as a problem drives a schedule; `episodes[k]`: when copy k's end."""
    tasks = []
    for _ in range(steps):
        tasks.append(schedule.tasks.tolist())
        clock += 1
        if clock >= schedule.next_check:
            schedule.after_step(clock)
        ended = [k for k, ends in enumerate(episodes) if clock in ends]
        if ended:
            schedule.start_episodes(ended, clock)
    return np.array(tasks)


@pytest.mark.parametrize(("copies", "every"), [(1, 10), (4, 100), (4, 30), (3, 100), (7, 7)])
def test_at_once_every_step_has_the_task_of_the_trial_step_that_it_begins_at(copies, every):
    tasks = walk(Schedule(options(every), copies), 120)
    expected = [(k * copies) // every for k in range(120)]
    np.testing.assert_array_equal(tasks, np.repeat(np.array(expected)[:, None], copies, 1))


def test_at_once_a_problem_pays_one_comparison_between_changes():
    schedule = Schedule(options(100), 4)
    assert schedule.next_check == 25
    schedule.after_step(25)
    assert schedule.next_check == 50
    assert Schedule(options(None), 4).next_check == NEVER
    assert Schedule(options(100, at="episode_end"), 4).next_check == NEVER


def test_at_episode_end_a_copy_changes_more_than_so_many_steps_after_its_last_change():
    # One copy, 10 steps a task. The episode that ends after exactly 10 steps does not change it, the next one does,
    # at 13; then 23 is too early again (13 + 10), and 24 is not. This is `step - previous_change_time > change_time`
    # of the reference, asked when an episode is done.
    tasks = walk(Schedule(options(10, at="episode_end"), 1), 30, episodes=[{4, 10, 13, 17, 23, 24, 29}])[:, 0]
    assert tasks.tolist() == [0] * 13 + [1] * 11 + [2] * 6


def test_at_episode_end_copies_change_on_their_own_and_steps_are_those_of_all():
    # Two copies: 10 trial steps are 5 steps of both; the first end after more than 10 of them changes a copy.
    tasks = walk(Schedule(options(10, at="episode_end"), 2), 20, episodes=[{5, 6, 12}, {9, 14, 15}])
    assert tasks[:, 0].tolist() == [0] * 6 + [1] * 6 + [2] * 8
    assert tasks[:, 1].tolist() == [0] * 9 + [1] * 6 + [2] * 5


def test_an_episode_longer_than_a_task_changes_it_once():
    assert walk(Schedule(options(10, at="episode_end"), 1), 60, episodes=[{35, 40, 46}])[-1, 0] == 2


@pytest.mark.parametrize("at", ["once", "episode_end"])
@pytest.mark.parametrize("window", [0, 13])
def test_how_copies_are_shared_out_over_runners_changes_nothing(at, window):
    episodes = [{3, 9, 14, 20, 31}, {8, 16, 24, 32, 40}, {5, 22, 39}, {11, 12, 13, 37}]
    whole = walk(Schedule(options(40, at, window_steps=window), 4), 50, episodes)
    parts = [
        walk(Schedule(options(40, at, window_steps=window), 2, trial_copies=4), 50, episodes[i : i + 2]) for i in (0, 2)
    ]
    np.testing.assert_array_equal(np.hstack(parts), whole)
    assert whole.max() >= 2


def test_gradual_at_once_moves_with_every_step_and_ends_with_the_window():
    # 2 copies, a change every 20 trial steps (10 steps), over 8 of them (4 steps).
    schedule = Schedule(options(20, window_steps=8), 2)
    progress = []
    for clock in range(25):
        if clock >= schedule.next_check:
            assert list(schedule.after_step(clock)) == [0, 1]
        progress.append(schedule.progress(1, clock))
    assert progress == [1.0] * 10 + [0.0, 0.25, 0.5, 0.75] + [1.0] * 6 + [0.0, 0.25, 0.5, 0.75, 1.0]
    assert schedule.tasks.tolist() == [2, 2]


def test_gradual_at_episode_ends_moves_when_episodes_begin():
    schedule = Schedule(options(20, "episode_end", window_steps=8), 1)
    seen = {}
    for clock in (15, 21, 23, 26, 40, 45):
        changed = schedule.start_episodes([0], clock)
        seen[clock] = (changed, schedule.tasks.tolist(), schedule.progress(0, clock))
    assert seen == {
        15: ([], [0], 1.0),
        21: ([0], [1], 0.0),
        23: ([0], [1], 0.25),
        26: ([0], [1], 0.625),
        40: ([0], [1], 1.0),
        45: ([0], [2], 0.0),
    }


def test_the_same_task_again_changes_the_number_but_not_which_task_it_is():
    schedule = Schedule(options(10, tasks="same"), 1)
    assert walk(schedule, 35)[:, 0].tolist() == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 5
    assert [schedule.which(task) for task in range(4)] == [0, 0, 0, 0]
    assert [Schedule(options(10), 1).which(task) for task in range(4)] == [0, 1, 2, 3]


def test_one_task_comes_again_as_often_as_asked_for():
    schedule = Schedule(options(10, tasks="same"), 1, num_tasks=1)
    assert walk(schedule, 35)[-1].tolist() == [3]


@pytest.mark.parametrize("at", ["once", "episode_end"])
def test_copies_stay_in_the_last_task(at):
    schedule = Schedule(options(10, at), 2, num_tasks=3)
    ends = set(range(1, 101))
    assert walk(schedule, 100, [ends, ends])[-1].tolist() == [2, 2]
    assert schedule.next_check == NEVER


@pytest.mark.parametrize("at", ["once", "episode_end"])
@pytest.mark.parametrize("window", [0, 17])
def test_a_restored_position_has_the_same_future(at, window):
    episodes = [set(range(3, 300, 7)), set(range(5, 300, 11))]
    for stop in (10, 26, 41):
        schedule, restored = (Schedule(options(50, at, window_steps=window), 2) for _ in range(2))
        walk(schedule, stop, episodes)
        restored.set_state(pickle.loads(pickle.dumps(schedule.get_state())), stop)
        assert restored.next_check == schedule.next_check
        assert restored.progress(0, stop) == schedule.progress(0, stop)
        futures = [walk(each, 100, episodes, clock=stop) for each in (schedule, restored)]
        np.testing.assert_array_equal(*futures)
        assert futures[0].max() >= 3


def test_a_state_of_other_copies_is_refused():
    with pytest.raises(ValueError, match="of 3 copies, this problem has 2"):
        Schedule(options(), 2).set_state(Schedule(options(), 3).get_state(), 0)


def test_restart_is_the_beginning():
    schedule = Schedule(options(10), 2)
    first = walk(schedule, 30)
    schedule.restart()
    np.testing.assert_array_equal(walk(schedule, 30), first)


def test_tasks_are_a_new_read_only_array_after_a_change_and_the_same_one_otherwise():
    schedule = Schedule(options(10, "episode_end"), 2)
    before = schedule.tasks
    schedule.start_episodes([0, 1], 3)
    assert schedule.tasks is before
    schedule.start_episodes([1], 30)
    assert (before.tolist(), schedule.tasks.tolist()) == ([0, 0], [0, 1])
    assert schedule.tasks.dtype == np.int32
    assert not schedule.tasks.flags.writeable


@pytest.mark.parametrize(
    ("every", "at", "steps", "most"),
    [
        (None, "once", 1000, 1),
        (10, "once", 10, 1),
        (10, "once", 11, 2),
        (10, "episode_end", 11, 1),
        (10, "episode_end", 12, 2),
        (2_000_000, "once", 20_000_000, 10),
        (2_000_000, "episode_end", 20_000_000, 10),
    ],
)
def test_the_largest_number_of_tasks_of_a_run(every, at, steps, most):
    assert options(every, at).most_tasks(steps) == most
    if steps < 100:  # an episode may end after every step
        ends = set(range(1, steps + 1))
        assert 1 + walk(Schedule(options(every, at), 1), steps, [ends]).max() == most


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"every_steps": 0}, "greater than or equal to 1"),
        ({"every_steps": 1.5}, "integer"),
        ({"at": "end"}, "'episode_end' or 'once'"),
        ({"window_steps": 101, "every_steps": 100}, "window_steps=101 is longer than every_steps=100"),
        ({"window_steps": 5, "every_steps": None}, "no effect with every_steps=null"),
        ({"tasks": "old"}, "'new' or 'same'"),
        ({"every": 3}, "every"),
    ],
)
def test_bad_options_are_refused(bad, message):
    with pytest.raises(ValidationError, match=message):
        ScheduleOptions(**bad)


def test_changes_within_one_step_of_all_copies_are_refused():
    with pytest.raises(ValueError, match="every_steps=7 is less than the 8 steps"):
        Schedule(options(7), 4, trial_copies=8)
