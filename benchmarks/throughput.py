"""Environment steps a second of a trial, beside RLlib's own PPO and beside what the hardware allows.

    python -m benchmarks.throughput
    python -m benchmarks.throughput --problem coinrun

Same work everywhere: Ant with 111 observations, two 2x256 networks, batch 2048, 10 epochs, minibatch 128; or CoinRun
with 8 copies, the conv network of `coinrun_grid`, batch 1024, 3 epochs, minibatch 64 (`benchmarks/pixels.py`).
Every row is measured in a process of its own; floors are measured inside it, update by update in turn with
the trial, so that a noisy machine troubles both alike. Ratios are taken within a round, and their medians
over rounds reported.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import pixels

CORES = sorted(os.sched_getaffinity(0))[:2]
WARM_UP = 3


def trial_spec(copies: int, cpus: int, diagnostics: bool, runners: int = 0) -> Any:
    """The `std` trial of `ant_grid` with this many env copies and cores."""
    from lop_ray.config.grid import load_grid, parse_assignment
    from lop_ray.sweep import make_trials

    flags = [f"ant.num_envs={copies}", f"resources.cpus={cpus}", f"resources.env_runners={runners}"]
    trial = make_trials(load_grid("ant_grid", [parse_assignment(flag) for flag in flags]), ["std"], [0])[0]
    return trial if diagnostics else trial.model_copy(update={"diagnostics": {}})


def measure_ours(copies: int, cpus: int, updates: int, diagnostics: bool, runners: int, floors: bool) -> dict[str, Any]:
    """Steps/s of a trial, and of its floors taken in turn with it."""
    import ray

    from callbacks.plasticity import PlasticityCallback
    from lop_ray.algorithms import make_training

    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=10**8, log_to_driver=False, logging_level="ERROR")
    training = make_training(trial_spec(copies, cpus, diagnostics, runners), [PlasticityCallback])

    from benchmarks.floors import BATCH, PhysicsFloor, UpdateFloor, fastest

    physics, update = PhysicsFloor(copies, cpus), UpdateFloor()
    seconds: dict[str, list[float]] = {
        "trial": [],
        "physics": [],
        "update": [],
        "diagnose": [],
        "learn": [],
        "sample": [],
    }
    for i in range(WARM_UP + updates):
        start = time.perf_counter()
        row = training.update()["updates"][0]
        took = {"trial": time.perf_counter() - start, "diagnose": row["diagnose_s"]}
        took |= {"learn": row["learn_s"], "sample": row["sample_s"]}
        if floors:
            took["physics"] = physics.seconds(BATCH)
            took["update"] = fastest(update.seconds, cpus)
        if i >= WARM_UP:
            for key, value in took.items():
                seconds[key].append(value)
    result: dict[str, Any] = {key: statistics.median(values) for key, values in seconds.items() if values}
    result["steps_per_s"] = BATCH / result["trial"]
    if floors:
        result["of_floors"] = (result["physics"] + result["update"]) / result["trial"]
    result["rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    training.close()
    ray.shutdown()
    return result


def measure_rllib(copies: int, runners: int, updates: int) -> dict[str, Any]:
    """Steps/s of RLlib's own PPO, with the same network sizes and batch."""
    import gymnasium as gym
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune.registry import register_env

    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=10**8, log_to_driver=False, logging_level="ERROR")
    register_env("ant111", lambda _: gym.make("Ant-v4", use_contact_forces=True))
    config = (
        PPOConfig()
        .environment("ant111")
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=copies)
        .training(
            lr=1e-4,
            gamma=0.99,
            lambda_=0.95,
            clip_param=0.2,
            train_batch_size_per_learner=2048,
            minibatch_size=128,
            num_epochs=10,
            use_kl_loss=False,
            vf_clip_param=float("inf"),
            vf_loss_coeff=1.0,
        )
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[256, 256], fcnet_activation="relu", vf_share_layers=False, free_log_std=True
            )
        )
        .debugging(log_level="ERROR")
    )
    algorithm = config.build_algo()
    rates = []
    for i in range(2 + updates):
        start = time.perf_counter()
        before = algorithm.metrics.peek(("env_runners", "num_env_steps_sampled_lifetime"), default=0)
        algorithm.train()
        steps = algorithm.metrics.peek(("env_runners", "num_env_steps_sampled_lifetime")) - before
        if i >= 2:
            rates.append(steps / (time.perf_counter() - start))
    algorithm.stop()
    ray.shutdown()
    return {"steps_per_s": statistics.median(rates)}


def in_process(cores: list[int], **job: Any) -> subprocess.Popen:
    """Starts a measurement of its own on `cores`."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.throughput", "--job", json.dumps(job)]
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    env.pop("OMP_NUM_THREADS", None)  # Ray sets it for its workers; RLlib is measured as it comes
    return subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def result_of(process: subprocess.Popen) -> dict[str, Any]:
    """What a measurement printed last."""
    out, _ = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"a measurement failed: {process.args!r}")
    return json.loads(out.decode().strip().splitlines()[-1])


def one_round(updates: int) -> dict[str, dict[str, Any]]:
    """Every row of the table once, peers next to each other."""
    both, first = CORES, CORES[:1]
    ours = {"kind": "ours", "updates": updates, "diagnostics": False, "runners": 0, "floors": True}
    rows = {
        "RLlib, 2 runners x 4": result_of(in_process(both, kind="rllib", copies=4, runners=2, updates=updates)),
        "both cores, 64 copies": result_of(in_process(both, **ours, copies=64, cpus=2)),
        "both cores, 16 copies": result_of(in_process(both, **ours, copies=16, cpus=2)),
        "RLlib, 1 copy": result_of(in_process(both, kind="rllib", copies=1, runners=0, updates=max(3, updates // 2))),
        "both cores, 1 copy": result_of(in_process(both, **ours, copies=1, cpus=2)),
        "one core, 8 copies": result_of(in_process(first, **ours, copies=8, cpus=1)),
    }
    alone = {**ours, "floors": False, "copies": 8, "cpus": 1}
    rows["one core, alone"] = result_of(in_process(first, **alone))
    pair = [in_process([core], **alone) for core in both]
    pair_rows = [result_of(process) for process in pair]
    rows["one core each, two side by side"] = {"steps_per_s": sum(row["steps_per_s"] for row in pair_rows)}
    rows["both cores, 64 copies, diagnostics"] = result_of(
        in_process(both, **{**ours, "diagnostics": True, "floors": False}, copies=64, cpus=2)
    )
    rows["one core, 8 copies, diagnostics"] = result_of(
        in_process(first, **{**ours, "diagnostics": True, "floors": False}, copies=8, cpus=1)
    )
    return rows


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The ratios that the project promises, from one round."""
    speed = {name: row["steps_per_s"] for name, row in rows.items()}
    with_diagnostics = rows["one core, 8 copies, diagnostics"]
    return {
        "both cores, 64 copies / its floors": rows["both cores, 64 copies"]["of_floors"],
        "both cores, 64 copies / RLlib 2x4": speed["both cores, 64 copies"] / speed["RLlib, 2 runners x 4"],
        "one core, 8 copies / its floors": rows["one core, 8 copies"]["of_floors"],
        "two side by side / one": speed["one core each, two side by side"] / speed["one core, alone"],
        "1 copy / RLlib 1 copy": speed["both cores, 1 copy"] / speed["RLlib, 1 copy"],
        "diagnostics / update (one core)": with_diagnostics["diagnose"]
        / (with_diagnostics["trial"] - with_diagnostics["diagnose"]),
    }


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "ours": measure_ours,
    "rllib": measure_rllib,
    "coinrun": pixels.measure,
}
COLUMNS = {
    "sample": ("s an update: sample", ".3f"),
    "learn": ("learn", ".3f"),
    "diagnose": ("diagnose", ".3f"),
    "physics": ("floor: physics", ".3f"),
    "sampling": ("floor: sampling", ".3f"),
    "update": ("floor: update", ".3f"),
    "of_floors": ("of floors", ".2f"),
    "rss_mib": ("peak RSS MiB", ",.0f"),
}


def main() -> None:
    """Measures all rounds and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=("ant", "coinrun"), default="ant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=12, help="measured updates a row")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = json.loads(args.job)
        print(json.dumps(JOBS[job.pop("kind")](**job)))
        return
    if args.problem == "coinrun":

        def measured(cpus: int, **job: Any) -> dict[str, Any]:
            return result_of(in_process(CORES[:cpus], kind="coinrun", cpus=cpus, updates=args.updates, **job))

        report([pixels.one_round(measured) for _ in range(args.rounds)], pixels.ratios)
    else:
        report([one_round(args.updates) for _ in range(args.rounds)], ratios)


def report(rounds: list[dict[str, dict[str, Any]]], ratios_of: Callable[[dict[str, dict[str, Any]]], Any]) -> None:
    """Prints medians over rounds of what was measured, and of the ratios within each round."""
    console = Console(width=150)
    columns = {key: each for key, each in COLUMNS.items() if any(key in row for row in rounds[0].values())}
    table = Table("measured", "steps/s", *(title for title, _ in columns.values()))
    for name in rounds[0]:
        cells = []
        for key, (_, form) in columns.items():
            values = [r[name][key] for r in rounds if key in r[name]]
            cells.append(format(statistics.median(values), form) if values else "-")
        speeds = [r[name]["steps_per_s"] for r in rounds]
        table.add_row(name, f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f}-{max(speeds):,.0f})", *cells)
    console.print(table)
    table = Table("ratio", "median", "range")
    all_ratios = [ratios_of(r) for r in rounds]
    for name in all_ratios[0]:
        values = [r[name] for r in all_ratios]
        table.add_row(name, f"{statistics.median(values):.3f}", f"{min(values):.3f} - {max(values):.3f}")
    console.print(table)


if __name__ == "__main__":
    main()
