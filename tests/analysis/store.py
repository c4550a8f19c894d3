"""Small stores with numbers that look like a run's, written by the real writer: a few seeds, two networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lop_ray.results import Store

STEPS = 2048
UNITS = 16
FRICTIONS = ((0.3, 0.05, 1.8, 0.4), (1.1, 0.08, 0.6, 0.02), (0.02, 1.5, 0.2, 0.9))
"""Frictions of the tasks, a row a seed."""


@dataclass(frozen=True)
class Run:
    """What one trial of the store is and did.

    Attributes:
        updates: How many it made.
        status: As in the table `trials`.
        task_updates: Updates a task; None: one task.
        options: Options of the problem.
        problem: Its name.
        spectra: Whether it has spectra, after its first, its middle and its last update.
    """

    updates: int
    status: str = "finished"
    task_updates: int | None = None
    options: dict[str, Any] | None = None
    problem: str = "ant"
    spectra: bool = False


def write_store(
    results: Path, grid: str = "ant_grid", variants: Sequence[str] = ("std", "cbp"), seeds: int = 3, updates: int = 60
) -> None:
    """Writes a grid; the last seed of `std` diverges after two thirds of its updates."""
    for variant in variants:
        for seed in range(seeds):
            diverges = variant == "std" and seed == seeds - 1
            run = Run(updates * 2 // 3, "diverged") if diverges else Run(updates)
            write_trial(results, grid, variant, seed, run, total=updates)
    write_manifest(results, grid, variants, range(seeds))


def write_slippery_store(
    results: Path,
    grid: str = "slippery_ant_grid",
    variants: Sequence[str] = ("std", "cbp"),
    seeds: int = 3,
    tasks: int = 4,
    task_updates: int = 15,
) -> None:
    """Writes a grid on a problem that changes; the last seed of `cbp` still runs, in its last task but one."""
    options = {
        "schedule": {"every_steps": task_updates * STEPS},
        "friction": {"values": [row[:tasks] for row in FRICTIONS[:seeds]]},
    }
    for variant in variants:
        for seed in range(seeds):
            runs = variant == "cbp" and seed == seeds - 1 and tasks > 1
            updates = (tasks - 2) * task_updates + task_updates // 2 if runs else tasks * task_updates
            run = Run(updates, "running" if runs else "finished", task_updates, options, "slippery_ant")
            write_trial(results, grid, variant, seed, run, total=tasks * task_updates)
    write_manifest(results, grid, variants, range(seeds), problem="slippery_ant")


def write_spectra_store(
    results: Path, grid: str = "slippery_ant_spectra", variants: Sequence[str] = ("std", "cbp"), seeds: int = 2
) -> None:
    """Writes a grid on a problem that changes once, with spectra three times a trial."""
    options = {"schedule": {"every_steps": 10 * STEPS}, "friction": {"values": [row[:2] for row in FRICTIONS[:seeds]]}}
    for variant in variants:
        for seed in range(seeds):
            run = Run(20, "finished", 10, options, "slippery_ant", spectra=True)
            write_trial(results, grid, variant, seed, run, total=20)
    write_manifest(results, grid, variants, range(seeds), problem="slippery_ant")


def trial_id(grid: str, variant: str, seed: int) -> str:
    """The id of a trial of these stores."""
    return f"{grid}-{variant}-{seed}"


def write_manifest(
    results: Path, grid: str, variants: Sequence[str], seeds: Sequence[int], *, problem: str = "ant", **axes: Any
) -> None:
    """Writes grid.yaml; further axes have one value for all trials."""
    places = {
        trial_id(grid, variant, seed): {"variant": variant, "seed": seed} | axes
        for variant in variants
        for seed in seeds
    }
    Store(results, grid).write_manifest(
        {
            "format": 1,
            "grid": grid,
            "description": "two variants <side by side>",
            "axes": {"variant": list(variants), "seed": list(seeds)} | {key: [value] for key, value in axes.items()},
            "settings": {"problem": problem, "total_steps": 60 * STEPS, "ppo.lr": 1e-4, "network.hidden": [256, 256]},
            "problems": {problem: {f"{problem}.num_envs": 1}},
            "variants": {name: {} if name == "std" else {"optimizer.weight_decay": 1e-4} for name in variants},
            "trials": places,
            "runs": [{"at": "2026-01-02T03:04:05+00:00", "command": f"python -m lop_ray.tune {grid}"}],
        }
    )


def write_trial(results: Path, grid: str, variant: str, seed: int, run: Run, *, total: int) -> None:
    """Writes the rows of one trial; `total` is the number of updates that it was meant to make."""
    draw = np.random.default_rng([seed, *variant.encode()])
    collapse = 0.4 if variant == "std" else 0.05
    writer = Store(results, grid).trial_writer(trial_id(grid, variant, seed))
    writer.rewind(0)
    for update in range(1, run.updates + 1):
        task = 0 if run.task_updates is None else (update - 1) // run.task_updates
        when = {"update": update, "env_steps": update * STEPS, "task": task}
        since = update - task * (run.task_updates or 0)
        progress, learned = update / total, min(1.0, since / (run.task_updates or total))
        hardness = 1.0 if run.task_updates is None else 0.5 + FRICTIONS[seed % len(FRICTIONS)][task] / 4
        best = 900 * hardness * learned * (1 - 1.6 * collapse * progress)
        returns = best + draw.normal(0, 120, size=draw.integers(0, 4))
        for value in returns:
            writer.append("episodes", when | {"episode_return": value, "length": 1000, "terminated": False})
        change = 4.0 + 40.0 * collapse * progress + draw.exponential(2.0)
        wall = {"wall_s": float(update), "episodes": len(returns), "weight_change": change}
        writer.append("updates", when | wall)
        for network in ("policy", "value"):
            for layer in (0, 1):
                margin = draw.normal(1.5 - 4 * collapse * progress, 0.8, size=UNITS)
                writer.append(
                    "layers", when | {"network": network, "layer": layer} | _layer(margin, collapse, progress)
                )
                if task > 0 and since == 1:
                    place = {"network": network, "layer": layer}
                    writer.append("boundaries", when | place | boundary(margin, draw))
                if run.spectra and update in (1, run.updates // 2, run.updates):
                    _write_layer_spectra(writer, when | {"network": network, "layer": layer}, draw, progress)
                if update % 5 == 0:
                    writer.append("neurons", when | {"network": network, "layer": layer, "margin": margin})
            if run.spectra and update in (1, run.updates // 2, run.updates):
                _write_network_spectra(writer, when | {"network": network}, draw)
    writer.set_status(
        run.status,
        "non-finite gradient of policy.hidden_0.weight" if run.status == "diverged" else None,
        grid=grid,
        problem=run.problem,
        algorithm="ppo",
        variant=variant,
        seed=seed,
        env_steps=run.updates * STEPS,
        updates=run.updates,
        config=json.dumps(
            {"total_steps": total * STEPS, "problem": run.problem, "problem_options": run.options or {"num_envs": 1}}
        ),
        git_commit="0123456789abcdef0123456789abcdef01234567",
        git_dirty=False,
        versions={"python": "3.11", "torch": "2.13"},
        hardware="a processor, 2 cores",
    )
    if run.status != "running":
        writer.join()
    writer.close()


def _write_layer_spectra(writer: Any, place: dict[str, Any], draw: np.random.Generator, progress: float) -> None:
    for spectrum in ("feature_singular_values", "weight_singular_values"):
        values = 20 * np.exp(-np.arange(UNITS) * (0.2 + progress)) + draw.random() / 100
        writer.append("spectra", place | {"spectrum": spectrum, "x": values})


def _write_network_spectra(writer: Any, place: dict[str, Any], draw: np.random.Generator) -> None:
    nodes, weights = np.sort(draw.normal(0, 5, 8)), draw.random(8)
    writer.append("spectra", place | {"spectrum": "hessian_density", "x": nodes, "y": weights / weights.sum()})
    gradients = draw.normal(size=(12, 3))
    writer.append("spectra", place | {"spectrum": "gradient_covariance", "x": (gradients @ gradients.T).ravel()})
    for metric in ("epsilon_rank", "numerical_rank", "rank_bound", "dead_units", "largest", "smallest"):
        row = {"probe": "hessian_density", "metric": metric, "value": draw.random()}
        writer.append("probes", place | row)


def _layer(margin: np.ndarray, collapse: float, progress: float) -> dict[str, Any]:
    dead, at_risk = (margin < 0).sum(), ((0 <= margin) & (margin < 0.1)).sum()
    always_on = (margin > 2.5).sum()
    return {
        "units": UNITS,
        "dead": dead,
        "at_risk": at_risk,
        "always_on": always_on,
        "selective": UNITS - dead - always_on,
        "mean_margin": margin.mean(),
        "dormant": dead + 1,
        "silent": dead,
        "activity": 0.3,
        "stable_rank": round(13 - 9 * collapse * progress + margin.mean() / 2),
        "effective_rank": 11 - 8 * collapse * progress,
        "feature_rank": 14.0,
        "weight_magnitude": 0.05 + 0.1 * collapse * progress + margin.std() / 500,
        "weight_change": 3.0,
    }


def boundary(old: np.ndarray, draw: np.random.Generator) -> dict[str, Any]:
    """A row of `boundaries`, without place and time: margins before, after the shift, after the adaptation."""
    shifted = old + draw.normal(-0.4, 0.4, size=UNITS)
    adapted = shifted + draw.normal(0.2, 0.3, size=UNITS)
    row: dict[str, Any] = {"units": UNITS, "samples": 1000, "adaptation_updates": 1}
    for moment, margin in (("old", old), ("predictive", shifted), ("actual", adapted)):
        row[f"{moment}_dead"] = (margin < 0).sum()
        row[f"{moment}_at_risk"] = ((0 <= margin) & (margin < 0.1)).sum()
        row[f"{moment}_mean_margin"] = margin.mean()
    for cause, before, after in (("shift", old, shifted), ("adaptation", shifted, adapted)):
        row[f"killed_by_{cause}"] = ((before >= 0) & (after < 0)).sum()
        row[f"revived_by_{cause}"] = ((before < 0) & (after >= 0)).sum()
    return row
