"""L2-Init: a penalty on the distance from the initial weights.

Kumar et al. 2023 (arXiv 2308.11958, "regenerative regularization"). Public codes take three different distances.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor

from lop_ray.interventions.base import Intervention, LossStep, Training
from lop_ray.interventions.layers import normalisations, trainable
from lop_ray.options import Options


class L2InitOptions(Options):
    """The options of `l2_init`; the defaults are Kumar et al.'s."""

    strength: Annotated[float, Gt(0.0)] = 1e-3
    """lambda."""
    form: Literal["squared", "norm", "mean"] = "squared"
    """With d the difference from the initial weights, over all parameters of all networks, or of tensor p alone:
    squared: lambda / 2 |d|^2, whose gradient is lambda d (Kumar et al.).
    norm: lambda |d|, not squared; its gradient has norm lambda however far the weights are (Juliani & Ash's code,
    lambda = .01).
    mean: lambda sum_p |d_p|^2 / numel(p) (`parseval_reg`, lambda 1e-3 to 1e-2)."""
    compare: Literal["elementwise", "sorted"] = "elementwise"
    """elementwise: every weight with its own initial value. sorted: each tensor's sorted weights with its sorted
    initial ones, the squared 2-Wasserstein distance of the two histograms (W2-init: Lewandowski et al. 2024, arXiv
    2406.06811v1; Juliani & Ash and `parseval_reg`, each with its own `form`)."""
    normalisation: Literal["exclude", "include"] = "exclude"
    """The scales and shifts of normalisations. exclude (Kumar et al.); include (Juliani & Ash, `parseval_reg`)."""


class L2Init(Intervention):
    """Adds a multiple of the distance from the initial weights to the loss.

    Under a parametrisation the weights are the trainable ones. PPO's log standard deviation is in no network and
    stays free.
    """

    Options = L2InitOptions
    options: L2InitOptions

    def attach(self, training: Training) -> None:
        """Remembers the initial weights: those that the networks have now."""
        super().attach(training)
        self._parameters = []
        for network in training.networks.values():
            exclude = normalisations(network) if self.options.normalisation == "exclude" else []
            left_out = {id(parameter) for norm in exclude for parameter in norm.parameters()}
            self._parameters += [p for p in trainable(network.parameters()) if id(p) not in left_out]
        initial = [parameter.detach().clone() for parameter in self._parameters]
        self._initial = [p.flatten().sort().values for p in initial] if self.options.compare == "sorted" else initial

    def loss_term(self, step: LossStep) -> Tensor:
        """The penalty, a scalar."""
        pairs = zip(self._parameters, self._initial, strict=True)
        if self.options.compare == "sorted":
            differences = [parameter - _by_rank(parameter.detach(), initial) for parameter, initial in pairs]
        else:
            differences = [parameter - initial for parameter, initial in pairs]
        if self.options.form == "norm":
            distance = torch.linalg.vector_norm(torch.cat([difference.flatten() for difference in differences]))
        else:
            squares = [difference.square() for difference in differences]
            half = self.options.form == "squared"
            distance = torch.stack([0.5 * square.sum() if half else square.mean() for square in squares]).sum()
        return self.options.strength * distance

    def state_dict(self) -> dict[str, Any]:
        """The initial weights."""
        return {"initial": [value.clone() for value in self._initial]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        for value, saved in zip(self._initial, state["initial"], strict=True):
            value.copy_(saved)


def _by_rank(values: Tensor, ascending: Tensor) -> Tensor:
    """The numbers of `ascending` in the order of `values`: the smallest where `values` is smallest, and so on.

    With it a sum over sorted pairs is one over places, whose gradient needs no sorting.
    """
    flat = values.flatten()
    # On a CPU numpy sorts five times faster than torch.
    order = flat.argsort() if flat.is_cuda else torch.from_numpy(np.argsort(flat.numpy()))
    return torch.empty_like(flat).scatter_(0, order, ascending).view_as(values)
