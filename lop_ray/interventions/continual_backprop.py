"""Continual backprop: after every gradient step, rarely, replace the least useful mature unit.

Dohare et al. 2024 (Nature 632, Algorithm 1) and its code (`lop/algos/gnt.py` of
shibhansh/loss-of-plasticity). Defaults are those of the paper's Ant grid (`cfg/ant/cbp.yml`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn

from lop_ray.interventions.base import GradientStep, Intervention, Training
from lop_ray.interventions.units import renew_units, zero_unit_moments
from lop_ray.networks import HiddenLayer, by_unit, hidden_layers, outgoing_columns, trainable_weight
from lop_ray.options import Options

UtilityName = Literal[
    "contribution",
    "weight",
    "adaptation",
    "zero_contribution",
    "adaptable_contribution",
    "feature_by_input",
    "random",
]
_READS_MEAN = ("zero_contribution", "adaptable_contribution", "feature_by_input")
_READS_OUTGOING = ("contribution", "zero_contribution", "adaptable_contribution")
_READS_INCOMING = ("adaptable_contribution", "feature_by_input")


class ContinualBackpropOptions(Options):
    """The options of `cbp`; defaults are those of the paper's Ant grid."""

    replacement_rate: Annotated[float, Ge(0.0), Le(1.0)] = 1e-4
    """rho: expected replacements a gradient step, per eligible unit."""
    maturity_threshold: Annotated[int, Ge(0)] = 10_000
    """m: a unit is eligible once its age, in gradient steps, is greater than this."""
    decay_rate: Annotated[float, Ge(0.0), Lt(1.0)] = 0.99
    """eta: of the running averages of utility and activation."""
    utility: UtilityName = "contribution"
    """What a unit is worth; formulas in `ContinualBackprop`."""
    replacement: Literal["bernoulli", "accumulate"] = "bernoulli"
    """How rho n becomes a whole number, n units of a layer being eligible.
    bernoulli (the RL code): below 1, one unit with probability rho n; from 1 on, its integer part.
    accumulate (Algorithm 1, the supervised code): rho n is added up; its integer part is replaced and taken off."""
    magnitude: Literal["mean", "sum"] = "mean"
    """How the |w| into or out of a unit become one number: mean (the code) or sum (the paper).
    Ranks within a layer, and so the units replaced, are the same; the utilities reported are not."""
    correct_next_bias: bool = False
    """Before the outgoing weights of a unit become 0, add w_out E[h] to the biases that read it.
    False is what the published runs did: their code has this line, but sets the running mean E[h] of the
    chosen units to 0 before it is read (`test_features`, then `gen_new_features`), so it adds 0; and
    Algorithm 1 does not have it. True adds w_out times the bias-corrected running mean."""
    reset_moments: bool = False
    """Zero the optimiser's moments of the renewed weights. False: the RL code, which looks for its own
    optimiser class but is given torch's Adam. True: the supervised code (`AdamGnT`), except that its count
    of steps for every single weight has no counterpart in torch's Adam and is kept."""


@dataclass
class _Tracked:
    """One hidden layer and what is remembered of its units."""

    network: str
    index: int
    layer: HiddenLayer
    incoming: nn.Parameter
    readers: list[nn.Parameter]
    utility: Tensor
    mean_activation: Tensor
    age: np.ndarray
    accumulated: float = 0.0

    def __post_init__(self) -> None:
        self.nonnegative = isinstance(self.layer.activation, nn.ReLU)  # then |h| = h
        self.outgoing_weights = sum(weight.numel() for weight in self.readers) // self.layer.units

    @property
    def name(self) -> str:
        return f"{self.network}/{self.layer.name}"


class ContinualBackprop(Intervention):
    """Replaces low-utility units, a few at a time.

    After every gradient step, in every hidden layer, with h the activations of the minibatch [B, units]:

        age <- age + 1
        m   <- eta m + (1 - eta) mean_b h                 m^ = m / (1 - eta^age)
        u   <- eta u + (1 - eta) y                        u^ = u / (1 - eta^age)

    and of the units with age > `maturity_threshold` those with the least u^ are renewed: incoming weights
    drawn as at the start, bias 0, outgoing weights 0, a normalisation's scale 1 and shift 0; age = u = m = 0.
    With |w_in| and |w_out| the `magnitude` of the weights into and out of a unit, y is

    | utility | y |
    |---|---|
    | contribution | abs(w_out) mean_b abs(h) |
    | weight | abs(w_out) |
    | adaptation | 1 / abs(w_in) |
    | zero_contribution | abs(w_out) mean_b abs(h - m^) |
    | adaptable_contribution | abs(w_out) mean_b abs(h - m^) / abs(w_in) |
    | feature_by_input | mean_b abs(h - m^) / abs(w_in) |
    | random | u^ is a fresh uniform number |

    A convolution's channel is one unit: h has its positions as samples, and a Linear that reads the flattened
    channel at several positions has all of them in |w_out|. (The reference's `convGnT.py` multiplies |w| and
    |h| position by position before it averages; here the two averages are multiplied.) Weights are the
    trainable ones: under spectral norm they differ from the effective ones by one factor a layer.

    The choice is made in all layers before any is changed. Utilities and ages are in `state_dict`.

    Attributes:
        replaced: Units renewed so far.
    """

    Options = ContinualBackpropOptions
    options: ContinualBackpropOptions
    wants_activations = True

    def attach(self, training: Training) -> None:
        """Sizes the state to the networks.

        Raises:
            ValueError: `correct_next_bias` is on, and a reader has no bias.
        """
        super().attach(training)
        self.replaced = 0
        self._tracked = [
            _track(name, index, layer)
            for name, network in training.networks.items()
            for index, layer in enumerate(hidden_layers(network))
        ]
        # Ages live on the CPU, in one array: to know how many units are eligible needs no accelerator.
        widths = [tracked.layer.units for tracked in self._tracked]
        self._starts = np.cumsum([0, *widths[:-1]])
        self._age = np.zeros(sum(widths), dtype=np.int64)
        for tracked, start, width in zip(self._tracked, self._starts, widths, strict=True):
            tracked.age = self._age[start : start + width]
            if self.options.correct_next_bias and any(reader.bias is None for reader in tracked.layer.readers):
                raise ValueError(
                    f"correct_next_bias needs biases, but what reads {tracked.name} has none; "
                    "set correct_next_bias to false or give the reader a bias"
                )

    def after_gradient_step(self, step: GradientStep) -> None:
        """Updates ages and utilities, and renews the units whose turn it is."""
        self._age += 1
        for tracked in self._tracked:
            self._update(tracked, by_unit(step.activations[tracked.network][tracked.index]))
        counts = self._counts()
        if any(counts):
            chosen = [self._least_useful(t, count) for t, count in zip(self._tracked, counts, strict=True)]
            for tracked, units in zip(self._tracked, chosen, strict=True):
                if len(units):
                    self._renew(tracked, units)

    def _update(self, tracked: _Tracked, activations: Tensor) -> None:
        kind, rate = self.options.utility, 1 - self.options.decay_rate
        if kind in _READS_MEAN or self.options.correct_next_bias:
            tracked.mean_activation.lerp_(activations.mean(dim=0), rate)
        if kind != "random":
            tracked.utility.lerp_(self._worth(tracked, activations), rate)

    def _worth(self, tracked: _Tracked, activations: Tensor) -> Tensor:
        """What each unit is worth on this batch: y of the table above, [units]."""
        kind = self.options.utility
        if kind == "weight":
            return self._outgoing(tracked)
        if kind == "adaptation":
            return 1 / self._incoming(tracked)
        if kind in _READS_MEAN:
            activations = (activations - tracked.mean_activation / self._bias_correction(tracked)).abs()
        elif not tracked.nonnegative:
            activations = activations.abs()
        worth = activations.mean(dim=0)
        if kind in _READS_OUTGOING:
            worth.mul_(self._outgoing(tracked))
        if kind in _READS_INCOMING:
            worth.div_(self._incoming(tracked))
        return worth

    def _outgoing(self, tracked: _Tracked) -> Tensor:
        """|w_out| of every unit, over all readers."""
        sums = [_column_sums(weight.detach(), tracked.layer.units) for weight in tracked.readers]
        total = sums[0] if len(sums) == 1 else torch.stack(sums).sum(dim=0)
        return total.div_(tracked.outgoing_weights) if self.options.magnitude == "mean" else total

    def _incoming(self, tracked: _Tracked) -> Tensor:
        """|w_in| of every unit."""
        rows = tracked.incoming.detach().flatten(1)
        return rows.abs().mean(dim=1) if self.options.magnitude == "mean" else rows.abs().sum(dim=1)

    def _bias_correction(self, tracked: _Tracked) -> Tensor:
        """1 - eta^age of every unit."""
        return torch.from_numpy(1 - self.options.decay_rate**tracked.age).to(tracked.utility)

    def _counts(self) -> list[int]:
        """How many units of each layer are renewed now."""
        eligible = np.add.reduceat(self._age > self.options.maturity_threshold, self._starts, dtype=np.int64)
        if not eligible.any():
            return [0] * len(self._tracked)
        expected = (self.options.replacement_rate * eligible).tolist()
        if self.options.replacement == "accumulate":
            for tracked, share in zip(self._tracked, expected, strict=True):
                tracked.accumulated += share
            counts = [int(tracked.accumulated) for tracked in self._tracked]
            for tracked, count in zip(self._tracked, counts, strict=True):
                tracked.accumulated -= count
            return counts
        draws = torch.rand(len(expected), generator=self.training.generator, dtype=torch.float64).tolist()
        return [int(share) if share >= 1 else int(draw < share) for share, draw in zip(expected, draws, strict=True)]

    def _least_useful(self, tracked: _Tracked, count: int) -> Tensor:
        """Indices of the `count` eligible units of least bias-corrected utility."""
        device = tracked.utility.device
        eligible = torch.from_numpy(np.flatnonzero(tracked.age > self.options.maturity_threshold)).to(device)
        if self.options.utility == "random":
            worth = torch.rand(len(tracked.age), generator=self.training.generator).to(device)
        else:
            worth = tracked.utility / self._bias_correction(tracked)
        return eligible[worth[eligible].topk(count, largest=False).indices]

    @torch.no_grad()
    def _renew(self, tracked: _Tracked, units: Tensor) -> None:
        layer = tracked.layer
        if self.options.correct_next_bias:
            mean = (tracked.mean_activation / self._bias_correction(tracked))[units]
            for reader in layer.readers:
                columns = outgoing_columns(reader, layer.units, reader.weight.detach())[:, units]
                assert reader.bias is not None  # checked in attach
                reader.bias.add_(columns.sum(dim=-1) @ mean)
        renew_units(layer, units, self.training.generator)
        if self.options.reset_moments:
            zero_unit_moments(self.training.optimizer, layer, units)
        tracked.utility[units] = 0.0
        tracked.mean_activation[units] = 0.0
        tracked.age[units.cpu().numpy()] = 0
        self.replaced += len(units)

    def state_dict(self) -> dict[str, Any]:
        """Per layer ("network/layer"): utility, mean activation, age, accumulated fraction; and `replaced`."""
        layers = {
            tracked.name: {
                "utility": tracked.utility.clone(),
                "mean_activation": tracked.mean_activation.clone(),
                "age": torch.from_numpy(tracked.age.copy()),
                "accumulated": tracked.accumulated,
            }
            for tracked in self._tracked
        }
        return {"layers": layers, "replaced": self.replaced}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave.

        Raises:
            ValueError: The state is of other layers or widths.
        """
        saved = {name: len(layer["age"]) for name, layer in state["layers"].items()}
        here = {tracked.name: tracked.layer.units for tracked in self._tracked}
        if saved != here:
            raise ValueError(
                f"the saved state of continual backprop is of the layers {saved}, these networks have {here}; "
                "continue with the network options that it was saved with"
            )
        for tracked in self._tracked:
            layer = state["layers"][tracked.name]
            tracked.utility.copy_(layer["utility"])
            tracked.mean_activation.copy_(layer["mean_activation"])
            tracked.age[:] = layer["age"].cpu().numpy()
            tracked.accumulated = layer["accumulated"]
        self.replaced = state["replaced"]


def _track(network: str, index: int, layer: HiddenLayer) -> _Tracked:
    incoming = trainable_weight(layer.incoming)
    return _Tracked(
        network=network,
        index=index,
        layer=layer,
        incoming=incoming,
        readers=[trainable_weight(reader) for reader in layer.readers],
        utility=incoming.new_zeros(layer.units).detach(),
        mean_activation=incoming.new_zeros(layer.units).detach(),
        age=np.zeros(layer.units, dtype=np.int64),
    )


def _column_sums(weight: Tensor, units: int) -> Tensor:
    """Sum of |w| over everything that reads each unit, [units]."""
    sums = weight.abs().sum(dim=0)
    return sums if sums.shape == (units,) else sums.view(units, -1).sum(dim=1)
