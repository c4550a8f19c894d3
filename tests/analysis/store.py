"""A small store with numbers that look like a run's: two variants, a few seeds, two networks of two layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lop_ray.results import Store

STEPS = 2048
UNITS = 16


def write_store(
    results: Path, grid: str = "ant_grid", variants: Sequence[str] = ("std", "cbp"), seeds: int = 3, updates: int = 60
) -> None:
    """Writes a grid; the last seed of `std` diverges after two thirds of its updates."""
    for variant in variants:
        for seed in range(seeds):
            diverges = variant == "std" and seed == seeds - 1
            _write_trial(results, grid, variant, seed, updates * 2 // 3 if diverges else updates, diverges)


def _write_trial(results: Path, grid: str, variant: str, seed: int, updates: int, diverges: bool) -> None:
    draw = np.random.default_rng([seed, *variant.encode()])
    collapse = 0.4 if variant == "std" else 0.05
    with_id = f"{grid}-{variant}-{seed}"
    writer = Store(results, grid).trial_writer(with_id)
    for update in range(1, updates + 1):
        when = {"update": update, "env_steps": update * STEPS, "task": 0}
        progress = update / 60
        returns = 900 * progress * (1 - 1.6 * collapse * progress) + draw.normal(0, 120, size=draw.integers(0, 4))
        for value in returns:
            writer.append("episodes", when | {"episode_return": value, "length": 1000, "terminated": False})
        writer.append("updates", when | {"wall_s": float(update), "episodes": len(returns)})
        for network in ("policy", "value"):
            for layer in (0, 1):
                margin = draw.normal(1.5 - 4 * collapse * progress, 0.8, size=UNITS)
                dead, at_risk = (margin < 0).sum(), ((0 <= margin) & (margin < 0.1)).sum()
                always_on = (margin > 2.5).sum()
                writer.append(
                    "layers",
                    when
                    | {
                        "network": network,
                        "layer": layer,
                        "units": UNITS,
                        "dead": dead,
                        "at_risk": at_risk,
                        "always_on": always_on,
                        "selective": UNITS - dead - always_on,
                        "mean_margin": margin.mean(),
                        "dormant": dead + 1,
                        "activity": 0.3,
                        "stable_rank": 13 - 9 * collapse * progress,
                        "effective_rank": 11 - 8 * collapse * progress,
                        "feature_rank": 14.0,
                        "weight_magnitude": 0.05 + 0.1 * collapse * progress + draw.normal(0, 0.002),
                        "weight_change": 3.0,
                    },
                )
                if update % 5 == 0:
                    writer.append("neurons", when | {"network": network, "layer": layer, "margin": margin})
    writer.set_status(
        "diverged" if diverges else "finished",
        "non-finite gradient of policy.hidden_0.weight" if diverges else None,
        grid=grid,
        problem="ant",
        algorithm="ppo",
        variant=variant,
        seed=seed,
        env_steps=updates * STEPS,
        updates=updates,
        config=json.dumps({"total_steps": 60 * STEPS}),
        git_commit="0123456789abcdef0123456789abcdef01234567",
        git_dirty=False,
        versions={"python": "3.11", "torch": "2.13"},
        hardware="a processor, 2 cores",
    )
    writer.join()
    writer.close()
