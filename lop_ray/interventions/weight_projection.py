"""Weight projection: every weight is scaled back to its initial norm.

The second half of Normalize-and-Project (NaP, Lyle et al. 2024, arXiv 2407.01800): with a normalisation before every
activation, the network does not depend on the norm of a weight, and its growth would only shrink the effective
learning rate. The first half is `normalisation: layernorm` of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from lop_ray.interventions.base import GradientStep, Intervention, Training
from lop_ray.interventions.layers import affine_layers, normalisations
from lop_ray.networks import trainable_weight
from lop_ray.options import Options


class WeightProjectionOptions(Options):
    """The options of `weight_projection`."""

    period: Annotated[int, Ge(1)] = 1
    """Gradient steps between projections: 1 in the paper; Plasticine projects every 10 updates."""
    heads: bool = True
    """Also the output layers, which no normalisation follows."""
    affine: Literal["keep", "joint"] = "keep"
    """A normalisation's scale and shift. keep: they are free. joint: both together are scaled back to their initial
    norm too, which a positively homogeneous activation such as ReLU does not see but in its scale."""


class WeightProjection(Intervention):
    """W <- W |W_0|_F / |W|_F, one factor for a whole weight; biases of layers are left alone.

    A weight that has become 0 stays 0.
    """

    Options = WeightProjectionOptions
    options: WeightProjectionOptions

    def attach(self, training: Training) -> None:
        """Remembers the initial norms: those that the weights have now."""
        super().attach(training)
        self._groups: list[list[Tensor]] = []
        for network in training.networks.values():
            modules = affine_layers(network, heads=self.options.heads)
            self._groups += [[trainable_weight(module)] for module in modules.values()]
            if self.options.affine == "joint":
                joint: list[list[Tensor]] = [list(norm.parameters()) for norm in normalisations(network)]
                self._groups += [group for group in joint if group]
        self._norms = [_norm(group) for group in self._groups]

    @torch.no_grad()
    def after_gradient_step(self, step: GradientStep) -> None:
        """Projects when `step.count` is a multiple of the period."""
        if step.count % self.options.period:
            return
        for group, target in zip(self._groups, self._norms, strict=True):
            norm = _norm(group)
            factor = torch.where(norm > 0, target / norm, 1.0)
            for parameter in group:
                parameter.mul_(factor)

    def state_dict(self) -> dict[str, Any]:
        """The initial norms."""
        return {"norms": torch.stack(self._norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._norms = list(state["norms"].to(self._norms[0], copy=True))


@torch.no_grad()
def _norm(group: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(parameter) for parameter in group]))
