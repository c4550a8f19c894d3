"""A trial of `coinrun_grid` beside what the hardware allows; rows of `benchmarks.throughput --problem coinrun`."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 2

Rows = dict[str, dict[str, Any]]


def trial_spec(cpus: int, diagnostics: bool) -> Any:
    """The `baseline` trial of `coinrun_grid` without evaluations; with diagnostics every update."""
    from lop_ray.config.grid import load_grid, parse_assignment
    from lop_ray.sweep import make_trials

    flags = [f"resources.cpus={cpus}", "ppo.evaluation=null"]
    flags += [f"diagnostics.{name}.every=1" for name in ("margins", "dormant", "ranks", "weights")]
    grid = load_grid("coinrun_grid", [parse_assignment(flag) for flag in flags])
    trial = make_trials(grid, ["baseline"], [0])[0]
    return trial if diagnostics else trial.model_copy(update={"diagnostics": {}})


def measure(cpus: int, updates: int, diagnostics: bool, floors: bool) -> dict[str, Any]:
    """Seconds of a trial's updates, and of its floors taken in turn with it; medians, also of the ratios."""
    import ray

    from benchmarks.floors import fastest
    from benchmarks.procgen_floors import BATCH, SamplingFloor, UpdateFloor
    from callbacks.plasticity import PlasticityCallback
    from lop_ray.algorithms import make_training

    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=10**8, log_to_driver=False, logging_level="ERROR")
    training = make_training(trial_spec(cpus, diagnostics), [PlasticityCallback])
    sampling, update = (SamplingFloor(threads=cpus), UpdateFloor()) if floors else (None, None)
    seconds: dict[str, list[float]] = {}
    for i in range(WARM_UP + updates):
        start = time.perf_counter()
        row = training.update()["updates"][0]
        took = {"trial": time.perf_counter() - start}
        took |= {key: row[f"{key}_s"] for key in ("sample", "learn", "diagnose")}
        if sampling is not None and update is not None:
            took["sampling"] = sampling.seconds()
            took["update"] = fastest(update.seconds, cpus)
        if i >= WARM_UP:
            for key, value in took.items():
                seconds.setdefault(key, []).append(value)
    result: dict[str, Any] = {key: statistics.median(values) for key, values in seconds.items()}
    result["steps_per_s"] = BATCH / result["trial"]
    if floors:  # update by update: what else the machine does changes from one to the next
        pairs = {"of sampling": ("sampling", "sample"), "of update": ("update", "learn")}
        for name, (floor, ours) in pairs.items():
            ratio = [a / b for a, b in zip(seconds[floor], seconds[ours], strict=True)]
            result[name] = statistics.median(ratio)
        result["of_floors"] = (result["sampling"] + result["update"]) / result["trial"]
    else:  # the floors' own memory would count
        result["rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    training.close()
    ray.shutdown()
    return result


def one_round(measured: Callable[..., dict[str, Any]]) -> Rows:
    """Every row of the table once; `measured` runs `measure` in a process of its own, on so many cores."""
    return {
        "one core": measured(1, diagnostics=False, floors=True),
        "both cores": measured(2, diagnostics=False, floors=True),
        "one core, diagnostics every update": measured(1, diagnostics=True, floors=False),
    }


def ratios(rows: Rows) -> dict[str, float]:
    """The ratios that the project promises, from one round."""
    with_diagnostics = rows["one core, diagnostics every update"]
    found = {}
    for name in ("one core", "both cores"):
        found[f"{name}: sampling floor / sampling"] = rows[name]["of sampling"]
        found[f"{name}: update floor / update"] = rows[name]["of update"]
    found["diagnostics / update (one core)"] = with_diagnostics["diagnose"] / (
        with_diagnostics["trial"] - with_diagnostics["diagnose"]
    )
    return found
