"""What every diagnostic costs, beside an update of PPO on the same networks, and the promises of the dear ones.

    python -m benchmarks.diagnostics [--quick] [--widths 64 256] [--samples 1000]

Prints three Markdown tables: seconds of each diagnostic (and that as a share of one bare update of PPO: policy and
value network of the same width, batch 2048, 10 epochs, minibatch 128) by width of the two hidden layers and number of
observations; ten probes trained together beside one, in turn; and one Hessian density beside a hundred bare products.
All on one thread; a time is the median of the runs that fit into a second, at least one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.floors import ACTIONS, OBSERVATIONS, UpdateFloor
from lop_ray.diagnostics import DIAGNOSTICS, DiagnosticSuite
from lop_ray.diagnostics.curvature import curvature_operator, density_quadrature
from lop_ray.diagnostics.losses import Problem, squared_error
from lop_ray.diagnostics.probe import random_function_targets, train_copies
from lop_ray.networks import MLP, NetworkOptions
from lop_ray.seeding import torch_generator

BUDGET_S = 1.0
PROBE_STEPS = 50
"""Steps of the probe in the first table; its time is scaled to its default of 2000, to which it is proportional."""


class Subject:
    """A policy network in training, and everything that a diagnostic may ask of it.

    Args:
        width: Of both hidden layers.
        samples: Observations.
    """

    def __init__(self, width: int, samples: int):
        generator = torch_generator(0, "benchmark")
        options = NetworkOptions(hidden=(width, width))
        self.network = MLP(OBSERVATIONS, ACTIONS, options, seed=0, name="policy")
        before = MLP(OBSERVATIONS, ACTIONS, options, seed=1, name="policy")
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4)
        self.inputs = torch.randn(samples, OBSERVATIONS, generator=generator)
        self.targets = torch.randn(samples, ACTIONS, generator=generator)
        self._step()  # so that the optimiser has moments
        self.extra: dict[str, Any] = {
            "before": {"policy": before},
            "initial": {"policy": before},
            "losses": {"policy": squared_error},
            "batches": {"policy": {"inputs": self.inputs, "targets": self.targets}},
            "optimizers": {"policy": self.optimizer},
            "ratios": {"policy": torch.rand(samples, generator=generator) + 0.5},
        }

    def _step(self) -> None:
        loss = squared_error(self.network(self.inputs[:128]), {"targets": self.targets[:128]})
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def seconds(self, name: str) -> float:
        """Of one measurement, at most `samples` observations or rows."""
        kind = DIAGNOSTICS[name]
        options: dict[str, Any] = {key: 1 for key in kind.model_fields if key == "every" or key.endswith("_every")}
        if "samples" in kind.model_fields:
            per_sample = name in ("gradients", "gradient_covariance")  # holds samples x parameters numbers
            options["samples"] = min(len(self.inputs), 512) if per_sample else len(self.inputs)
        if name == "probe":
            options |= {"steps": PROBE_STEPS, "points": 1}
        suite = DiagnosticSuite({name: options})
        scale = DIAGNOSTICS["probe"]().steps / PROBE_STEPS if name == "probe" else 1.0  # type: ignore[attr-defined]
        return scale * median_seconds(
            lambda: suite.measure(
                update=1, networks={"policy": self.network}, observations=self.inputs, extra=self.extra
            )
        )


def median_seconds(run: Callable[[], Any]) -> float:
    """Median time of `run` over the runs that fit into `BUDGET_S`, at least one.

    A first run, which may load modules and touch fresh memory, counts only if it takes longer than five budgets.
    """
    first = _timed(run)
    if first > 5 * BUDGET_S:
        return first
    times = [_timed(run)]
    while sum(times) + times[-1] < BUDGET_S:
        times.append(_timed(run))
    return statistics.median(times)


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def update_seconds(width: int) -> float:
    """Of one bare update of PPO."""
    floor = UpdateFloor(width)
    floor.seconds()
    return min(floor.seconds() for _ in range(3))


def cost_table(widths: list[int], sizes: list[int]) -> None:
    """Seconds of every diagnostic, and per cent of an update."""
    updates = {width: update_seconds(width) for width in widths}
    print("| diagnostic | " + " | ".join(f"{w} wide, {n:,} samples" for w in widths for n in sizes) + " |")
    print("|---|" + "---|" * (len(widths) * len(sizes)))
    subjects = {(width, size): Subject(width, size) for width in widths for size in sizes}
    for name in DIAGNOSTICS:
        cells = []
        for (width, _), subject in subjects.items():
            seconds = subject.seconds(name)
            share = 100 * seconds / updates[width]
            cells.append(f"{seconds:.3g} s ({share:.2g} %)" if share < 100 else f"{seconds:.3g} s ({share:,.0f} %)")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print("| *one update of PPO* | " + " | ".join(f"{updates[w]:.3g} s" for w in widths for _ in sizes) + " |\n")


def probe_table(places: list[tuple[int, int]], rounds: int) -> None:
    """Ten copies at once beside one, in turn."""
    print("| probe: width, batch | ten together / one | ten one after another / one |\n|---|---|---|")
    for width, batch in places:
        network = MLP(OBSERVATIONS, ACTIONS, NetworkOptions(hidden=(width, width)), seed=0, name="policy")
        inputs = torch.randn(1000, OBSERVATIONS, generator=torch_generator(0, "benchmark"))
        targets = random_function_targets(network, inputs, 10, torch_generator(0, "targets"))
        ratios, apart = [], []
        work = batch * sum(parameter.numel() for parameter in network.parameters())
        steps = min(200, max(10, int(1.5e9 / work)))  # about a quarter of a second for one
        for i in range(rounds + 1):
            one, ten, each = (
                _train(network, inputs, some, batch, steps=steps, **options)
                for some, options in ((targets[:1], {}), (targets, {}), (targets, {"at_once": 1}))
            )
            if i:
                ratios.append(ten / one)
                apart.append(each / one)
        print(f"| {width}, {batch} | {statistics.median(ratios):.2f} | {statistics.median(apart):.2f} |", flush=True)
    print()


def _train(network: nn.Module, inputs: Tensor, targets: Tensor, batch: int, **options: Any) -> float:
    generator = torch_generator(0, "probe")
    return _timed(
        lambda: train_copies(network, inputs, targets, _adam, generator, batch_size=batch, points=1, **options)
    )


def _adam(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)  # as PPO's


class _Counted:
    """An operator that counts its products."""

    def __init__(self, operator: Any):
        self.operator, self.products = operator, 0
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device

    def __matmul__(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.operator @ vector


def density_table(rounds: int, order: int = 100, samples: int = 2000) -> None:
    """One density of the Ant policy beside so many bare products."""
    subject = Subject(256, samples)
    problem = Problem.of(subject.network, squared_error, subject.extra["batches"]["policy"])
    operator = _Counted(curvature_operator(problem, "hessian"))
    vector = torch.randn(operator.shape[0], generator=torch_generator(0, "vector"))
    products, ratios = 0, []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(order):
            operator @ vector
        bare = time.perf_counter() - start
        operator.products = 0
        start = time.perf_counter()
        density_quadrature(operator, order, 1, torch_generator(0, "density"))
        ratios.append((time.perf_counter() - start) / bare)
        products = operator.products
    print(f"| Hessian density, order {order}, {samples:,} samples, 2 x 256 | |\n|---|---|")
    print(f"| Hessian-vector products | {products} |")
    print(f"| time / {order} bare products | {statistics.median(ratios):.2f} |")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one width, one size, one round")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 1024], help="of the first table")
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 10_000], help="of the first table")
    chosen = parser.parse_args()
    quick = chosen.quick
    torch.set_num_threads(1)
    cost_table([64] if chosen.quick else chosen.widths, [1000] if chosen.quick else chosen.samples)
    probe_table(
        [(256, 128)] if quick else [(64, 128), (256, 128), (256, 512), (512, 128), (1024, 128)], 1 if quick else 5
    )
    density_table(1 if quick else 3)


if __name__ == "__main__":
    main()
