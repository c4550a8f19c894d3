"""ReDo: every so many gradient steps or updates, recycle the units that are dormant.

Sokar et al. 2023 (arXiv 2302.12902, Algorithm 1). Public codes differ; each difference is an option, and
the defaults are those of the Ant grid of Dohare et al. 2024 (`cfg/ant/redo.yml`, `lop/algos/gntRedo.py`).

Juliani & Ash's (`redo_reset` in `shared/modules.py` of awjuliani/deep-rl-plasticity, condition `redo-reset-10`; taken
over by kai666-song/rl-plasticity-specnorm) is

    {threshold: 0.025, period: 10, period_unit: updates, score_batch: minibatch_anew, score: per_sample, silent: keep,
     incoming: network, outgoing: same_kind, bias: keep, moments: keep, step: keep}

with the network's `init: torch_default`. That code counts updates from 0 and leaves out the first, so it acts after
the 11th, 21st, ... where this acts after the 10th, 20th, ...; and it skips layers that have a normalisation or an
activation other than ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from pydantic import model_serializer
from pydantic.functional_serializers import SerializerFunctionWrapHandler
from torch import Tensor, nn

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
    """Gradient steps or updates between recyclings."""
    period_unit: Literal["gradient_steps", "updates"] = "gradient_steps"
    """What `period` counts. updates: it acts after the last gradient step of every so many updates (Juliani & Ash's
    epochs)."""
    score_batch: Literal["minibatch", "minibatch_anew", "update"] = "minibatch"
    """What units are scored on. minibatch: the activations of the gradient step that was just taken, which are those
    of the weights before it (Dohare et al.'s code). minibatch_anew: a fresh pass over that minibatch (Juliani & Ash's
    code). update: a fresh pass over every observation of the update."""
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
    outgoing: Literal["zero", "keep", "same_kind"] = "zero"
    """The weights that read a recycled unit. zero: 0 in all readers, the function stays as it was but for the unit's
    small output (Sokar et al.). keep: as they are. same_kind: 0 in the layer's first reader, if that is of the layer's
    own kind, convolution or fully connected (Juliani & Ash's code: what the last convolution hands to the fully
    connected layer, and the last hidden layer to the value head, is read as before)."""
    bias: BiasRule = "zero"
    """zero (Dohare et al., Dopamine); reinitialise, by the rule of `incoming`; keep (Juliani & Ash)."""
    moments: Literal["keep", "zero", "zero_all"] = "keep"
    """The optimiser's moments of recycled units. keep (Dohare et al., Juliani & Ash); zero those of the weights into
    and out of them (Dopamine); zero_all: and those of their biases and normalisation (timoklein/redo)."""
    step: Literal["keep", "zero"] = "keep"
    """Adam's count of steps, one for a whole parameter in torch. keep (Dopamine); zero: of every parameter that holds
    weights (moments zero_all: or biases) of a recycled unit (timoklein/redo)."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # They came later. At their defaults they are no part of a trial's identity, so that old trials keep their ids.
        dumped: dict[str, Any] = handler(self)
        later = {"period_unit": "gradient_steps", "outgoing": "zero"}
        return {key: value for key, value in dumped.items() if later.get(key) != value}


class ReDo(Intervention):
    """Recycles dormant units of every hidden layer: fresh incoming weights, outgoing weights as `outgoing` says.

    A channel of a convolution is one unit. Of residual networks the view lists what can be recycled: see `ImpalaNet`.

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
        self.replaced = self._updates = 0
        if self.options.step == "zero" and not isinstance(training.optimizer, torch.optim.Adam):
            raise ValueError(
                f"step: zero needs Adam's count of steps, which {type(training.optimizer).__name__} does not have; "
                "use step: keep"
            )
        self._layers = {name: hidden_layers(network) for name, network in training.networks.items()}
        self._minibatch: dict[str, Tensor] = {}
        if self.options.score_batch == "minibatch_anew":
            for name, network in training.networks.items():
                network.register_forward_pre_hook(self._keep_minibatch(name))

    def _keep_minibatch(self, name: str) -> Callable[..., None]:
        def hook(network: nn.Module, args: tuple[Tensor, ...]) -> None:
            if network.training and network is self.training.networks[name]:  # copies of it bring the hook with them
                self._minibatch[name] = args[0].detach()

        return hook

    def after_gradient_step(self, step: GradientStep) -> None:
        """Recycles when `step.count` is a multiple of the period, if that is counted in gradient steps."""
        if self.options.period_unit == "gradient_steps" and step.count % self.options.period == 0:
            self._recycle_dormant(step)

    def after_update(self, step: GradientStep) -> None:
        """Recycles at every `period`-th update, if that is counted in updates."""
        if self.options.period_unit == "updates":
            self._updates += 1
            if self._updates % self.options.period == 0:
                self._recycle_dormant(step)

    def _recycle_dormant(self, step: GradientStep) -> None:
        dormant = {name: [self.dormant(h) for h in self._activations(name, step)] for name in self._layers}
        for name, layers in self._layers.items():
            for layer, mask in zip(layers, dormant[name], strict=True):
                units = mask.nonzero().flatten()
                if len(units):
                    self._recycle(layer, units)

    def _activations(self, name: str, step: GradientStep) -> Sequence[Tensor]:
        if self.options.score_batch == "minibatch":
            return step.activations[name]
        inputs = self._minibatch[name] if self.options.score_batch == "minibatch_anew" else step.inputs
        return record(self.training.networks[name], inputs).activations

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
        cut = self._cut_off(layer)
        renew_units(layer, units, self.training.generator, initialiser=initialiser, bias=options.bias, readers=cut)
        biases = options.moments == "zero_all"
        if options.moments != "keep":
            zero_unit_moments(optimizer, layer, units, biases=biases, readers=cut)
        if options.step == "zero":
            kernels = [trainable_weight(layer.incoming), *map(trainable_weight, cut)]
            for parameter in [*kernels, *(bias_parameters(layer) if biases else ())]:
                zero_step(optimizer, parameter)
        self.replaced += len(units)

    def _cut_off(self, layer: HiddenLayer) -> Sequence[nn.Linear | nn.Conv2d]:
        """The readers whose weights of recycled units become 0."""
        if self.options.outgoing == "keep":
            return ()
        if self.options.outgoing == "same_kind":
            alike = isinstance(layer.readers[0], nn.Conv2d) == isinstance(layer.incoming, nn.Conv2d)
            return layer.readers[:1] if alike else ()
        return layer.readers

    def state_dict(self) -> dict[str, Any]:
        """`replaced`, and the count of updates if that decides when to act; gradient steps count themselves."""
        updates = {"updates": self._updates} if self.options.period_unit == "updates" else {}
        return {"replaced": self.replaced, **updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.replaced, self._updates = state["replaced"], state.get("updates", 0)
