"""A small store that looks like `coinrun_quick`'s: one network under both heads, evaluations, diagnoses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lop_ray.results import Location, Store
from lop_ray.results.diagnoses import Making, write_diagnosis
from tests.analysis.store import trial_id, write_manifest

GRID = "coinrun_quick"
STEPS, UPDATES, TASK_UPDATES = 1024, 30, 10
UNITS = (4, 8, 16)
WEIGHTS = ("body.conv_0", "top.body.hidden_0")


def write_pixel_store(results: Path, variants: Sequence[str] = ("baseline", "specnorm"), seeds: int = 2) -> None:
    """Writes a grid of finished trials that shift twice, with a diagnosis of the last checkpoint of each."""
    for variant in variants:
        for seed in range(seeds):
            write_pixel_trial(results, variant, seed)
    write_manifest(results, GRID, variants, range(seeds), problem="procgen")


def final_test_return(variant: str, seed: int) -> float:
    """What a trial's last evaluations give on average."""
    return (6.0 if variant == "specnorm" else 5.0) + seed


def write_pixel_trial(results: Path, variant: str, seed: int, *, diagnosed: bool = True) -> None:
    """Writes one trial; evaluations are `final_test_return` -+ 1 in turn, every third update."""
    store, name = Store(results, GRID), trial_id(GRID, variant, seed)
    draw = np.random.default_rng([seed, *variant.encode()])
    writer = store.trial_writer(name)
    writer.rewind(0)
    for update in range(1, UPDATES + 1):
        when = {"update": update, "env_steps": update * STEPS, "task": (update - 1) // TASK_UPDATES}
        writer.append("updates", when | {"episodes": 2})
        for value in (4.0, 8.0):
            writer.append("episodes", when | {"episode_return": value, "length": 90, "terminated": True})
        if update % 3 == 0:
            value = final_test_return(variant, seed) + (1.0 if update % 2 else -1.0)
            row = {"split": "test", "episodes": 8, "episode_return_mean": value, "length_mean": 80.0}
            writer.append("evaluations", when | row)
        for layer, units in enumerate(UNITS):
            place = when | {"network": "policy_value", "layer": layer, "units": units}
            writer.append(
                "layers", place | {"dead": layer, "dormant": 1, "effective_rank": 2.0, "sparsity": 0.25 * layer}
            )
        if variant == "specnorm" and update % 10 == 0:
            for weight in WEIGHTS:
                _power_iteration(writer, when, weight, 0.02 * draw.random())
    row = {"network": "policy_value", "layer": 2, "spectrum": "feature_singular_values", "x": [2.0, 1.0]}
    writer.append("spectra", when | row)
    place = {"grid": GRID, "problem": "procgen", "algorithm": "ppo", "variant": variant, "seed": seed}
    writer.set_status(
        "finished", **place, env_steps=UPDATES * STEPS, updates=UPDATES, versions={"torch": "2.13"},
        git_commit="0123456789abcdef0123456789abcdef01234567", git_dirty=False, hardware="a processor, 2 cores",
    )  # fmt: skip
    writer.join()
    writer.close()
    if diagnosed:
        write_held_out(store.location, name, draw)


def _power_iteration(writer: Any, when: dict[str, Any], weight: str, error: float) -> None:
    for probe, value in (("spectral_norm_error", error), ("spectral_norm_exact", 3.0)):
        row = {"network": "policy_value", "probe": probe, "metric": weight, "value": value}
        writer.append("probes", when | row)


def write_held_out(location: Location, name: str, draw: np.random.Generator) -> None:
    """The diagnosis of the last checkpoint: of layer k, 2 k never-active units, activation rate 0.3, rank 1 + k."""
    own: dict[str, list[dict[str, Any]]] = {"features": [], "dormant": [], "ranks": [], "signal": [], "gradients": []}
    spectra = []
    for layer, units in enumerate(UNITS):
        place = {"env_steps": UPDATES * STEPS, "task": 2, "network": "policy_value", "layer": layer, "units": units}
        own["features"].append(place | {"never_active": 2 * layer, "sparsity": 0.5})
        own["dormant"].append(place | {"activation_rate": 0.3})
        own["ranks"].append(place | {"centred_effective_rank": 1.0 + layer, "effective_rank": 1.0})
        own["signal"].append(place | {"pre_activation_norm": 8.0 / 2**layer, "activation_norm": 4.0 / 2**layer})
        own["gradients"].append(place | {"gradient_norm": 0.5 + layer})
        values = 20 * np.exp(-np.arange(units) / 4) * (1 + draw.random(units) / 10)
        at = {key: place[key] for key in ("env_steps", "task", "network", "layer")}
        spectra.append(at | {"spectrum": "feature_singular_values", "x": np.sort(values)[::-1]})
    making = Making({}, "held out, task 2, actions of policy")
    for diagnostic, layers in own.items():
        tables = {"layers": layers} | ({"spectra": spectra} if diagnostic == "ranks" else {})
        write_diagnosis(location, name, UPDATES, diagnostic, tables, making)
