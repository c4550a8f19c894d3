"""What keeps a network plastic: the moments at which an intervention may act.

An intervention is a small object. It takes part in training at most at these moments, each a
no-op unless overridden:

| moment | when | what for |
|---|---|---|
| `build` | networks exist, weights drawn | change the network (spectral norm) |
| `attach` | the optimiser exists | remember networks, size the state |
| `loss_term` | with every loss | add a penalty |
| `after_gradient_step` | after every optimiser step | reset units, clip, perturb |
| `after_update` | after the last step of an update | the same, rarely |
| `at_task_change` | the problem has moved on | reset, shrink and perturb |

They compose: a variant may list several, and they act in that order. Each draws from a random
stream of its own, so that adding one does not change what another draws. All state that must
survive a restart is in `state_dict`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lop_ray.networks import ActivationTap
from lop_ray.options import Options
from lop_ray.seeding import torch_generator


@dataclass(frozen=True)
class Training:
    """What an intervention acts on.

    Attributes:
        networks: By name ("policy", "value"), each with a view of its hidden layers.
        optimizer: The optimiser of all of them.
        generator: Source of the interventions' randomness (CPU). `Interventions` hands each member a
            generator of its own, derived from the initial seed of this one.
        fresh: Builds the networks anew, with weights drawn from the generator it is given (on the CPU): by
            name, of the same architecture as before the interventions changed them. None where nobody can.
    """

    networks: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    fresh: Callable[[torch.Generator], Mapping[str, nn.Module]] | None = None


@dataclass(frozen=True)
class LossStep:
    """One loss that is about to be differentiated.

    Attributes:
        inputs: [N, ...], every observation of the update that the minibatch belongs to.
        minibatch: [B, ...], the inputs of this minibatch.
        losses: By name of what is trained, its own term of the loss on this minibatch, before it is weighed; a
            scalar with its graph. For PPO: the clipped surrogate ("policy") and the squared error ("value"), also
            where both are heads of one network.
        outputs: By name of network, what it gave on `minibatch`, [B, outputs], with its graph.
    """

    inputs: Tensor
    minibatch: Tensor
    losses: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class GradientStep:
    """One optimiser step that was just taken.

    Attributes:
        count: Gradient steps so far, this one included.
        activations: Per network, per hidden layer, [B, units] or [B, channels, H, W]: what the forward
            pass of this step's loss gave, before the step. Empty unless `wants_activations`.
        inputs: [N, ...], every observation of the update that the step belongs to.
    """

    count: int
    activations: Mapping[str, Sequence[Tensor]]
    inputs: Tensor


class Intervention:
    """Base of all interventions: does nothing at every moment.

    Args:
        options: Keyword arguments, checked by the class's `Options`.
    """

    Options: ClassVar[type[Options]] = Options
    wants_activations: bool = False

    def __init__(self, **options: Any):
        self.options = self.Options(**options)

    def build(self, networks: Mapping[str, nn.Module], generator: torch.Generator) -> None:
        """Changes the networks, before the optimiser sees their parameters."""

    def attach(self, training: Training) -> None:
        """Called once, when training is about to begin."""
        self.training = training

    def loss_term(self, step: LossStep) -> Tensor | None:
        """A scalar to add to the loss of this minibatch, or None."""
        return None

    def after_gradient_step(self, step: GradientStep) -> None:
        """Called after every optimiser step."""

    def after_update(self, step: GradientStep) -> None:
        """Called after the last optimiser step of an update, with that step."""

    def at_task_change(self, task: int) -> None:
        """Called when the problem has moved on to `task`."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive a restart, as tensors and plain numbers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


class Interventions:
    """Several interventions as one, in order; feeds them what they ask for.

    Args:
        members: By name, in the order in which they act.
    """

    def __init__(self, members: Mapping[str, Intervention]):
        self.members = dict(members)
        self._taps: dict[str, ActivationTap] = {}
        self._generators: dict[str, torch.Generator] = {}
        self._acting = [m for m in self.members.values() if _overrides(m, "after_gradient_step")]
        self._penalties = [m for m in self.members.values() if _overrides(m, "loss_term")]
        self._after_update = [m for m in self.members.values() if _overrides(m, "after_update")]

    def build(self, networks: Mapping[str, nn.Module], generator: torch.Generator) -> None:
        """Lets every member change the networks; each draws from a stream named after it."""
        for name, member in self.members.items():
            member.build(networks, torch_generator(generator.initial_seed(), "build", name))

    def attach(self, training: Training) -> None:
        """Hands every member the training, and taps the networks if a member wants activations."""
        for name, member in self.members.items():
            self._generators[name] = torch_generator(training.generator.initial_seed(), "train", name)
            member.attach(replace(training, generator=self._generators[name]))
        if any(member.wants_activations for member in self.members.values()):
            self._taps = {name: ActivationTap(network) for name, network in training.networks.items()}

    @property
    def taps(self) -> bool:
        """Whether a member wants the activations of the networks' forward passes."""
        return bool(self._taps)

    def show(self, network: str, activations: Sequence[Tensor]) -> None:
        """Hands in activations [B, units] by layer, where a network's forward pass in training is made elsewhere."""
        if network in self._taps:
            self._taps[network].latest = list(activations)

    @property
    def penalise(self) -> bool:
        """Whether a member has a penalty at all; if not, no `LossStep` needs to be made."""
        return bool(self._penalties)

    def loss_term(self, step: LossStep) -> Tensor | None:
        """Sum of the members' penalties, or None."""
        terms = [term for member in self._penalties if (term := member.loss_term(step)) is not None]
        return torch.stack(terms).sum() if terms else None

    def after_gradient_step(self, count: int, inputs: Tensor) -> None:
        """Lets every member act after an optimiser step."""
        if self._acting:
            step = self._step(count, inputs)
            for member in self._acting:
                member.after_gradient_step(step)

    def after_update(self, count: int, inputs: Tensor) -> None:
        """Lets every member act after an update."""
        if self._after_update:
            step = self._step(count, inputs)
            for member in self._after_update:
                member.after_update(step)

    def _step(self, count: int, inputs: Tensor) -> GradientStep:
        for name, tap in self._taps.items():
            if not all(map(len, tap.latest)):
                raise RuntimeError(
                    f"the network {name!r} was stepped without a forward pass in training mode, so its units cannot "
                    "be scored; call network.train() before the loss is computed"
                )
        return GradientStep(count, {name: tap.latest for name, tap in self._taps.items()}, inputs)

    def at_task_change(self, task: int) -> None:
        """Tells every member that the task changed."""
        for member in self.members.values():
            member.at_task_change(task)

    def state_dict(self) -> dict[str, Any]:
        """By name: each member's state and that of its random generator."""
        return {
            name: {"state": member.state_dict(), "generator": self._generators[name].get_state()}
            for name, member in self.members.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave; call after `attach`.

        Raises:
            ValueError: The state is of other interventions.
        """
        if set(state) != set(self.members):
            raise ValueError(
                f"the saved state is of the interventions {sorted(state)}, this run has {sorted(self.members)}; "
                "continue with the variant that the state was saved with"
            )
        for name, member in self.members.items():
            self._generators[name].set_state(state[name]["generator"])
            member.load_state_dict(state[name]["state"])


def _overrides(member: Intervention, moment: str) -> bool:
    return getattr(type(member), moment) is not getattr(Intervention, moment)
