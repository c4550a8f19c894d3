"""Gradient steps a second of supervised training, beside a bare PyTorch loop and beside a batched network of seeds.

    python -m benchmarks.supervised

The mixture's task as its source has it: 96 examples in 4 dimensions, 5 hidden layers of 100 tanh units, one sigmoid,
float64, full batch, SGD, 40 steps a task. Measured are whole updates as a trial makes them, with their rows written,
the next task's data and its distance included; the bare loop draws the same tasks and nothing else.

Rows of a table come from processes that run at the same time, one pinned to each core, and take turns in short
stretches: loop, trial and batch see the same machine. Ratios are taken within a stretch; medians over all are reported,
with their quartiles. Everything has one thread, and seconds are of its CPU time, which others on a busy machine trouble
less. With `--device cuda` one process measures on the GPU, by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

CORES = sorted(os.sched_getaffinity(0))[:2]
STEPS = 40


def specs(seeds: int, device: str, at_once: int = 1) -> list[Any]:
    """The mixture's trials."""
    from lop_ray.algorithms.spec import TrialSpec
    from lop_ray.algorithms.supervised.options import SupervisedOptions
    from lop_ray.problems.gaussian_mixture import GaussianMixtureOptions

    return [
        TrialSpec(
            trial_id=f"t{seed}of{at_once}",
            grid="benchmark",
            problem="gaussian_mixture",
            problem_options=GaussianMixtureOptions(steps_per_task=STEPS).model_dump(mode="json"),
            algorithm="supervised",
            algorithm_options=SupervisedOptions(lr=0.1).model_dump(mode="json"),
            network={"hidden": [100] * 5, "activation": "tanh", "init": "glorot_normal"},  # type: ignore[arg-type]
            optimizer={"name": "sgd"},  # type: ignore[arg-type]
            interventions={},
            diagnostics={},
            variant="std",
            seed=seed,
            total_steps=10**15,
            resources={"gpus": float(device == "cuda"), "seeds_per_trial": at_once},  # type: ignore[arg-type]
            checkpoints={"every_steps": 10**15},  # type: ignore[arg-type]
        )
        for seed in range(seeds)
    ]


def bare_loop(device: str) -> Callable[[], None]:
    """A task in plain PyTorch: what anyone would write, with the loss read after every step."""
    import torch
    from torch import nn

    from lop_ray.problems.gaussian_mixture import GaussianMixture, GaussianMixtureOptions

    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width in (4, 100, 100, 100, 100):
        layers += [nn.Linear(width, 100), nn.Tanh()]
    network = nn.Sequential(*layers, nn.Linear(100, 1)).double().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    criterion, stream, tasks = nn.BCEWithLogitsLoss(), GaussianMixture(GaussianMixtureOptions()), iter(range(10**9))

    def task() -> None:
        data = stream.task(next(tasks))
        inputs, targets = torch.from_numpy(data.inputs).to(device), torch.from_numpy(data.targets).double()
        targets = targets.unsqueeze(1).to(device)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = criterion(network(inputs), targets)
            loss.item()
            loss.backward()
            optimizer.step()

    return task


def measure(seeds: list[int], stretches: int, device: str) -> dict[str, list[float]]:
    """Seconds a step and seed of every row, stretch by stretch."""
    import torch

    from lop_ray.algorithms import make_training
    from lop_ray.algorithms.group import TrialGroup
    from lop_ray.results import Store

    torch.set_num_threads(1)
    clock = time.process_time if device == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory(prefix="lop_ray-benchmark-") as folder:
        store = Store(folder, "benchmark")

        def group(count: int) -> Callable[[], None]:
            return TrialGroup(specs(count, device, count), store, lambda spec: make_training(spec, [])).advance

        rows: dict[str, tuple[int, Callable[[], None]]] = {"bare loop": (1, bare_loop(device)), "trial": (1, group(1))}
        rows |= {f"{count} seeds": (count, group(count)) for count in seeds}
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for stretch in range(stretches + 2):
            for name, (count, advance) in rows.items():
                start = clock()
                advance()
                if stretch >= 2:
                    seconds[name].append((clock() - start) / STEPS / count)
        return seconds


def on_core(core: int, job: dict[str, Any]) -> subprocess.Popen:
    """Starts `measure` in a process of its own on a core."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.supervised", "--job", json.dumps(job)]
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, [core])
    )


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stretches", type=int, default=40, help="turns that every row takes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 10, 20], help="sizes of the batched networks")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(measure(**json.loads(args.job))))
        return
    job = {"seeds": args.seeds, "stretches": args.stretches, "device": args.device}
    processes = [on_core(core, job) for core in (CORES if args.device == "cpu" else CORES[:1])]
    outputs = [process.communicate(timeout=1800)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a measurement failed")
    found = [json.loads(output.decode().strip().splitlines()[-1]) for output in outputs]
    table = Table("measured", f"steps/s over {len(found)} processes", "of bare loop", "of a trial a core")
    for name in found[0]:
        speed = sum(1 / statistics.median(each[name]) for each in found)

        def ratio(other: str, name: str = name) -> str:
            pairs = [a / b for each in found for a, b in zip(each[other], each[name], strict=True)]
            quarters = statistics.quantiles(pairs, n=4)
            return f"{statistics.median(pairs):.2f} ({quarters[0]:.2f}-{quarters[2]:.2f})"

        table.add_row(name, f"{speed:,.0f}", ratio("bare loop"), ratio("trial"))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
