"""Grids of problems that change: what is refused or warned of before Ray starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lop_ray.config.grid import load_grid, parse_assignment
from lop_ray.problems.friction import FrictionOptions, Frictions
from lop_ray.sweep import make_plan, make_trials
from lop_ray.tune import main

DRY = ["slippery_ant_grid", "--dry-run", "--variants", "std", "--seeds", "0,1"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("friction.low=0", ".friction.low = 0: should be greater than 0"),
        ("friction.first=-0.5", ".friction.first = -0.5: should be greater than 0"),
        ("friction.high=slippery", ".friction.high = slippery: should be a valid number"),
        ("friction.high=.nan", ".friction.high = nan: should be a finite number"),
        ("friction.values=[0.3,-1]", ".friction.values[1] = -1: should be greater than 0"),
        ("friction.values=[[0.3,1],[0.2,abc]]", ".friction.values[1][1] = abc: should be a valid number"),
        ("friction.values=[0.3,0.2]", ".friction.values: 2 frictions, but the run needs 10"),
        ("friction.values=[[1,1,1,1,1,1,1,1,1,1]]", ".friction.values: there are lists for the seeds 0..0, and none "),
        ("friction.file=none.txt", ".friction: cannot read the frictions in none.txt: No such file or directory"),
        ("schedule.window_steps=3e6", ".schedule: window_steps=3000000 is longer than every_steps=2000000: changes "),
        ("schedule.every=1e6", ".schedule.every'; did you mean 'slippery_ant.schedule.every_steps'?"),
        ("schedule={every_steps: 3}", ": a change every 3 steps is less than one step of all 4 env copies"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(key: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DRY, "--set", "slippery_ant.num_envs=4", f"slippery_ant.{key}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"slippery_ant{said}" in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("every", ["2e7", "3e7"])
def test_a_schedule_that_never_fires_is_a_warning(every: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DRY, "--set", f"slippery_ant.schedule.every_steps={every}"]) == 0
    out, err = capsys.readouterr()
    assert err == (
        f"warning: slippery_ant: with a change every {float(every):,.0f} steps the task never changes within "
        "total_steps = 20,000,000\n"
    )
    assert "2 trials" in out


@pytest.mark.parametrize(
    "flags", [[], ["slippery_ant.schedule.every_steps=null"], ["slippery_ant.schedule.every_steps=1e7"]]
)
def test_other_schedules_are_not_warned_of(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DRY, *(["--set", *flags] if flags else [])]) == 0
    assert capsys.readouterr().err == ""


def test_a_file_of_frictions_becomes_part_of_the_trial(tmp_path: Path) -> None:
    values = [0.1 * (k + 1) for k in range(10)]
    (tmp_path / "frictions.txt").write_text("\n".join(map(str, values)))

    def trials(flag: str) -> list[str]:
        return [
            spec.trial_id for spec in make_trials(load_grid("slippery_ant_grid", [parse_assignment(flag)]), ["std"])
        ]

    from_file = trials("slippery_ant.friction.file=frictions.txt")
    (tmp_path / "frictions.txt").rename(tmp_path / "other.txt")
    assert trials("slippery_ant.friction.file=other.txt") == from_file
    assert trials(f"slippery_ant.friction.values={values}") == from_file


@pytest.mark.parametrize(
    ("grid", "problem", "trials", "steps"),
    [
        ("slippery_ant_grid", "slippery_ant", 100, 20_000_000),
        ("slippery_ant_same_task", "slippery_ant", 100, 20_000_000),
        ("slippery_ant_dose_response", "slippery_ant", 5 * 30, 20_000_000),
        ("hopper_grid", "hopper", 30, 100_000_000),
        ("walker_grid", "walker2d", 30, 100_000_000),
    ],
)
def test_the_grids_of_the_repository(grid: str, problem: str, trials: int, steps: int) -> None:
    plan = make_plan(load_grid(grid), variants=["std"], will_write=False)
    assert len(plan.specs) == trials
    assert {(spec.problem, spec.total_steps) for spec in plan.specs} == {(problem, steps)}
    assert plan.warnings == ()


def test_all_settings_but_the_problem_are_those_of_ant_grid() -> None:
    def settings(grid: str) -> dict[str, Any]:
        spec = make_trials(load_grid(grid), ["cbp"], [0])[0]
        kept = {"algorithm_options", "network", "optimizer", "interventions", "diagnostics"}  # more may be measured
        return spec.model_dump(include=kept)

    of_ant = settings("ant_grid")
    others = ("slippery_ant_grid", "slippery_ant_same_task", "slippery_ant_dose_response", "hopper_grid", "walker_grid")
    for grid in others:
        here = settings(grid)
        assert here.pop("diagnostics").items() >= of_ant["diagnostics"].items(), grid
        assert here == {key: value for key, value in of_ant.items() if key != "diagnostics"}, grid


def test_controls_share_frictions_with_the_grid_that_they_control() -> None:
    def frictions(grid: str, seed: int) -> list[float]:
        options = make_trials(load_grid(grid), ["std"], [seed])[0].problem_options["friction"]
        made = Frictions(FrictionOptions(**options), seed)
        return [made[task] for task in range(3)]

    for seed in (0, 29):
        assert frictions("slippery_ant_same_task", seed)[0] == frictions("slippery_ant_grid", seed)[0]
        assert frictions("slippery_ant_dose_response", seed) == [0.2] * 3  # the first dose is none
