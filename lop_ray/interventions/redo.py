"""ReDo: every so many gradient steps, recycle the units that are dormant.

Sokar et al. 2023 (arXiv 2302.12902, Algorithm 1). Public codes differ; each difference is an option, and
the defaults are those of the Ant grid of Dohare et al. 2024 (`cfg/ant/redo.yml`, `lop/algos/gntRedo.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from lop_ray.interventions.base import GradientStep, Intervention, Training
from lop_ray.interventions.optimizer_state import zero_step
from lop_ray.interventions.units import BiasRule, bias_parameters, renew_units, zero_unit_moments
from lop_ray.networks import HiddenLayer, Initialiser, by_unit, hidden_layers, record, trainable_weight
from lop_ray.options import Options

_XAVIER = Initialiser("xavier_uniform", gain=1.0)
_TINY = 1e-9


class ReDoOptions(Options):
    """The options of `redo`; defaults are those of the paper's Ant grid."""

    threshold: Annotated[float, Ge(0.0)] = 0.1
    """tau: a unit with score <= tau is dormant."""
    period: Annotated[int, Gt(0)] = 100
    """Gradient steps between recyclings."""
    score_batch: Literal["minibatch", "update"] = "minibatch"
    """What units are scored on. minibatch: the activations of the gradient step that was just taken (Dohare
    et al.'s code); update: a fresh pass over every observation of the update."""
    score: Literal["layer_mean", "per_sample"] = "layer_mean"
    """layer_mean: s_i = E_x|h_i(x)| / mean_k E_x|h_k(x)| (Sokar et al., eq. 1).
    per_sample: s_i = E_x[ |h_i(x)| / mean_k |h_k(x)| ] (Juliani & Ash's code). A convolution's positions count
    as samples in both."""
    silent: Literal["keep", "reset"] = "keep"
    """What happens when the divisor is 0: the whole layer silent or, per_sample, one sample silent in it.
    keep: the scores are undefined, no unit of the layer is recycled (Dohare et al., Juliani & Ash: NaN <= tau is
    false). reset: 1e-9 is added to the divisor, a silent unit scores 0 (Dopamine)."""
    incoming: Literal["network", "xavier_uniform"] = "network"
    """How incoming weights are drawn: as the network's own were, or Glorot-uniform with gain 1 (Dopamine)."""
    bias: BiasRule = "zero"
    """zero (Dohare et al., Dopamine); reinitialise, by the rule of `incoming`; keep (Juliani & Ash)."""
    moments: Literal["keep", "zero", "zero_all"] = "keep"
    """The optimiser's moments of recycled units. keep (Dohare et al., Juliani & Ash); zero those of the weights into
    and out of them (Dopamine); zero_all: and those of their biases and normalisation (timoklein/redo)."""
    step: Literal["keep", "zero"] = "keep"
    """Adam's count of steps, one for a whole parameter in torch. keep (Dopamine); zero: of every parameter that holds
    weights (moments zero_all: or biases) of a recycled unit (timoklein/redo)."""


class ReDo(Intervention):
    """Recycles dormant units: fresh incoming weights, outgoing weights 0, in every hidden layer.

    Scores of all layers are taken before any layer is changed. The output layer has no units to recycle.

    Attributes:
        replaced: Units recycled so far.
    """

    Options = ReDoOptions
    options: ReDoOptions

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.wants_activations = self.options.score_batch == "minibatch"

    def attach(self, training: Training) -> None:
        """Remembers the networks.

        Raises:
            ValueError: `step` is "zero", but the optimiser has no count of steps.
        """
        super().attach(training)
        self.replaced = 0
        if self.options.step == "zero" and not isinstance(training.optimizer, torch.optim.Adam):
            raise ValueError(
                f"step: zero needs Adam's count of steps, which {type(training.optimizer).__name__} does not have; "
                "use step: keep"
            )
        self._layers = {name: hidden_layers(network) for name, network in training.networks.items()}

    def after_gradient_step(self, step: GradientStep) -> None:
        """Recycles when `step.count` is a multiple of the period."""
        if step.count % self.options.period:
            return
        dormant = {name: [self.dormant(h) for h in self._activations(name, step)] for name in self._layers}
        for name, layers in self._layers.items():
            for layer, mask in zip(layers, dormant[name], strict=True):
                units = mask.nonzero().flatten()
                if len(units):
                    self._recycle(layer, units)

    def _activations(self, name: str, step: GradientStep) -> Sequence[Tensor]:
        if self.options.score_batch == "minibatch":
            return step.activations[name]
        return record(self.training.networks[name], step.inputs).activations

    def dormant(self, activations: Tensor) -> Tensor:
        """Which units of a layer are dormant.

        Args:
            activations: [B, units] or [B, channels, H, W].

        Returns:
            Mask [units]: score <= tau.
        """
        size = by_unit(activations).abs()
        tiny = 0.0 if self.options.silent == "keep" else _TINY
        if self.options.score == "per_sample":
            score = (size / (size.mean(dim=1, keepdim=True) + tiny)).mean(dim=0)
        else:
            mean = size.mean(dim=0)
            score = mean / (mean.mean() + tiny)
        return score <= self.options.threshold

    def _recycle(self, layer: HiddenLayer, units: Tensor) -> None:
        options, optimizer = self.options, self.training.optimizer
        initialiser = _XAVIER if options.incoming == "xavier_uniform" else layer.initialiser
        renew_units(layer, units, self.training.generator, initialiser=initialiser, bias=options.bias)
        biases = options.moments == "zero_all"
        if options.moments != "keep":
            zero_unit_moments(optimizer, layer, units, biases=biases)
        if options.step == "zero":
            kernels = [trainable_weight(layer.incoming), *map(trainable_weight, layer.readers)]
            for parameter in [*kernels, *(bias_parameters(layer) if biases else ())]:
                zero_step(optimizer, parameter)
        self.replaced += len(units)

    def state_dict(self) -> dict[str, Any]:
        """`replaced`; when to act follows from the count of gradient steps."""
        return {"replaced": self.replaced}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.replaced = state["replaced"]
