"""Utility-based perturbed gradient descent (UPGD), and with Adam's moments (AdaUPGD).

Elsayed & Mahmood 2024 (arXiv 2404.00781, Algorithm 1); code `core/optim/weight_upgd/first_order.py` and, for PPO,
`core/run/rl/adaupgd.py` of mohmdelsayed/upgd. Gating of some layers only is that of bnshin83/upgd
(`rl_upgd_layerselective.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lop_ray.seeding import torch_generator


class UPGD(torch.optim.Optimizer):
    """Small steps and little noise for useful weights, large ones for useless weights.

    With the gradient g, step t and noise xi ~ N(0, sigma^2), for every single weight theta:

        u     <- beta_u u + (1 - beta_u) (-g theta)          first-order utility: what setting it to 0 would cost
        u^     = u / (1 - beta_u^t)
        gate   = 1 - sigmoid(u^ / max u^)                    the maximum over all weights of all groups ("global"), or
                 1 - sigmoid(u^ / ||u^||_2)                  the norm along the weight's last dimension ("local")
        theta <- (1 - lr lambda) theta - c lr gate (d + xi)

    where d = g, or Adam's m^ / (sqrt(v^) + eps) if `betas` are given. A weight of no utility has gate 1/2, hence c = 2.
    If all utilities are 0, so are the scaled ones.

    Per parameter the state holds `step`, `utility`, and with `betas` `exp_avg` and `exp_avg_sq`. The noise has a
    generator of its own, which is part of `state_dict`.

    Attributes:
        elementwise: False: with a global maximum every weight's step depends on all others.

    Args:
        params: Parameters or groups. A group may set each of the options below for itself, and
            `gate`: None for the formula above, or a constant in its place (0: the group is left alone).
        lr: Step size.
        betas: Decay of Adam's moments; None: the plain gradient.
        eps: Added to the root of the second moment.
        weight_decay: lambda.
        decoupled: True: as above; False: g <- g + lambda theta comes first.
        utility_decay: beta_u.
        noise: sigma.
        step_scale: c.
        utility: global or local.
        maximum: Of the global form. corrected: of u^, as Algorithm 1 has it; uncorrected: of u, as the code has it,
            which early on divides by up to 1 / (1 - beta_u) times less.
        protect: False: gate only the noise, theta <- ... - c lr (d + gate xi) ("non-protecting" UPGD).
        generator: Source of the noise, on the CPU.
    """

    elementwise = False

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float] | None = None,
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        utility_decay: float = 0.999,
        noise: float = 1e-3,
        step_scale: float = 2.0,
        utility: Literal["global", "local"] = "global",
        maximum: Literal["corrected", "uncorrected"] = "corrected",
        protect: bool = True,
        generator: torch.Generator | None = None,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled": decoupled,
            "utility_decay": utility_decay,
            "noise": noise,
            "step_scale": step_scale,
            "utility": utility,
            "maximum": maximum,
            "protect": protect,
            "gate": None,
        }
        super().__init__(params, defaults)
        self.generator = torch_generator(0, "upgd") if generator is None else generator

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient.

        Args:
            closure: Computes the loss anew, as for torch's optimisers.

        Returns:
            Its value.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches = [batch for group in self.param_groups if (batch := self._moved(group)).parameters]
        if not batches:
            return loss
        largest = torch.stack([batch.largest() for batch in batches]).max()
        for batch in batches:
            batch.step(largest, self._standard_normal(batch.parameters))
        return loss

    def _standard_normal(self, parameters: list[Tensor]) -> list[Tensor]:
        # One draw for all: many small ones take several times as long.
        sizes = [parameter.numel() for parameter in parameters]
        parts = torch.randn(sum(sizes), generator=self.generator).split(sizes)
        return [part.view_as(parameter).to(parameter) for part, parameter in zip(parts, parameters, strict=True)]

    def _moved(self, group: dict[str, Any]) -> _Batch:
        """Utilities and moments of a group, moved to this step's gradients."""
        parameters = [p for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        if group["weight_decay"] and not group["decoupled"] and parameters:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        states = [self._state_of(parameter, group) for parameter in parameters]
        utilities = [state["utility"] for state in states]
        batch = _Batch(group, parameters, gradients, states, utilities, [])
        if not parameters:
            return batch
        decay = group["utility_decay"]
        torch._foreach_mul_(utilities, decay)
        torch._foreach_addcmul_(utilities, gradients, parameters, value=decay - 1)
        torch._foreach_add_([state["step"] for state in states], 1)
        batch.counts.extend(float(state["step"]) for state in states)
        if group["betas"] is not None:
            first, second = group["betas"]
            torch._foreach_lerp_([state["exp_avg"] for state in states], gradients, 1 - first)
            moments = [state["exp_avg_sq"] for state in states]
            torch._foreach_mul_(moments, second)
            torch._foreach_addcmul_(moments, gradients, gradients, value=1 - second)
        return batch

    def _state_of(self, parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            names = ("utility",) if group["betas"] is None else ("utility", "exp_avg", "exp_avg_sq")
            state.update({name: torch.zeros_like(parameter) for name in names})
        return state

    def state_dict(self) -> dict[str, Any]:
        """torch's, and under `noise` the state of the generator."""
        return {**super().state_dict(), "noise": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "noise"})
        self.generator.set_state(torch.as_tensor(state_dict["noise"]).cpu())


class _Batch(NamedTuple):
    """Parameters of one group that have a gradient, with their state after this step's moves."""

    group: dict[str, Any]
    parameters: list[Tensor]
    gradients: list[Tensor]
    states: list[dict[str, Tensor]]
    utilities: list[Tensor]
    counts: list[float]

    def largest(self) -> Tensor:
        """What the group adds to the global maximum."""
        found = torch.stack([utility.max() for utility in self.utilities])
        if self.group["maximum"] == "uncorrected":
            return found.max()
        return (found / found.new_tensor(self._corrections(self.group["utility_decay"]))).max()

    def _corrections(self, decay: float) -> list[float]:
        return [1 - decay**count for count in self.counts]

    def step(self, largest: Tensor, noise: list[Tensor]) -> None:
        """Moves the parameters.

        Args:
            largest: The global maximum.
            noise: Standard normal, of the parameters' shapes.
        """
        group = self.group
        if group["gate"] == 0.0:
            return
        changes, gates = self._directions(), self._gates(largest)
        if group["protect"]:
            changes = list(torch._foreach_add(changes, noise, alpha=group["noise"]))
            torch._foreach_mul_(changes, gates)
        else:
            torch._foreach_mul_(noise, gates)
            changes = list(torch._foreach_add(changes, noise, alpha=group["noise"]))
        if group["decoupled"] and group["weight_decay"]:
            torch._foreach_mul_(self.parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(self.parameters, changes, alpha=-group["step_scale"] * group["lr"])

    def _gates(self, largest: Tensor) -> list[Tensor]:
        group = self.group
        if group["gate"] is not None:
            return [torch.full_like(utility, group["gate"]) for utility in self.utilities]
        # 1 - sigmoid(x) = sigmoid(-x). The bias correction cancels in the local form.
        if group["utility"] == "local":
            return [normalize(utility, dim=-1).neg_().sigmoid_() for utility in self.utilities]
        unit = -torch.where(largest == 0, 1.0, largest)
        corrections = self._corrections(group["utility_decay"])
        return [(u / (unit * correction)).sigmoid_() for u, correction in zip(self.utilities, corrections, strict=True)]

    def _directions(self) -> list[Tensor]:
        if self.group["betas"] is None:
            return self.gradients
        first, second = (self._corrections(beta) for beta in self.group["betas"])
        # m / c_1 / (sqrt(v / c_2) + eps) = m / (sqrt(v) c_1 / sqrt(c_2) + c_1 eps), in fewer passes
        roots = torch._foreach_sqrt([state["exp_avg_sq"] for state in self.states])
        torch._foreach_mul_(roots, [c_1 / math.sqrt(c_2) for c_1, c_2 in zip(first, second, strict=True)])
        torch._foreach_add_(roots, [c_1 * self.group["eps"] for c_1 in first])
        return list(torch._foreach_div([state["exp_avg"] for state in self.states], roots))
