"""How much slower an update of PPO is when half of the units are dead, with denormal numbers taken for 0 and without.

    python -m benchmarks.denormals

The update of `ant_grid`'s `std` (two 2x256 networks, batch 2048, 10 epochs, minibatch 128) on one thread. Half of the
hidden units are killed after the second update; ten updates later Adam's averages of their gradients are denormal. Then
trials with and without dead units take turns, each with numbers below 1.2e-38 counted as 0, as every trial does it, and
as torch computes by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.throughput import trial_spec

KILLED_AFTER, DECAY = 2, 10
CONTEXT = "lop_ray.algorithms.ppo.learner.denormals_as_zero"


def kill_half(training: Any) -> None:
    """Every second hidden unit of both networks stops working."""
    for network in training.algorithm.learner.actor_critic.networks().values():
        for layer in network.hidden_layers():
            with torch.no_grad():
                layer.incoming.bias[::2] -= 1000


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=10, help="measured updates of each of the four")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])

    import ray

    from lop_ray.algorithms import make_training

    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=10**8, log_to_driver=False, logging_level="ERROR")
    trials = {
        (dead, zero): make_training(trial_spec(8, 1, False), []) for dead in (False, True) for zero in (True, False)
    }
    seconds: dict[tuple[bool, bool], list[float]] = {key: [] for key in trials}
    for update in range(KILLED_AFTER + DECAY + args.updates):
        for (dead, zero), training in trials.items():
            if dead and update == KILLED_AFTER:
                kill_half(training)
            with contextlib.nullcontext() if zero else mock.patch(CONTEXT, contextlib.nullcontext):
                seconds[dead, zero].append(training.update()["updates"][0]["learn_s"])
    ray.shutdown()

    table = Table("seconds an update", "no dead units", "half of them dead", "ratio (quartiles)")
    for zero, name in ((True, "denormals as 0 (every trial)"), (False, "denormals computed")):
        alive, half_dead = (seconds[some_dead, zero][-args.updates :] for some_dead in (False, True))
        quarters = statistics.quantiles([b / a for a, b in zip(alive, half_dead, strict=True)], n=4)
        ratio = f"{quarters[1]:.2f} ({quarters[0]:.2f}-{quarters[2]:.2f})"
        table.add_row(name, f"{statistics.median(alive):.3f}", f"{statistics.median(half_dead):.3f}", ratio)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
