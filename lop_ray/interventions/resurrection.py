"""Resurrection: from time to time, make the dead units of every hidden layer anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from lop_ray.interventions.base import GradientStep, Training
from lop_ray.interventions.occasional import Occasional, OccasionalOptions
from lop_ray.interventions.units import renew_units, zero_unit_moments
from lop_ray.networks import by_unit, hidden_layers, record


class ResurrectionOptions(OccasionalOptions):
    """The options of `resurrection`."""

    when: Literal["update", "gradient_step"] = "update"
    """What `every` counts: updates, or gradient steps."""
    moments: Literal["zero", "keep"] = "zero"
    """The optimiser's moments of the weights into and out of renewed units, and of their biases."""


class Resurrection(Occasional):
    """Gives every dead unit fresh incoming weights, bias 0 and outgoing weights 0.

    A unit is dead if its output is 0 on every observation of the update; behind a ReLU that is a margin <= 0, and it
    cannot learn. Without a normalisation the network computes the same on these observations before and after. ReDo
    with `threshold: 0` and `score_batch: update` chooses the same units where no layer is silent as a whole; here a
    silent layer is renewed too.

    Attributes:
        replaced: Units renewed so far.
    """

    Options = ResurrectionOptions
    options: ResurrectionOptions

    def attach(self, training: Training) -> None:
        """Starts to count."""
        super().attach(training)
        self.replaced = 0

    def act(self, step: GradientStep | None) -> None:
        """Renews what is dead."""
        assert step is not None
        for network in self.training.networks.values():
            dead = [dead_units(activations) for activations in record(network, step.inputs).activations]
            for layer, units in zip(hidden_layers(network), dead, strict=True):
                if len(units):
                    renew_units(layer, units, self.training.generator)
                    if self.options.moments == "zero":
                        zero_unit_moments(self.training.optimizer, layer, units)
                    self.replaced += len(units)

    def state_dict(self) -> dict[str, Any]:
        """The count of moments, and `replaced`."""
        return {**super().state_dict(), "replaced": self.replaced}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        super().load_state_dict(state)
        self.replaced = state["replaced"]


def dead_units(activations: Tensor) -> Tensor:
    """Indices [n] of the units whose output is 0 on every sample of [N, units] or [N, channels, H, W]."""
    return (by_unit(activations) == 0).all(dim=0).nonzero().flatten()
