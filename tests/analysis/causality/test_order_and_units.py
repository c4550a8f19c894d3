"""Order in time, layers and single units on synthetic runs: what was built in is found, and its reverse is as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lop_ray.analysis.causality.histories import read_histories
from lop_ray.analysis.causality.margin_profile import interpretability, margin_profile
from lop_ray.analysis.causality.temporal_order import temporal_order
from lop_ray.analysis.causality.trajectories import unit_trajectories
from lop_ray.analysis.causality.verdict import Verdict
from lop_ray.results import connect
from tests.analysis.causality.store import UNITS, Rows, Run, at_ends, margins_of
from tests.analysis.store import write_slippery_store

TASKS = 40
SEEDS = range(6)


def by_hypothesis(verdicts: list[Verdict]) -> dict[str, bool | None]:
    return {each.hypothesis: each.supported for each in verdicts}


def ordered(seed: int, leader: str) -> Run:
    """Deaths and rank of which one follows the other by a task; `neither`: unrelated."""
    draw = np.random.default_rng([seed, len(leader)])
    first, own = draw.normal(size=(2, TASKS))
    second = np.concatenate([own[:1], -0.9 * first[:-1] + 0.3 * own[1:]]) if leader != "neither" else own
    dead, rank = (first, second) if leader != "rank" else (second, first)
    dead = np.round(8 + 2.5 * dead).clip(0, UNITS)
    return Run(
        margins_of(at_ends(dead), draw),
        at_ends(50 + 5 * rank),
        draw.uniform(0.4, 0.6, TASKS),
        hessian=at_ends(0.5 + 0.05 * rank),
    )


def test_deaths_that_come_first_lead():
    found = temporal_order(Rows({("ns", seed): ordered(seed, "dead") for seed in SEEDS}).connect())
    verdicts = by_hypothesis(found.verdicts)
    assert found.rank == "Hessian rank"
    assert verdicts["dead units predict the Hessian rank"] is True
    assert verdicts["dead units lead the Hessian rank"] is True
    assert verdicts["deaths precede a fall of the Hessian rank more than they follow it"] is True
    assert found.granger.forward.effect.high < 0  # more dead units, a lower rank
    assert list(found.table.index) == list(SEEDS)


def test_a_rank_that_comes_first_speaks_against_deaths():
    verdicts = by_hypothesis(
        temporal_order(Rows({("ns", seed): ordered(seed, "rank") for seed in SEEDS}).connect()).verdicts
    )
    assert verdicts["the Hessian rank predicts dead units"] is True
    assert verdicts["dead units lead the Hessian rank"] is False
    assert verdicts["deaths precede a fall of the Hessian rank more than they follow it"] is False


def test_unrelated_series_support_neither_direction():
    found = temporal_order(
        Rows({("ns", seed): ordered(seed, "neither") for seed in range(10)}).connect(), moment="start"
    )
    verdicts = by_hypothesis(found.verdicts)
    assert verdicts["dead units predict the Hessian rank"] is False  # in fewer than half of the runs, for certain
    assert verdicts["dead units lead the Hessian rank"] is None
    assert found.moment == "start"


def test_a_rank_that_falls_with_deaths_is_seen_by_the_event_study():
    runs = {}
    for seed in SEEDS:
        draw = np.random.default_rng(seed)
        jumps = np.zeros(TASKS)
        jumps[draw.choice(np.arange(5, TASKS - 5), 5, replace=False)] = 3
        dead = np.cumsum(jumps)
        rank = 80 - 3 * dead + draw.normal(0, 0.3, TASKS)
        runs["ns", seed] = Run(margins_of(at_ends(dead), draw), at_ends(rank), draw.uniform(size=TASKS))
    found = temporal_order(Rows(runs).connect())
    assert found.rank == "effective rank"
    assert by_hypothesis(found.verdicts)["when units die, the effective rank falls"] is True
    assert found.events.events.sum() >= 20


def test_no_trial_with_both_series_is_refused():
    run = Run(np.ones((4, 1, 3)), np.full(4, np.nan), np.ones(2))
    with pytest.raises(ValueError, match="no trial of ns has dead units and effective rank at the end of its tasks"):
        temporal_order(Rows({("ns", 0): run}).connect())


def eroding(seed: int, layers: int = 4, *, fate: str = "margin") -> Run:
    """Margins that sink, faster in deeper layers; or jump below 0 whatever they were (fate "chance")."""
    draw = np.random.default_rng([seed, len(fate)])
    tasks = 16
    start = draw.uniform(0.2, 2.0, size=(layers, UNITS))
    pace = 0.04 * (1 + np.arange(layers))[:, None] * np.ones(UNITS)
    margins = start - pace * np.arange(2 * tasks)[:, None, None] + draw.normal(0, 0.02, (2 * tasks, layers, UNITS))
    if fate == "chance":
        alive = draw.geometric(0.05, size=(layers, UNITS))
        margins = np.where(
            np.arange(2 * tasks)[:, None, None] < alive, start + draw.normal(0, 0.5, margins.shape) ** 2, -1
        )
    dead = 100 * (margins < 0).mean(axis=(1, 2))
    return Run(margins, 90 - 0.8 * dead, 0.9 - 0.005 * dead[1::2] + draw.normal(0, 0.002, tasks))


def test_margins_layer_by_layer():
    found = margin_profile(Rows({("ns", seed): eroding(seed) for seed in SEEDS}).connect())
    verdicts = by_hypothesis(found.verdicts)
    assert verdicts["dead units accumulate over tasks"] is True
    assert verdicts["margins erode over tasks"] is True
    assert verdicts["deeper layers lose more units"] is True
    assert verdicts["a small margin at a task's start foretells death by its end"] is True
    assert verdicts["where units die the rank falls"] is True
    assert verdicts["where units die tasks are learned worse"] is True
    assert [interpretability(layer) for layer in range(4)] == ["high", "medium", "medium", "low"]
    assert found.layers.loc[(4, "low", "mean margin, change over the run"), "mean"] == pytest.approx(
        -0.16 * 30, rel=0.02
    )
    assert found.layers.loc[(1, "high", "mean margin, change over the run"), "mean"] == pytest.approx(
        -0.04 * 30, rel=0.02
    )
    # Verdicts rest on the first three layers.
    eroded = next(each for each in found.verdicts if each.hypothesis == "margins erode over tasks")
    assert eroded.value == pytest.approx(-0.08 * 30, rel=0.02)
    assert "layers 1 to 3" in eroded.statistic
    assert found.rocs[-1].auc.value > 0.95


def test_a_margin_that_foretells_nothing_has_an_area_of_one_half():
    found = margin_profile(Rows({("ns", seed): eroding(seed, fate="chance") for seed in SEEDS}).connect())
    assert by_hypothesis(found.verdicts)["a small margin at a task's start foretells death by its end"] is not True
    assert found.rocs[-1].auc.value == pytest.approx(0.5, abs=0.06)
    assert found.rocs[-1].cases > 100


def test_deaths_and_area_by_hand():
    # Three units over two tasks: unit 0 dies within task 0, unit 1 within task 1, unit 2 lives.
    margins = np.array([[0.1, 0.5, 0.9], [-0.1, 0.4, 0.9], [-0.2, 0.3, 0.2], [0.3, -0.1, 0.2]])[:, None, :]
    found = margin_profile(Rows({("ns", 0): Run(margins, np.ones(4), np.ones(2))}).connect())
    assert found.dead[0][0].tolist() == pytest.approx([100 / 3, 100 / 3])
    # Alive at a start: task 0 (0.1, 0.5, 0.9), of which the first dies; task 1 (0.3, 0.2), of which the first dies.
    # Pairs: 0.1 below 0.5, 0.9 and 0.2; 0.3 below 0.5 and 0.9 but not 0.2: 5 of 6.
    assert found.rocs[0].of_runs.tolist() == [pytest.approx(5 / 6)]
    history = read_histories(Rows({("ns", 0): Run(margins, np.ones(4), np.ones(2))}).connect())[0]
    assert history.deaths().tolist() == [[1, 0], [3, 1]]
    assert history.recoveries().tolist() == [[3, 0]]
    assert history.task_starts().tolist() == [0, 2]
    assert history.task_ends().tolist() == [1, 3]


def test_layers_of_leaky_units_are_refused():
    config = {"network": {"activation": "leaky_relu"}}
    run = eroding(0)
    leaky = Run(run.margins, run.rank, run.outcome, config=config)
    with pytest.raises(ValueError, match="in leaky a unit with a margin below 0 still learns"):
        margin_profile(Rows({("leaky", 0): leaky}).connect())


def trajectory(seed: int, *, gradual: bool, pushed: bool, at_changes: bool, recover: bool) -> Run:
    """Units that die at times of their own, in ways that are known."""
    draw = np.random.default_rng([seed, gradual, pushed, at_changes, recover])
    times, layers = 40, 2
    when = 2 * draw.integers(5, 17, size=(layers, UNITS)) + (0 if at_changes else 1)  # even: the first of a task
    dies = draw.random((layers, UNITS)) < 0.5
    clock = np.arange(times)[:, None, None]
    before = when - clock
    alive = draw.uniform(0.9, 1.1, size=(times, layers, UNITS))
    sinking = np.where(gradual & dies & (before > 0) & (before <= 4), 0.2 * before, alive)
    gone = dies & (clock >= when) & ~(recover & (clock >= when + 3))
    margins = np.where(gone, -0.5, sinking)
    pushes = draw.normal(0, 1, size=margins.shape) + 2.0 * (pushed & dies & (before == 1))
    gradients = draw.uniform(0.8, 1.2, size=margins.shape) * np.where(dies & (before == 1) & pushed, 0.2, 1.0)
    outcome = np.ones(times // 2)
    return Run(margins, np.ones(times), outcome, pushes=pushes, gradients=gradients)


def test_how_units_die_is_read_from_their_histories():
    runs = {("ns", seed): trajectory(seed, gradual=True, pushed=True, at_changes=True, recover=False) for seed in SEEDS}
    found = unit_trajectories(Rows(runs).connect())
    assert by_hypothesis(found.verdicts) == {
        "margins decline before units die": True,
        "deaths fall on changes of the task": True,
        "most units that die stay dead": True,
        "the gradient pushes units to their death": True,
        "units are starved of gradient before they die": True,
    }
    assert found.table["recovered"].tolist() == [0.0] * len(SEEDS)
    assert found.table["across"].tolist() == [1.0] * len(SEEDS)
    assert found.dying.shape == (len(SEEDS), 7)
    assert (found.dying[:, 3] < 0).all()


def test_the_opposite_comes_out_against():
    runs = {
        ("ns", seed): trajectory(seed, gradual=False, pushed=False, at_changes=False, recover=True) for seed in SEEDS
    }
    verdicts = by_hypothesis(unit_trajectories(Rows(runs).connect()).verdicts)
    assert verdicts["margins decline before units die"] is None
    assert verdicts["deaths fall on changes of the task"] is False
    assert verdicts["most units that die stay dead"] is False
    assert verdicts["the gradient pushes units to their death"] is None


def test_without_gradients_nothing_is_said_of_them():
    run = eroding(0)
    verdicts = unit_trajectories(Rows({("ns", 0): run, ("ns", 1): eroding(1)}).connect()).verdicts
    assert not any("gradient" in each.hypothesis for each in verdicts)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no rows in table neurons"):
        unit_trajectories(Rows().connect())
    with pytest.raises(ValueError, match="window is 1"):
        unit_trajectories(Rows().connect(), window=1)


def test_on_slippery_ant_by_its_name_alone(tmp_path: Path):
    write_slippery_store(tmp_path, variants=("ns",), seeds=2, tasks=4)
    store = connect(tmp_path, "slippery_ant_grid")
    assert len(margin_profile(store).dead) == 2
    assert unit_trajectories(store, window=2).verdicts
    assert temporal_order(store).granger.left_out  # four tasks are no series
