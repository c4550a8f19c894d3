"""C-CHAIN: keeps outputs on other data from drifting while a minibatch is learned (churn).

Tang et al. 2025 (arXiv 2506.00592); code bluecontra/C-CHAIN. The loss of every minibatch gets, for each of `networks`,

    + c D,      D = mean over samples and outputs of (f_theta(B_ref) - f_theta_prev(B_ref))^2

with B_ref a minibatch drawn from the update's observations independently of the one in training, and theta_prev the
weights from one gradient step ago, held fixed. For a policy of continuous actions f is the mean action.

c is fixed, or kept in a target ratio to the network's own loss L (PPO's clipped surrogate for the policy):

    c = max(least, target * mean |L| / (mean D + 1e-8))       means over the latest `window` updates, after `warm_up`

The public scripts differ, and this is how to get each (all keep the policy alone, and start again at a new task):

| script | options |
|---|---|
| `crl_dmc` (MuJoCo, Gaussian policy) | the defaults |
| `crl_gym_classic_control` | `distance: cross_entropy, coefficient: 1, target: 1e4, warm_up: 10, window: 50, sample: mean, least: 1` |
| `crl_procgen` | `distance: cross_entropy, coefficient: 10, target: 1e4, warm_up: 20, window: 200, sample: mean, least: 1` |
"""  # noqa: E501

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Len
from torch import Tensor, nn

from lop_ray.interventions.base import GradientStep, Intervention, LossStep, Training
from lop_ray.networks import evaluation_mode
from lop_ray.options import Options

_TINY = 1e-8


class CChainOptions(Options):
    """The options of `c_chain`; defaults are those of the published runs on MuJoCo tasks."""

    networks: Annotated[tuple[str, ...], Len(1)] = ("policy",)
    """Which networks' outputs, or heads' of a network that has several, are kept from drifting: [policy] is C-CHAIN;
    [policy, value] both, each with a coefficient of its own."""
    distance: Literal["squared", "cross_entropy"] = "squared"
    """squared: D as above. cross_entropy: D = mean over samples of -sum_a p_prev(a) log(p(a) + 1e-8), p the softmax of
    the outputs, for a policy of discrete actions; networks other than "policy" keep squared."""
    coefficient: Annotated[float, Ge(0.0)] = 100.0
    """c; with a target its first value."""
    target: Annotated[float, Gt(0.0)] | None = 0.05
    """beta: c D is to be this many times |L|. null: c stays as it is."""
    warm_up: Annotated[int, Ge(1)] = 50
    """Updates before c first follows the target."""
    window: Annotated[int, Ge(1)] = 100
    """Updates that the means are over."""
    sample: Literal["last", "mean"] = "last"
    """What an update gives to the means: L and D of its last minibatch, or their means over its minibatches."""
    least: Annotated[float, Ge(0.0)] = 0.0
    """Least c that the target can set."""
    at_task_change: Literal["restart", "keep"] = "restart"
    """restart: c is `coefficient` again, and the means begin anew (published; that knows of the task); keep."""


@dataclass
class _Chained:
    """One network, and what is remembered of it."""

    network: nn.Module
    outputs: slice
    previous: nn.Module
    coefficient: float
    losses: deque[float]
    distances: deque[float]
    steps: int = 0
    updates: int = 0
    latest: list[Tensor] = field(default_factory=list)


class CChain(Intervention):
    """Adds the churn on a reference batch to the loss.

    As in the public code there is no penalty in the first two minibatches of a run.
    """

    Options = CChainOptions
    options: CChainOptions

    def attach(self, training: Training) -> None:
        """Finds the networks.

        Raises:
            ValueError: There is none of that name.
        """
        super().attach(training)
        self._chained = {name: self._start(name, training.networks) for name in self.options.networks}

    def _start(self, name: str, networks: Mapping[str, nn.Module]) -> _Chained:
        network, outputs = _find(name, networks)
        # The copy is made before anything listens to the network's activations.
        previous = copy.deepcopy(network).requires_grad_(False)
        losses, distances = (deque[float](maxlen=self.options.window) for _ in range(2))
        return _Chained(network, outputs, previous, self.options.coefficient, losses, distances)

    def loss_term(self, step: LossStep) -> Tensor | None:
        """Sum of c D over the networks; None in the first two minibatches."""
        size, count = len(step.minibatch), len(step.inputs)
        rows = torch.randperm(count, generator=self.training.generator)[:size].to(step.inputs.device)
        reference, terms = step.inputs[rows], []
        for name, chained in self._chained.items():
            if chained.steps >= 2:
                distance = self._distance(name, chained, reference)
                terms.append(chained.coefficient * distance)
                chained.latest.append(torch.stack((step.losses[name].detach(), distance.detach())))
            chained.previous.load_state_dict(chained.network.state_dict())
            chained.steps += 1
        return torch.stack(terms).sum() if terms else None

    def _distance(self, name: str, chained: _Chained, reference: Tensor) -> Tensor:
        # In evaluation mode, so that no other method takes the pass for that of the loss.
        with evaluation_mode(chained.network):
            now = chained.network(reference)[..., chained.outputs]
        with torch.no_grad():
            before = chained.previous(reference)[..., chained.outputs]
        if name == "policy" and self.options.distance == "cross_entropy":
            return -(before.softmax(-1) * (now.softmax(-1) + _TINY).log()).sum(-1).mean()
        return (now - before).square().mean()

    def after_update(self, step: GradientStep) -> None:
        """Lets c follow the target."""
        options = self.options
        for chained in self._chained.values():
            if not chained.latest:
                continue
            seen = torch.stack(chained.latest if options.sample == "mean" else chained.latest[-1:])
            loss, distance = seen.mean(0).tolist()
            chained.latest.clear()
            chained.losses.append(abs(loss))
            chained.distances.append(distance)
            chained.updates += 1
            if options.target is not None and chained.updates >= options.warm_up:
                ratio = fmean(chained.losses) / (fmean(chained.distances) + _TINY)
                chained.coefficient = max(options.least, options.target * ratio)

    def at_task_change(self, task: int) -> None:
        """Starts the coefficient again."""
        if self.options.at_task_change == "restart":
            for chained in self._chained.values():
                chained.coefficient, chained.updates = self.options.coefficient, 0
                chained.losses.clear()
                chained.distances.clear()

    @property
    def coefficients(self) -> dict[str, float]:
        """The c of every network."""
        return {name: chained.coefficient for name, chained in self._chained.items()}

    def state_dict(self) -> dict[str, Any]:
        """By network: theta_prev, c, and what the means are over."""
        return {
            name: {
                "previous": {key: value.clone() for key, value in chained.previous.state_dict().items()},
                "coefficient": chained.coefficient,
                "losses": list(chained.losses),
                "distances": list(chained.distances),
                "latest": list(chained.latest),
                "steps": chained.steps,
                "updates": chained.updates,
            }
            for name, chained in self._chained.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        for name, chained in self._chained.items():
            saved = state[name]
            chained.previous.load_state_dict(saved["previous"])
            chained.coefficient, chained.steps, chained.updates = (
                saved["coefficient"],
                saved["steps"],
                saved["updates"],
            )
            chained.losses.extend(saved["losses"])
            chained.distances.extend(saved["distances"])
            chained.latest = list(saved["latest"])


def _find(name: str, networks: Mapping[str, nn.Module]) -> tuple[nn.Module, slice]:
    """The network of that name, or that has a head of that name, and which of its outputs are meant.

    Raises:
        ValueError: There is none.
    """
    if name in networks:
        return networks[name], slice(None)
    known = list(networks)
    for network in networks.values():
        heads, start = getattr(network, "heads", None), 0
        for head, module in heads.items() if isinstance(heads, nn.ModuleDict) else ():
            end = start + len(module.bias)  # type: ignore[arg-type]
            if head == name:
                return network, slice(start, end)
            known.append(head)
            start = end
    raise ValueError(f"c_chain.networks: there is no network or head {name!r}; this training has {', '.join(known)}")
