"""The experiments on synthetic runs: each verdict is True where the causes are as its hypothesis says, False where they
are the other way round, and undecided where nothing can be seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lop_ray.analysis.causality.killed_units import killed_units
from lop_ray.analysis.causality.prevent_death import prevent_death
from lop_ray.analysis.causality.same_task import same_task
from lop_ray.analysis.causality.task_distance import task_distance
from lop_ray.analysis.causality.verdict import Verdict
from lop_ray.results import connect
from tests.analysis.causality.store import UNITS, Rows, Run, at_ends, margins_of
from tests.analysis.store import write_slippery_store

TASKS = 10
SEEDS = range(5)


def run(
    seed: int,
    dying: float,
    *,
    harm: float = 1.0,
    config: dict | None = None,
    noise: float = 0.01,
    distance: float = 1.0,
) -> Run:
    """A run in which `dying` units die over its tasks, and rank and outcome fall with them (harm 1) or rise (-1)."""
    draw = np.random.default_rng([seed, int(100 * dying)])
    dead = np.round(dying * np.arange(TASKS) / (TASKS - 1) + draw.uniform(0, 1, TASKS)).clip(0, UNITS - 2)
    share = dead / UNITS
    return Run(
        margins_of(at_ends(dead), draw),
        at_ends(60 - 30 * harm * share + draw.normal(0, 0.3, TASKS)),
        0.7 - 0.3 * harm * share + draw.normal(0, noise, TASKS),
        np.full(TASKS, distance),
        config=config or {},
    )


def by_hypothesis(verdicts: list[Verdict]) -> dict[str, bool | None]:
    return {each.hypothesis: each.supported for each in verdicts}


def treated(harm: float, saved: float = 10.0) -> Rows:
    """A control in which `saved` units die and three treatments in which fewer do."""
    trials = {("ns", seed): run(seed, saved, harm=harm) for seed in SEEDS}
    for name, dying in (("bias_clip", 1.0), ("resurrect", 0.2 * saved), ("redo", 0.5 * saved)):
        trials |= {(name, seed): run(seed, dying, harm=harm) for seed in SEEDS}
    return Rows(trials)


def test_preventing_death_is_supported_where_dead_units_do_harm():
    result = prevent_death(treated(1.0).connect())
    assert by_hypothesis(result.verdicts) == {
        "the control loses plasticity": True,
        "treatments keep units alive": True,
        "treatments keep the rank up": True,
        "treatments keep plasticity": True,
        "bias_clip keeps plasticity": True,
        "redo keeps plasticity": True,
        "resurrect keeps plasticity": True,
        "treatments that save more units help more": True,
    }
    assert all(each.n == 5 for each in result.verdicts)
    table = result.table.loc["bias_clip \N{MINUS SIGN} ns"]
    assert table.loc["outcome", "low"] > 0
    assert table.loc["dead units without a gradient (%)", "d_z"] < -2


def test_preventing_death_comes_out_against_where_dead_units_do_good():
    verdicts = by_hypothesis(prevent_death(treated(-1.0).connect()).verdicts)
    assert verdicts["treatments keep units alive"] is True
    assert verdicts["the control loses plasticity"] is False
    assert verdicts["treatments keep plasticity"] is False
    assert verdicts["treatments keep the rank up"] is False


def test_treatments_that_change_nothing_leave_it_undecided():
    trials = {(name, seed): run(seed + 10 * k, 6.0) for k, name in enumerate(("ns", "redo")) for seed in SEEDS}
    verdicts = by_hypothesis(prevent_death(Rows(trials).connect()).verdicts)
    assert verdicts["treatments keep plasticity"] is None
    assert "treatments that save more units help more" not in verdicts  # one treatment is no trend


def test_a_margin_below_zero_is_no_death_behind_a_leaky_relu():
    leaky = {"network": {"activation": "leaky_relu"}}
    clamp = {"interventions": {"activation_clamping": {"minimum": 0.01, "gradient": "through"}}}
    trials = {("ns", seed): run(seed, 8.0) for seed in SEEDS}
    trials |= {("leaky_relu", seed): run(seed, 8.0, config=leaky) for seed in SEEDS}
    trials |= {("clamp", seed): run(seed, 8.0, config=clamp) for seed in SEEDS}
    table = prevent_death(Rows(trials).connect()).table
    for name in ("leaky_relu", "clamp"):
        own = table.loc[f"{name} \N{MINUS SIGN} ns"]
        assert own.loc["margins below 0 (%)", "mean"] == pytest.approx(0.0)  # as many as in the control
        assert own.loc["dead units without a gradient (%)", "mean"] < -20


def test_preventing_death_needs_the_control():
    store = treated(1.0).connect()
    with pytest.raises(ValueError, match=r"needs the control 'std' and others"):
        prevent_death(store, "std")


def changing(new: float, same: float, at: str = "tasks") -> Rows:
    rows = Rows()
    for kind, dying in (("new", new), ("same", same)):
        options = {"tasks": kind} if at == "tasks" else {"schedule": {"tasks": kind}}
        config = {"problem_options": options}
        rows.add({("ns", seed): run(seed, dying, config=config) for seed in SEEDS}, kind)
    return rows


@pytest.mark.parametrize("at", ["tasks", "schedule.tasks"])
def test_the_same_task_kills_nobody(at: str):
    result = same_task(changing(10.0, 0.0, at).connect(), negligible=5.0)
    assert by_hypothesis(result.verdicts) == {
        "dead units accumulate where tasks change": True,
        "no dead units accumulate where the task stays the same": True,
        "changes of the task kill units": True,
        "plasticity is lost where tasks change": True,
        "more than where the task stays the same": True,
    }
    assert result.table.loc[("new", "change over the run", "dead_end"), "mean"] == pytest.approx(50, abs=5)
    assert set(result.panel.rows["tasks"]) == {"new", "same"}


def test_deaths_under_the_same_task_speak_against_the_shift():
    verdicts = by_hypothesis(same_task(changing(3.0, 12.0).connect()).verdicts)
    assert verdicts["no dead units accumulate where the task stays the same"] is False
    assert verdicts["changes of the task kill units"] is False


def test_the_control_may_be_a_grid_of_its_own():
    new, same = (
        Rows({("ns", seed): run(seed, dying, config={"problem_options": {"tasks": kind}}) for seed in SEEDS}).connect()
        for kind, dying in (("new", 10.0), ("same", 0.0))
    )
    assert same_task(new, same).verdicts[2].supported is True
    with pytest.raises(ValueError, match="no trials with tasks: same; the grid needs both, or give two stores"):
        same_task(new)


def doses(harm: float) -> Rows:
    rows = Rows()
    for distance in (0.0, 0.4, 0.8, 1.2):
        runs = {("ns", seed): run(seed, 10 * distance, harm=harm, distance=distance + 0.01 * seed) for seed in SEEDS}
        rows.add(runs, f"-{distance}")
    return rows


@pytest.mark.parametrize("harm", [1.0, -1.0])
def test_the_response_to_distance_has_the_sign_of_the_harm(harm: float):
    result = task_distance(doses(harm).connect())
    verdicts = by_hypothesis(result.verdicts)
    assert verdicts["farther tasks leave more units dead"] is True
    assert verdicts["farther tasks leave a lower rank"] is (harm > 0)
    assert verdicts["farther tasks cost more plasticity"] is (harm > 0)
    slope = result.verdicts[1]
    # 10 units of 20 a unit of distance at the end; three quarters of that in the mean of the later half.
    assert slope.value == pytest.approx(50 * 0.78, rel=0.1)
    assert "Jonckheere p" in slope.sentence


def test_without_a_measured_distance_there_is_no_dose():
    store = Rows({("ns", 0): Run(np.ones((4, 1, 3)), np.ones(4), np.ones(2))}).connect()
    with pytest.raises(ValueError, match="no distance between tasks was measured"):
        task_distance(store)


def killing(harm: float) -> Rows:
    trials = {}
    for percent in (0, 25, 50, 75):
        config = {"interventions": {"kill_units": {"percent": percent}}} if percent else {}
        for seed in SEEDS:
            draw = np.random.default_rng([seed, percent])
            dead = np.full(TASKS, percent / 100 * UNITS)
            dead[0] = 0
            outcome = 0.7 - 0.3 * harm * dead / UNITS + draw.normal(0, 0.01, TASKS)
            rank = at_ends(60 - 30 * harm * dead / UNITS) + draw.normal(0, 0.3, 2 * TASKS)
            trials[f"kill_{percent}" if percent else "ns", seed] = Run(
                margins_of(at_ends(dead), draw), rank, outcome, config=config
            )
    return Rows(trials)


@pytest.mark.parametrize("harm", [1.0, -1.0])
def test_killing_units_shows_whether_they_matter(harm: float):
    result = killed_units(killing(harm).connect())
    assert set(by_hypothesis(result.verdicts).values()) == {harm > 0}
    assert result.verdicts[1].value == pytest.approx(-0.3 * harm, abs=0.02)  # points of accuracy a % killed
    assert result.table.loc[(75.0, "dead_end"), "mean"] == pytest.approx(75)
    assert result.verdicts[2].statistic.startswith("75 % - 0 % killed")


def test_killing_without_effect_is_undecided_and_two_shares_are_refused():
    verdicts = killed_units(killing(0.0).connect()).verdicts
    assert verdicts[1].supported is None
    store = Rows({("ns", seed): run(seed, 1.0) for seed in SEEDS}).connect()
    with pytest.raises(
        ValueError, match=r"units were killed at 1 shares \(\[0\.0\]\); a response needs at least three"
    ):
        killed_units(store)


def test_on_slippery_ant_by_its_name_alone(tmp_path: Path):
    write_slippery_store(tmp_path, variants=("ns", "std", "cbp", "l2"), seeds=3)
    store = connect(tmp_path, "slippery_ant_grid")
    result = prevent_death(store)
    assert result.verdicts[0].statistic.startswith("change of return")
    assert len(result.verdicts) == 8
    assert task_distance(store, "ns").table["distance"].notna().all()
