"""Several seeds of one small network as one batched network.

The parameters of K members lie in one matrix [K, P]; those of each member's own network are views of its row, so
diagnostics, checkpoints and interventions work on a member as on any other network. A layer of all members is one
product of stacks of matrices, which saves what many small calls cost: on a GPU nearly everything, on a CPU about
half of a step of five layers of 100 units.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lop_ray.algorithms.divergence import DivergedError, check_finite
from lop_ray.algorithms.optimizer import make_optimizer
from lop_ray.algorithms.supervised.examples import Examples
from lop_ray.algorithms.supervised.learner import Learner, Steps
from lop_ray.algorithms.supervised.networks import NAME
from lop_ray.denormals import denormals_as_zero
from lop_ray.diagnostics.batched import is_elementwise
from lop_ray.interventions import LossStep
from lop_ray.networks import MLP
from lop_ray.networks.in_place import ACTIVATIONS, activate_, activation_gradient

STACK_BYTES = 16e6
"""On a CPU a stack takes in no more members than have weights, gradients and outputs of this size in all. Measured at
width 100 in float64: ten in one stack are faster than in three or five (`benchmarks/supervised.py`)."""


def refuse_unstackable(learner: Learner) -> None:
    """Says why a member cannot be a part of a batched network.

    Args:
        learner: A member.

    Raises:
        ValueError: Its network is not a plain MLP, or an intervention has changed what the network computes.
    """
    network = learner.network
    if not isinstance(network, MLP):
        raise ValueError(f"{_REFUSED} needs network.kind mlp, not {type(network).__name__}")
    layers = network.hidden_layers()
    for layer in layers:
        if layer.normalisation is not None:
            raise ValueError(f"{_REFUSED} needs network.normalisation none")
        if type(layer.activation) not in ACTIVATIONS:
            raise ValueError(f"{_REFUSED} needs network.activation relu, leaky_relu or tanh")
    plain = {id(module) for module in (network, network.body, network.head)}
    plain |= {id(module) for layer in layers for module in (layer.incoming, layer.activation)}
    taps = {id(layer.activation): 1 for layer in layers} if learner.interventions.taps else {}
    changed = [
        module
        for module in network.modules()
        if id(module) not in plain
        or module._forward_pre_hooks
        or len(module._forward_hooks) > taps.get(id(module), 0)
        or list(module.buffers(recurse=False))
        or type(module) not in (MLP, nn.Sequential, nn.Linear, *ACTIVATIONS)
    ]
    if changed:
        names = ", ".join(learner.interventions.members)
        raise ValueError(f"{_REFUSED} is not for interventions that change what the network computes (among {names})")


_REFUSED = "resources.seeds_per_trial above 1"


@dataclass(frozen=True)
class _Layer:
    """A layer of all members: weights [K, out, in] and biases [K, out], and their gradients."""

    weight: Tensor
    bias: Tensor
    of_weight: Tensor
    of_bias: Tensor


class Stack:
    """Members that learn in step. While it lives, their parameters are views of its own.

    Without interventions one optimiser steps all of them, and each member's optimiser holds views of its state;
    with interventions every member's own optimiser steps it.

    Args:
        learners: Members that differ in the seed alone, all after the same number of gradient steps.

    Attributes:
        errors: By member, why it has ended; None for those at work.
    """

    def __init__(self, learners: Sequence[Learner]):
        for learner in learners:
            refuse_unstackable(learner)
        self._learners = list(learners)
        self.errors: list[DivergedError | None] = [None] * len(learners)
        first = learners[0]
        self._objective, self._limit = first.objective, first.options.grad_clip
        self._intervenes = bool(first.interventions.members)
        self._penalises = first.interventions.penalise
        self._weights, self._gradients = self._gathered()
        network = first.network
        assert isinstance(network, MLP)
        parts = self._views(self._weights), self._views(self._gradients)
        layers = [layer.incoming for layer in network.hidden_layers()] + [network.head]
        names = {id(module): path for path, module in network.named_modules()}
        self._layers = [
            _Layer(*(part[f"{names[id(layer)]}.{kind}"] for part in parts for kind in ("weight", "bias")))
            for layer in layers
        ]
        self._activations = [layer.activation for layer in network.hidden_layers()]
        self._shared = None if self._intervenes or not is_elementwise(first.optimizer) else self._shared_optimizer()
        self._memory: dict[tuple[str, int], Tensor] = {}

    def _gathered(self) -> tuple[Tensor, Tensor]:
        """Moves the members' parameters into one matrix, and gives them gradients in another."""
        parameters = list(self._learners[0].network.parameters())
        total = sum(parameter.numel() for parameter in parameters)
        weights = parameters[0].detach().new_zeros(len(self._learners), total)
        gradients = torch.zeros_like(weights)
        for learner, row, gradient in zip(self._learners, weights, gradients, strict=True):
            begin = 0
            for parameter in learner.network.parameters():
                end = begin + parameter.numel()
                row[begin:end] = parameter.detach().flatten()
                parameter.data = row[begin:end].view(parameter.shape)
                parameter.grad = gradient[begin:end].view(parameter.shape)
                begin = end
        return weights, gradients

    def _views(self, matrix: Tensor) -> dict[str, Tensor]:
        """By name of parameter its part of every row, [K, *shape]."""
        found, begin = {}, 0
        for name, parameter in self._learners[0].network.named_parameters():
            end = begin + parameter.numel()
            found[name] = matrix[:, begin:end].view(-1, *parameter.shape)
            begin = end
        return found

    def _shared_optimizer(self) -> torch.optim.Optimizer:
        """One optimiser of the whole matrix, with the members' states."""
        whole = nn.Parameter(self._weights, requires_grad=True)
        whole.grad = self._gradients
        trial, options = self._learners[0].trial, self._learners[0].options
        optimizer = make_optimizer([whole], trial.optimizer, options.lr)
        states = [[learner.optimizer.state[p] for p in learner.parameters] for learner in self._learners]
        for key, value in states[0][0].items():
            if isinstance(value, Tensor) and value.ndim:
                rows = [torch.cat([state[key].flatten() for state in own]) for own in states]
                optimizer.state[whole][key] = torch.stack(rows)
            else:
                optimizer.state[whole][key] = value.clone() if isinstance(value, Tensor) else value
        return optimizer

    def _share_state(self) -> None:
        """Lets every member's optimiser see its part of the shared optimiser's state."""
        if self._shared is None:
            return
        (state,) = self._shared.state.values() or ({},)
        for key, value in state.items():
            parts = self._views(value) if isinstance(value, Tensor) and value.ndim else None
            for k, learner in enumerate(self._learners):
                for name, parameter in learner.network.named_parameters():
                    own = value.clone() if isinstance(value, Tensor) and parts is None else value
                    learner.optimizer.state[parameter][key] = own if parts is None else parts[name][k]

    @denormals_as_zero()
    def train(
        self, batches: Iterable[tuple[Tensor, Tensor]], inputs: Sequence[Tensor | None], shown: Sequence[Steps]
    ) -> None:
        """Gradient steps of all members.

        A member whose loss or gradient is not finite ends: it is told in `errors`, and its numbers no longer count.

        Args:
            batches: Inputs [K, B, ...] and targets [K, B, ...] of every step.
            inputs: By member [N, ...], all that the update shows, for interventions.
            shown: By member, takes in what its steps show.
        """
        for values, targets in batches:
            if all(self.errors):
                break
            losses, norms, outputs = self._step(values, targets, inputs)
            for k, learner in enumerate(self._learners):
                if self.errors[k] is None:
                    shown[k].add(losses[k], norms[k], outputs[k], targets[k], self._objective)
                    seen = inputs[k]
                    if self._intervenes and seen is not None:
                        learner.interventions.after_gradient_step(learner.gradient_steps, seen)
        self._share_state()

    @torch.no_grad()
    def _step(
        self, values: Tensor, targets: Tensor, inputs: Sequence[Tensor | None]
    ) -> tuple[list[float], list[float], Tensor]:
        if self._penalises:
            losses, totals, outputs = self._with_penalties(values, targets, inputs)
        else:
            losses, outputs = self._backward(values, targets)
            totals = losses
        norms = torch.linalg.vector_norm(self._gradients, dim=1)
        numbers = torch.stack([losses, norms, totals]).tolist()
        for k, learner in enumerate(self._learners):
            if self.errors[k] is None:
                try:
                    check_finite(numbers[2][k], numbers[1][k], learner.named_gradients, learner.gradient_steps + 1)
                except DivergedError as error:
                    self.errors[k] = error
        if self._limit is not None:
            too_long = norms > self._limit
            self._gradients *= torch.where(too_long, self._limit / (norms + 1e-6), 1.0).unsqueeze(1)
        if self._shared is not None:
            self._shared.step()
        for k, learner in enumerate(self._learners):
            if self.errors[k] is None:
                if self._shared is None:
                    learner.optimizer.step()
                learner.gradient_steps += 1
        return numbers[0], numbers[1], outputs

    def _backward(self, values: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [K] and outputs [K, B, outputs]; writes the gradients. By hand, into the same memory every time."""
        seen = [values]
        for i, layer in enumerate(self._layers):
            weight, last = layer.weight, i == len(self._activations)
            shape = (len(weight), values.shape[1], weight.shape[1])
            out = weight.new_empty(shape) if last else self._take("out", i, shape, weight)
            torch.baddbmm(layer.bias.unsqueeze(1), seen[-1], weight.mT, out=out)
            seen.append(out if last else activate_(self._activations[i], out))
        if self._intervenes:
            for k, learner in enumerate(self._learners):
                learner.interventions.show(NAME, [activations[k] for activations in seen[1:-1]])
        outputs = seen[-1]
        losses = self._objective.losses(outputs, targets).mean(-1)
        gradient = self._objective.gradient(outputs, targets)
        for i in reversed(range(len(self._layers))):
            layer = self._layers[i]
            torch.bmm(gradient.mT, seen[i], out=layer.of_weight)
            torch.sum(gradient, 1, out=layer.of_bias)
            if i:
                below = self._take("gradient", i % 2, seen[i].shape, layer.weight)
                torch.bmm(gradient, layer.weight, out=below)
                gradient = activation_gradient(self._activations[i - 1], below, seen[i], out=below)
        return losses, outputs

    def _with_penalties(
        self, values: Tensor, targets: Tensor, inputs: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same through autograd, with the members' penalties in their losses."""
        with torch.enable_grad():
            leaves = [(each.weight.detach(), each.bias.detach()) for each in self._layers]
            for leaf in (each for pair in leaves for each in pair):
                leaf.requires_grad_()
            hidden, seen = values, []
            for i, (weight, bias) in enumerate(leaves):
                hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight.mT)
                if i < len(self._activations):
                    hidden = self._activations[i].forward(hidden)
                    seen.append(hidden)
            losses = self._objective.losses(hidden, targets).mean(-1)
            self._gradients.zero_()
            totals = []
            for k, learner in enumerate(self._learners):
                learner.interventions.show(NAME, [activations[k].detach() for activations in seen])
                all_inputs = inputs[k]
                assert all_inputs is not None
                step = LossStep(all_inputs, values[k], {NAME: losses[k]}, {NAME: hidden[k]})
                penalty = None if self.errors[k] else learner.interventions.loss_term(step)
                totals.append(losses[k] if penalty is None else losses[k] + penalty)
            # Penalties reach the members' own parameters, whose gradients are views of the matrix.
            whole = torch.stack(totals)
            whole.sum().backward()
        for (weight, bias), layer in zip(leaves, self._layers, strict=True):
            assert weight.grad is not None
            assert bias.grad is not None
            layer.of_weight.add_(weight.grad)
            layer.of_bias.add_(bias.grad)
        return losses.detach(), whole.detach(), hidden.detach()

    def _take(self, name: str, layer: int, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory that is written anew at every step."""
        kept = self._memory.get((name, layer))
        if kept is None or kept.shape != torch.Size(shape):
            kept = self._memory[name, layer] = like.new_empty(tuple(shape))
        return kept


def members_at_once(learner: Learner, count: int, batch_size: int) -> int:
    """Into stacks of how many members `count` of them are best divided.

    Args:
        learner: One of them.
        count: How many there are.
        batch_size: Examples a gradient step.

    Returns:
        All on a GPU; on a CPU as many as keep within `STACK_BYTES`, in stacks of nearly one size.
    """
    if learner.device.type != "cpu":
        return count
    network = learner.network
    assert isinstance(network, MLP)
    numbers = 2 * sum(p.numel() for p in network.parameters())
    numbers += 2 * batch_size * sum(layer.units for layer in network.hidden_layers())
    size = numbers * next(network.parameters()).element_size()
    stacks = -(-count // max(1, int(STACK_BYTES // size)))
    return -(-count // stacks)


def stacked_batches(members: Sequence[Iterable[Examples]]) -> Iterable[tuple[Tensor, Tensor]]:
    """The minibatches of all members side by side, step by step.

    Yields:
        Inputs [K, B, ...] and targets [K, B, ...].
    """
    latest: tuple[list[Examples], tuple[Tensor, Tensor]] | None = None
    for step in zip(*members, strict=True):
        if latest is None or any(one is not other for one, other in zip(step, latest[0], strict=True)):
            stacked = torch.stack([each.inputs for each in step]), torch.stack([each.targets for each in step])
            latest = list(step), stacked
        yield latest[1]
