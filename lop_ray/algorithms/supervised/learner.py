"""The gradient steps of supervised training, with a place for interventions after every step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lop_ray.algorithms.divergence import check_finite, clip_norm, global_norm
from lop_ray.algorithms.optimizer import make_optimizer
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.supervised.examples import Examples
from lop_ray.algorithms.supervised.networks import NAME, draw_classifier
from lop_ray.algorithms.supervised.objective import Objective
from lop_ray.algorithms.supervised.options import SupervisedOptions
from lop_ray.denormals import denormals_as_zero
from lop_ray.interventions import Interventions, LossStep, Training, make_interventions
from lop_ray.networks import evaluation_mode, trainable_weight
from lop_ray.seeding import torch_generator

_CHUNK = 4096
"""Examples of one forward pass when a network is only looked at."""
_FOLD = 512
"""Gradient steps after which outputs are made into counts."""


@dataclass
class Steps:
    """What gradient steps showed: each number is from before its step.

    Attributes:
        losses: Of the minibatches, without the interventions' penalties.
        norms: Of the whole gradient, before clipping.
        sizes: Examples of each.
        correct: Per step how many of them were classified right; None for regression.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    correct: list[int] | None = field(default_factory=list)
    _waiting: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, loss: float, norm: float, outputs: Tensor, targets: Tensor, objective: Objective) -> None:
        """Takes in a step; outputs [N, ...] are looked at some steps later, all together."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.sizes.append(len(outputs))
        self._waiting.append((outputs, targets))
        if len(self._waiting) >= _FOLD:
            self.fold(objective)

    def fold(self, objective: Objective) -> None:
        """Counts what is right among the outputs that wait."""
        if not self._waiting:
            return
        outputs, targets = (torch.cat(each) for each in zip(*self._waiting, strict=True))
        found = objective.correct(outputs, targets)
        if found is None:
            self.correct = None
        else:
            assert self.correct is not None
            sizes = [len(some) for some, _ in self._waiting]
            self.correct += torch.stack([part.sum() for part in found.split(sizes)]).tolist()
        self._waiting.clear()

    def mean_loss(self) -> float:
        """Over the examples."""
        return sum(loss * size for loss, size in zip(self.losses, self.sizes, strict=True)) / sum(self.sizes)

    def accuracy(self) -> float | None:
        """Over the examples."""
        return None if self.correct is None else sum(self.correct) / sum(self.sizes)


class Learner:
    """The classifier of a trial, its optimiser and its interventions.

    Args:
        trial: What to train.
        input_shape: Of one example.
        objective: What to minimise.
        dtype: Of the weights.
        seed: Of the first weights; the trial's, but for fresh networks.
        interventions: By name, their options; the trial's, but for fresh networks.
    """

    def __init__(
        self,
        trial: TrialSpec,
        input_shape: Sequence[int],
        objective: Objective,
        dtype: torch.dtype,
        *,
        seed: int | None = None,
        interventions: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        self.trial, self._shape, self._dtype = trial, tuple(input_shape), dtype
        self.objective, self.options = objective, SupervisedOptions(**trial.algorithm_options)
        self.gradient_steps = 0
        self._seed = trial.seed if seed is None else seed
        self.device = torch.device("cuda" if trial.resources.gpus else "cpu")
        members = trial.interventions if interventions is None else interventions
        self.network, self.interventions = self._built(make_interventions(members))
        self.parameters: list[Tensor] = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(
            self.network.parameters(), trial.optimizer, self.options.lr, networks=[self.network], seed=self._seed
        )
        generator = torch_generator(self._seed, "interventions", "training")
        self.interventions.attach(Training({NAME: self.network}, self.optimizer, generator, self._fresh))
        self._acts = bool(members)
        of = trial.optimizer
        self._plain_sgd = of.name == "sgd" and not of.momentum and not of.weight_decay
        self.network.train()

    def _built(self, interventions: Interventions) -> tuple[nn.Module, Interventions]:
        network = draw_classifier(self.trial, self._shape, self.objective.outputs, self._dtype, self._seed)
        interventions.build({NAME: network}, torch_generator(self._seed, "interventions", "build"))
        return network.to(self.device), interventions

    def initial(self) -> nn.Module:
        """The network as it was before its first step, interventions' changes included, drawn again."""
        return self._built(make_interventions(self.trial.interventions))[0].eval()

    def _fresh(self, generator: torch.Generator) -> dict[str, nn.Module]:
        seed = int(torch.randint(2**62, (), generator=generator))
        return {NAME: draw_classifier(self.trial, self._shape, self.objective.outputs, self._dtype, seed)}

    def weights(self) -> list[Tensor]:
        """The weights of all layers, without biases."""
        return [trainable_weight(m) for m in self.network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]

    @denormals_as_zero()
    def train(self, batches: Iterable[Examples], inputs: Tensor | None, steps: Steps) -> None:
        """Gradient steps, one for each of `batches`.

        Args:
            batches: What they see.
            inputs: [N, ...], all that the update shows, for interventions; None to leave those alone.
            steps: Takes in what they show.

        Raises:
            DivergedError: A loss or gradient is not finite; that step is not taken.
        """
        acts = self._acts and inputs is not None
        for batch in batches:
            loss, norm, outputs = self._step(batch, inputs if acts else None)
            steps.add(loss, norm, outputs, batch.targets, self.objective)
            if acts and inputs is not None:
                self.interventions.after_gradient_step(self.gradient_steps, inputs)
        steps.fold(self.objective)

    def _step(self, batch: Examples, inputs: Tensor | None) -> tuple[float, float, Tensor]:
        outputs = self.network(batch.inputs)
        loss = total = self.objective.loss(outputs, batch.targets)
        if inputs is not None and self.interventions.penalise:
            step = LossStep(inputs, batch.inputs, {NAME: loss}, {NAME: outputs})
            penalty = self.interventions.loss_term(step)
            total = loss if penalty is None else loss + penalty
        for parameter in self.parameters:
            parameter.grad = None
        total.backward()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        numbers = [loss.detach(), global_norm(gradients)]
        if total is not loss:
            numbers.append(total.detach())
        value, norm, *whole = torch.stack(numbers).tolist()
        check_finite(whole[0] if whole else value, norm, self.named_gradients, self.gradient_steps + 1)
        clip_norm(gradients, norm, self.options.grad_clip)
        if self._plain_sgd and len(gradients) == len(self.parameters):
            with torch.no_grad():  # what torch.optim.SGD does, without its preparations: a twentieth of a small step
                torch._foreach_add_(self.parameters, gradients, alpha=-self.optimizer.param_groups[0]["lr"])
        else:
            self.optimizer.step()
        self.gradient_steps += 1
        return value, norm, outputs.detach()

    def named_gradients(self) -> list[tuple[str, Tensor | None]]:
        """By name, of all parameters."""
        return [(f"{NAME}.{name}", parameter.grad) for name, parameter in self.network.named_parameters()]

    @torch.no_grad()
    def look(self, examples: Examples) -> tuple[float, float | None]:
        """Loss and accuracy (None for regression) on some examples, in evaluation mode; nothing changes.

        Args:
            examples: N of them.

        Returns:
            Means over them.
        """
        losses, correct = [], []
        with evaluation_mode(self.network):
            for begin in range(0, len(examples), _CHUNK):
                some = examples.rows(slice(begin, begin + _CHUNK))
                outputs = self.network(some.inputs)
                losses.append(self.objective.losses(outputs, some.targets))
                found = self.objective.correct(outputs, some.targets)
                if found is not None:
                    correct.append(found)
        accuracy = float(torch.cat(correct).to(torch.float64).mean()) if correct else None
        return float(torch.cat(losses).mean()), accuracy

    def state_dict(self) -> dict[str, Any]:
        """Everything from which training continues bit for bit."""
        return {
            "network": unshared(self.network.state_dict()),
            "optimizer": unshared(self.optimizer.state_dict()),
            "interventions": self.interventions.state_dict(),
            "gradient_steps": self.gradient_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.interventions.load_state_dict(state["interventions"])
        self.gradient_steps = state["gradient_steps"]


def unshared(state: Any) -> Any:
    """Nested state with every tensor a copy: a file holds all of the memory that a tensor is a view of."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: unshared(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(unshared(value) for value in state)
    return state
