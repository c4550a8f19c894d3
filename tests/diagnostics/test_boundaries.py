"""Margins at task boundaries: on which observations, with which weights, and what is counted."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from lop_ray.diagnostics import Diagnosable, DiagnosticSuite
from lop_ray.diagnostics.boundaries import BoundaryOptions, BoundaryWatch, boundary_columns
from lop_ray.diagnostics.registry import find_diagnostic
from lop_ray.diagnostics.units import Margins
from lop_ray.networks import MLP, NetworkOptions

COPIES, STEPS, WIDTH = 2, 6, 3


def network(seed: int) -> MLP:
    """Other weights for another seed."""
    return MLP(WIDTH, 1, NetworkOptions(hidden=(9, 5)), seed=seed, name="value")


class Run(Diagnosable):
    """A training whose weights after update u are those of seed u, on given tasks of steps."""

    def __init__(self, tasks: list[list[int]], *, copies: int = COPIES, steps: int = STEPS):
        """`tasks`: per step, the task of each copy; the last row is that of the step after the last update."""
        self.tasks = np.array(tasks, np.int32).reshape(-1, copies)
        self.observations = np.random.default_rng(0).standard_normal((len(tasks), copies, WIDTH), np.float32)
        self.observations += 3 * np.sin(self.tasks[:, :, None] + np.arange(WIDTH)).astype(np.float32)  # tasks differ
        self.copies, self.length, self.updates = copies, steps, 0
        self.net = network(0)

    def networks(self):
        return {"value": self.net}

    def update(self) -> None:
        self.updates += 1
        self.net.load_state_dict(network(self.updates).state_dict())

    def steps(self):
        first = (self.updates - 1) * self.length
        return self.observations[first : first + self.length], self.tasks[first : first + self.length + 1]

    def of_task(self, task: int, until: int | None = None) -> np.ndarray:
        """Observations of a task in time order, copies in order within a step."""
        rows = zip(self.observations[:until], self.tasks[:until], strict=True)
        return np.array([o for step, tasks in rows for o, t in zip(step, tasks, strict=True) if t == task])


def one_copy(*tasks: int) -> list[list[int]]:
    return [[task] for task in tasks]


def margins_by_hand(seed: int, observations: np.ndarray) -> list[np.ndarray]:
    """The largest pre-activation of every unit over the observations, layer by layer, in numpy."""
    net, values, found = network(seed), observations.astype(np.float64), []
    for linear in (net.body[0], net.body[2]):
        z = values @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        found.append(z.max(0))
        values = np.maximum(z, 0)
    return found


def expected_rows(task: int, samples: int, updates: int, old_seed: int, new_seed: int, old, new) -> list[dict]:
    moments = [margins_by_hand(*pair) for pair in ((old_seed, old), (old_seed, new), (new_seed, new))]
    rows = []
    for layer, (a, b, c) in enumerate(zip(*moments, strict=True)):
        row = {"task": task, "network": "value", "layer": layer, "units": len(a)}
        row |= {"samples": samples, "adaptation_updates": updates}
        for name, margin in (("old", a), ("predictive", b), ("actual", c)):
            row[f"{name}_dead"] = sum(m < 0 for m in margin)
            row[f"{name}_at_risk"] = sum(0 <= m < 0.1 for m in margin)
            row[f"{name}_mean_margin"] = pytest.approx(margin.mean(), rel=1e-5)
        row["killed_by_shift"] = sum(x >= 0 > y for x, y in zip(a, b, strict=True))
        row["revived_by_shift"] = sum(y >= 0 > x for x, y in zip(a, b, strict=True))
        row["killed_by_adaptation"] = sum(y >= 0 > z for y, z in zip(b, c, strict=True))
        row["revived_by_adaptation"] = sum(z >= 0 > y for y, z in zip(b, c, strict=True))
        rows.append(row)
    return rows


def follow(run: Run, updates: int, **options: float) -> dict[int, list[dict]]:
    """Rows by update."""
    suite = DiagnosticSuite({"boundaries": options})
    rows = {}
    for update in range(1, updates + 1):
        suite.prepare(update, run)
        run.update()
        found = suite.diagnose(update, run, torch.empty(0))
        assert set(found.tables()) <= {"boundaries"}
        if found.boundaries:
            rows[update] = found.boundaries
    return rows


def test_counts_by_hand():
    margin = [torch.tensor(values) for values in ([1.0, -1, -1, 0.05], [-1.0, 2, -1, 0.0], [-1.0, -2, 3, 0.5])]
    row = boundary_columns(*(Margins(each, each) for each in margin))
    assert row == {
        "old_dead": 2,
        "old_at_risk": 1,
        "old_mean_margin": pytest.approx(-0.2375),
        "predictive_dead": 2,
        "predictive_at_risk": 1,
        "predictive_mean_margin": 0.0,
        "actual_dead": 2,
        "actual_at_risk": 0,
        "actual_mean_margin": 0.125,
        "killed_by_shift": 1,
        "revived_by_shift": 1,
        "killed_by_adaptation": 1,
        "revived_by_adaptation": 1,
    }
    assert boundary_columns(*(Margins(each, each) for each in margin), at_risk=0.04)["old_at_risk"] == 0


def test_a_change_within_an_update():
    """Steps 0-8 are of task 0, so the change comes in update 2; update 3 is the first that task 1 has to itself."""
    run = Run([*[[0, 0]] * 9, *[[1, 1]] * 16])
    rows = follow(run, 4, samples=7)
    old, new = run.of_task(0)[-7:], run.of_task(1)[:7]
    assert rows == {3: expected_rows(1, 7, 2, 1, 3, old, new)}
    for row in rows[3]:
        change = sum(row[f"killed_by_{cause}"] - row[f"revived_by_{cause}"] for cause in ("shift", "adaptation"))
        assert row["actual_dead"] - row["old_dead"] == change
    for cause in ("killed_by_shift", "revived_by_shift", "killed_by_adaptation", "revived_by_adaptation"):
        assert any(row[cause] for row in rows[3]), cause


def test_a_change_between_updates_has_the_weights_at_the_end_of_the_old_task():
    """Even if something (an intervention) changes them before the next update."""
    run = Run([*[[0, 0]] * 6, *[[1, 1]] * 7])
    suite = DiagnosticSuite({"boundaries": {"samples": 5}})
    suite.prepare(1, run)
    run.update()
    assert suite.diagnose(1, run, torch.empty(0)).boundaries == []
    run.net.load_state_dict(network(77).state_dict())
    suite.prepare(2, run)
    run.update()
    rows = suite.diagnose(2, run, torch.empty(0)).boundaries
    assert rows == expected_rows(1, 5, 1, 1, 2, run.of_task(0)[-5:], run.of_task(1)[:5])


def test_it_waits_until_the_new_task_has_given_enough():
    run = Run(one_copy(*[0] * 8, *[1] * 17), copies=1)
    rows = follow(run, 4, samples=12)
    # After update 3 there are 10 steps of task 1; after update 4 there are 16. The old task had only 8.
    assert rows == {4: expected_rows(1, 8, 3, 1, 4, run.of_task(0)[-8:], run.of_task(1)[:8])}


def test_copies_that_change_at_different_times():
    """The first one's change (step 8) is the boundary; task 1 has an update to itself once all have changed."""
    run = Run([*[[0, 0]] * 8, *[[0, 1]] * 5, *[[1, 1]] * 12])
    rows = follow(run, 4, samples=6)
    old = run.of_task(0, until=8)[-6:]
    assert rows == {4: expected_rows(1, 6, 3, 1, 4, old, run.of_task(1)[:6])}


def test_a_task_too_short_is_closed_by_the_next_change():
    run = Run(one_copy(*[0] * 6, *[1] * 8, *[2] * 17), copies=1)
    rows = follow(run, 5, samples=10)
    # Task 1: steps 6-13, updates 2 and 3. Task 2 comes in update 3, and has update 4 to itself.
    first = expected_rows(1, 6, 2, 1, 3, run.of_task(0), run.of_task(1)[:6])
    second = expected_rows(2, 8, 2, 2, 4, run.of_task(1), run.of_task(2)[:8])
    assert rows == {3: first, 4: second}


def test_several_changes_within_one_update():
    run = Run(one_copy(0, 0, 1, 1, 2, 2, *[2] * 7), copies=1)
    rows = follow(run, 2, samples=2)
    first = expected_rows(1, 2, 1, 0, 1, run.of_task(0), run.of_task(1))
    second = expected_rows(2, 2, 2, 0, 2, run.of_task(1), run.of_task(2)[:2])
    assert rows == {1: first, 2: second}


def test_the_same_task_again_is_a_boundary_like_any_other():
    run = Run(one_copy(*[0] * 6, *[1] * 6, *[0] * 7), copies=1)
    rows = follow(run, 3, samples=4)
    assert {update: {row["task"] for row in some} for update, some in rows.items()} == {2: {1}, 3: {0}}
    assert rows[3] == expected_rows(0, 4, 1, 2, 3, run.of_task(1)[-4:], run.observations[12:16, 0])


def test_no_change_no_rows():
    assert follow(Run([[3, 3]] * 25), 4) == {}


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_restart_at_any_update_gives_the_same_rows(stop):
    tasks = [*[[0, 0]] * 9, *[[0, 1]] * 3, *[[1, 1]] * 6, *[[2, 2]] * 19]
    straight = follow(Run(tasks), 6, samples=15)
    assert sorted(straight) == [3, 5]
    run, rows = Run(tasks), {}
    suite = DiagnosticSuite({"boundaries": {"samples": 15}})
    for update in range(1, 7):
        suite.prepare(update, run)
        run.update()
        found = suite.diagnose(update, run, torch.empty(0)).boundaries
        rows |= {update: found} if found else {}
        if update == stop:
            state = copy.deepcopy(suite.state_dict())
            suite = DiagnosticSuite({"boundaries": {"samples": 15}})
            suite.load_state_dict(state, run.networks())
    assert rows == straight


def test_what_is_kept_is_no_larger_than_asked_for():
    watch, nets = BoundaryWatch(BoundaryOptions(samples=4)), {"value": network(0)}
    for update in range(1, 4):
        watch.follow(update, np.zeros((50, 2, WIDTH), np.float32), np.zeros((51, 2), int), before=nets, now=nets)
    state = watch.state_dict()
    assert state["latest"].shape == (4, WIDTH)
    assert state["latest"].base is None  # no view that would keep the whole update
    assert state["open"] == []


def test_nothing_is_changed_and_nothing_aliased():
    run = Run([*[[0, 0]] * 9, *[[1, 1]] * 10])
    seen, state = run.observations.copy(), torch.get_rng_state()
    suite = DiagnosticSuite({"boundaries": {"samples": 30}})
    for update in (1, 2):
        suite.prepare(update, run)
        run.update()
        suite.diagnose(update, run, torch.empty(0))
    assert np.array_equal(run.observations, seen)
    assert torch.equal(torch.get_rng_state(), state)
    kept = copy.deepcopy(suite.state_dict()["boundaries"])
    run.observations[:] = 9
    with torch.no_grad():
        for parameter in run.net.parameters():
            parameter.zero_()
    now = suite.state_dict()["boundaries"]
    for one, other in zip(kept["open"], now["open"], strict=True):
        assert np.array_equal(one["old"], other["old"])
        assert np.array_equal(one["new"], other["new"])
        torch.testing.assert_close(one["networks"], other["networks"])
    assert np.array_equal(kept["latest"], now["latest"])


def test_numbers_that_cannot_be_had_are_said_once():
    run = Run([*[[0, 0]] * 6, *[[1, 1]] * 19])
    run.observations[7] = math.nan
    suite, failed = DiagnosticSuite({"boundaries": {"samples": 5}}), []
    for update in (1, 2, 3):
        suite.prepare(update, run)
        run.update()
        rows = suite.diagnose(update, run, torch.empty(0))
        assert rows.boundaries == []
        failed += [(update, row["probe"], row["metric"]) for row in rows.probes]
    assert failed == [(2, "boundaries", "failed")]


def test_it_is_for_runs_only():
    with pytest.raises(ValueError, match=r"boundaries follows a run .* can only be switched on in a grid"):
        find_diagnostic("boundaries")
    with pytest.raises(ValueError, match=r"tasks must be \[T \+ 1, N\], not \[6, 2\] for \[6, 2, 3\]"):
        BoundaryWatch(BoundaryOptions()).follow(
            1, np.zeros((6, 2, 3), np.float32), np.zeros((6, 2), int), before={}, now={}
        )
    assert BoundaryOptions().needs() == {"before", "steps"}
    assert "steps" not in type("Silent", (Diagnosable,), {"networks": lambda self: {"q": nn.Linear(1, 1)}}).offers()
