"""The plasticity probe: how well a copy of the network still learns something new (Lyle et al. 2023, 2.2 and 3.1).

From a copy of the weights and of the optimiser, the network is trained toward random targets

    g(x) = a + sin(10^5 f(x; omega_0)),    a = the network's mean prediction (per output),

with omega_0 drawn like the network's own first weights; plasticity is P = b - E[final loss], with b the targets'
variance. The copies, one a target, train as one batched network: parameters are stacked [K, ...], one optimiser
steps all of them, and every step reads one minibatch for all. Large networks train in several smaller stacks, or in
turn, to the same numbers; see `batched.py`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from lop_ray.diagnostics.base import Diagnostic, Findings, ObservingOptions, Subject, check_finite
from lop_ray.diagnostics.batched import copies_at_once, copies_of, is_elementwise, stacked_optimizer
from lop_ray.networks import Initialiser, hidden_layers, trainable_weight


@torch.no_grad()
def fresh_network(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with newly drawn weights: hidden layers by their initialisers, heads by the same rule with gain 1.

    Args:
        network: With a view of its hidden layers.
        generator: Draws the weights (CPU).

    Returns:
        The copy, in evaluation mode. Normalisations are back at scale 1 and shift 0.
    """
    fresh = copy.deepcopy(network).eval()
    layers = hidden_layers(fresh)
    rules: dict[nn.Module, Initialiser] = {layer.incoming: layer.initialiser for layer in layers}
    for layer in layers:
        for reader in layer.readers:
            rules.setdefault(reader, Initialiser(layer.initialiser.name, 1.0))
        if isinstance(layer.normalisation, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
            layer.normalisation.reset_parameters()
    for module, rule in rules.items():
        weight = trainable_weight(module)
        weight.copy_(rule.weight(weight, generator))
        if isinstance(module.bias, Tensor):
            module.bias.copy_(rule.bias(module.bias, weight[0].numel(), generator))
    return fresh


@torch.no_grad()
def random_function_targets(
    network: nn.Module,
    inputs: Shaped[Tensor, "samples ..."],
    count: int,
    generator: torch.Generator,
    frequency: float = 1e5,
) -> Float[Tensor, "{count} samples outputs"]:
    """Targets a + sin(frequency f(x; omega_k)) of `count` random functions (Lyle et al. 2023, Section 3.1).

    Args:
        network: In evaluation mode, with a view of its hidden layers.
        inputs: [N, ...].
        count: K.
        generator: Draws the functions (CPU).
        frequency: 10^5 in the source: targets are noise over inputs that differ at all.

    Returns:
        [K, N, outputs].
    """
    offset = network(inputs).mean(0)
    functions = [fresh_network(network, generator) for _ in range(count)]
    return offset + torch.stack([torch.sin(frequency * function(inputs)) for function in functions])


def random_label_targets(
    classes: int, samples: int, count: int, generator: torch.Generator
) -> Int64[Tensor, "{count} {samples}"]:
    """Labels drawn uniformly, for the capacity probe of classifiers (Zhang et al. 2017).

    Returns:
        [K, N], int64.
    """
    return torch.randint(classes, (count, samples), generator=generator)


@dataclass(frozen=True)
class ProbeResult:
    """What the copies learned.

    Attributes:
        initial: [K], losses on all inputs before the first step.
        final: [K], after the last.
        curves: [K, points], minibatch losses averaged over equal spans of steps.
        baseline: [K], b: the targets' variance (regression), log(classes) (labels).
        accuracy: [K], share of labels learned; None for regression.
    """

    initial: Float[Tensor, " copies"]
    final: Float[Tensor, " copies"]
    curves: Float[Tensor, "copies points"]
    baseline: Float[Tensor, " copies"]
    accuracy: Float[Tensor, " copies"] | None = None

    @property
    def plasticity(self) -> float:
        """P = b - E[final loss], eq. 5."""
        return float((self.baseline - self.final).mean())


def train_copies(
    network: nn.Module,
    inputs: Shaped[Tensor, "samples ..."],
    targets: Float[Tensor, "copies targeted outputs"] | Int64[Tensor, "copies targeted"],
    make_optimizer: Callable[[Sequence[Tensor]], torch.optim.Optimizer],
    generator: torch.Generator,
    *,
    steps: int = 2000,
    batch_size: int = 128,
    points: int = 100,
    at_once: int | None = None,
) -> ProbeResult:
    """Trains one copy of `network` toward each of K targets, as one batched network or several.

    Args:
        network: Left as it is; copies train in evaluation mode (no dropout, fixed statistics).
        inputs: [N, ...].
        targets: [K, N, outputs] for regression (mean squared error over samples and outputs), or [K, N] int64
            labels (cross-entropy).
        make_optimizer: From the stacked parameters, in the order of `network.parameters()`, to their optimiser. They
            are [K, *shape] for K copies in a stack, and of the parameters' own shapes for one copy alone.
        generator: Draws the minibatches (CPU), with replacement and the same for all copies.
        steps: Optimiser steps.
        batch_size: Minibatch.
        points: Points of the learning curves, at most `steps`.
        at_once: Copies in one batched network; by default what `copies_at_once` finds best. The result is the same
            up to rounding.

    Returns:
        Losses and curves.

    Raises:
        ValueError: Targets for another number of samples.
    """
    if targets.shape[1] != len(inputs):
        raise ValueError(f"targets for {targets.shape[1]} samples, but {len(inputs)} inputs")
    model = copy.deepcopy(network).eval()
    if at_once is None:
        at_once = copies_at_once(model, len(targets), inputs[:1], min(batch_size, len(inputs)))
    rows = torch.randint(len(inputs), (steps, min(batch_size, len(inputs))), generator=generator).to(inputs.device)
    groups = [
        _train_group(model, inputs, group, make_optimizer, rows, min(points, steps))
        for group in targets.tensor_split(math.ceil(len(targets) / at_once))
    ]
    if len(groups) == 1:
        return groups[0]
    accuracies = [group.accuracy for group in groups if group.accuracy is not None]
    return ProbeResult(
        torch.cat([group.initial for group in groups]),
        torch.cat([group.final for group in groups]),
        torch.cat([group.curves for group in groups]),
        torch.cat([group.baseline for group in groups]),
        torch.cat(accuracies) if accuracies else None,
    )


def _train_group(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    make_optimizer: Callable[[Sequence[Tensor]], torch.optim.Optimizer],
    rows_of_all_steps: Tensor,
    points: int,
) -> ProbeResult:
    labels, copies, steps = not targets.is_floating_point(), len(targets), len(rows_of_all_steps)
    leaves, forward = copies_of(model, copies, inputs[:2])
    optimizer = make_optimizer(leaves)

    def losses(outputs: Tensor, wanted: Tensor) -> Tensor:
        if labels:
            each = nn.functional.cross_entropy(outputs.flatten(0, 1), wanted.flatten(), reduction="none")
            return each.view(copies, -1).mean(1)
        return (outputs - wanted).square().flatten(1).mean(1)

    with torch.no_grad():
        initial = losses(forward(inputs), targets)
    curves, counts = initial.new_zeros(copies, points), initial.new_zeros(points)
    for step, rows in enumerate(rows_of_all_steps):
        optimizer.zero_grad(set_to_none=True)
        each = losses(forward(inputs[rows]), targets[:, rows])
        each.sum().backward()
        optimizer.step()
        point = step * points // steps
        curves[:, point] += each.detach()
        counts[point] += 1
    with torch.no_grad():
        outputs = forward(inputs)
        final = losses(outputs, targets)
    if labels:
        baseline = torch.full_like(final, math.log(outputs.shape[-1]))
        accuracy = (outputs.argmax(-1) == targets).double().mean(1)
        return ProbeResult(initial, final, curves / counts, baseline, accuracy)
    baseline = (targets - targets.mean(1, keepdim=True)).square().flatten(1).mean(1)
    return ProbeResult(initial, final, curves / counts, baseline)


class ProbeOptions(ObservingOptions):
    """The plasticity probe, on the latest observations."""

    every: Annotated[int, Ge(1)] = 250
    """Updates between two probes."""
    kind: Literal["functions", "labels"] = "functions"
    """Random functions, or random labels (the capacity probe; outputs are logits)."""
    targets: Annotated[int, Ge(1)] = 10
    """K: targets, each fitted by a copy."""
    steps: Annotated[int, Ge(1)] = 2000
    """Optimiser steps."""
    batch_size: Annotated[int, Ge(1)] = 128
    """Minibatch of the probe."""
    points: Annotated[int, Ge(1)] = 100
    """Points of the mean learning curve in `spectra`."""
    optimizer: Literal["training", "adam"] = "training"
    """A copy of the run's optimiser with its state, as the source does, or a new Adam with `lr`."""
    lr: Annotated[float, Gt(0.0)] = 1e-3
    """Learning rate of the new Adam."""

    def needs(self) -> frozenset[str]:
        """The run's optimiser, for `training`."""
        return frozenset({"optimizers"}) if self.optimizer == "training" else frozenset()


def measure_probe(subject: Subject, options: ProbeOptions) -> Findings:
    """Probe `probe_functions` or `probe_labels`: initial_loss, final_loss, final_loss_std, baseline, plasticity.

    And accuracy, for labels. Every probe of a run draws the same random functions (their stream does not depend
    on the update), so that what changes is the network.
    """
    network, inputs = subject.network, subject.observations[-options.samples :]
    targets_generator = subject.generator("probe.targets", every_update=False)
    frozen = copy.deepcopy(network).eval()
    if options.kind == "labels":
        classes = subject.outputs(options.samples).shape[-1]
        targets = random_label_targets(classes, len(inputs), options.targets, targets_generator).to(inputs.device)
    else:
        targets = random_function_targets(frozen, inputs, options.targets, targets_generator)

    trained_by = subject.of_network("optimizers") if options.optimizer == "training" else None

    def make_optimizer(stacked: Sequence[Tensor]) -> torch.optim.Optimizer:
        if trained_by is None:
            return torch.optim.Adam(list(stacked), lr=options.lr, fused=True)
        return stacked_optimizer(trained_by, list(network.parameters()), stacked)

    result = train_copies(
        frozen,
        inputs,
        targets,
        make_optimizer,
        subject.generator("probe.batches"),
        steps=options.steps,
        batch_size=options.batch_size,
        points=options.points,
        at_once=None if trained_by is None or is_elementwise(trained_by) else 1,  # else copies would mix
    )
    name, found = f"probe_{options.kind}", Findings()
    if not bool(torch.isfinite(result.final).all()):
        check_finite(result.initial, "initial losses of the probe")  # the copies may diverge; that is a result
    found.add_probe(
        name,
        initial_loss=float(result.initial.mean()),
        final_loss=float(result.final.mean()),
        final_loss_std=float(result.final.std(correction=0)),
        baseline=float(result.baseline.mean()),
        plasticity=result.plasticity,
    )
    if result.accuracy is not None:
        found.add_probe(name, accuracy=float(result.accuracy.mean()))
    found.add_spectrum(f"{name}_curve", result.curves.mean(0))
    found.add_spectrum(f"{name}_final_losses", result.final)
    return found


PROBE = Diagnostic("probe", ProbeOptions, measure_probe)
