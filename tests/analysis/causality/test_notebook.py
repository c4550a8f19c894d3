"""The notebook of the seven experiments, executed on small synthetic stores: every figure and verdict is there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.causality.store import UNITS, Rows, Run, at_ends, margins_of, written
from tests.test_notebooks import images_of, run, tables_of

TASKS = 14


def trial(seed: int, dying: float = 8.0, distance: float = 1.0, **config) -> Run:
    draw = np.random.default_rng(seed)
    dead = np.round(dying * np.arange(TASKS) / (TASKS - 1) + draw.uniform(0, 3, TASKS)).clip(0, UNITS)
    share = dead / UNITS
    margins = margins_of(at_ends(dead), draw, layers=3)
    return Run(
        margins,
        at_ends(60 - 30 * share),
        0.7 - 0.3 * share + draw.normal(0, 0.01, TASKS),
        np.full(TASKS, distance),
        hessian=at_ends(0.5 - 0.2 * share) + draw.normal(0, 0.01, 2 * TASKS),
        pushes=draw.normal(size=margins.shape),
        gradients=draw.uniform(size=margins.shape),
        config=config,
    )


def stores(results: Path) -> None:
    ns = Rows({("ns", seed): trial(seed) for seed in range(3)})
    for grid in ("margin_profile", "temporal_order", "unit_trajectories"):
        written(ns, results, grid)
    treated = {(name, seed): trial(seed, 2.0) for name in ("resurrect", "bias_clip", "clamp") for seed in range(3)}
    written(ns.add(treated), results, "prevent_death")
    both, far, killed = Rows(), Rows(), Rows()
    for dose in range(3):
        options = {"problem_options": {"tasks": "same" if dose else "new"}}
        kills = {"interventions": {"kill_units": {"percent": 25 * dose}}} if dose else {}
        for seed in range(3):
            if dose < 2:
                both.add({("ns", seed): trial(seed, 8.0 - 8 * dose, **options)}, f"-{dose}")
            far.add({("ns", seed): trial(seed, 4.0 * dose, distance=float(dose))}, f"-{dose}")
            killed.add({(f"kill_{25 * dose}" if dose else "ns", seed): trial(seed, 4.0 * dose, **kills)})
    for grid, rows in (("same_task_control", both), ("task_distance", far), ("kill_units", killed)):
        written(rows, results, grid)


@pytest.mark.slow
def test_every_experiment_draws_and_concludes(tmp_path: Path) -> None:
    stores(tmp_path / "results")
    outputs = run(tmp_path, "causality.ipynb")
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert len(images_of(outputs)) == 7
    texts = [output.text for output in outputs if output.get("name") == "stdout"]
    assert len(texts) == 8  # the order in time at the end and at the start of tasks
    lines = [line for text in texts for line in text.splitlines()]
    assert all(line.split(":")[0] in ("SUPPORTED", "AGAINST", "UNDECIDED") for line in lines)
    assert all(re.search(r", n = [03] seeds", line) for line in lines)  # none of 3 where nothing moves
    assert sum(", n = 3 seeds" in line for line in lines) > 25
    summary = tables_of(outputs)[-2]
    assert summary.count("<tr") == 1 + 1 + len(lines)  # its two lines of names
    assert "hardware" not in summary
