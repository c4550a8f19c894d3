"""Making hidden units anew: what continual backprop and ReDo do once they have chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lop_ray.interventions.optimizer_state import zero_columns, zero_rows
from lop_ray.networks import HiddenLayer, Initialiser, outgoing_columns, trainable_weight

BiasRule = Literal["zero", "reinitialise", "keep"]


@torch.no_grad()
def renew_units(
    layer: HiddenLayer,
    units: Tensor,
    generator: torch.Generator,
    *,
    initialiser: Initialiser | None = None,
    bias: BiasRule = "zero",
    readers: Sequence[nn.Linear | nn.Conv2d] | None = None,
) -> None:
    """Gives `units` fresh incoming weights and no influence on what reads them.

    Incoming weights are drawn as at the start of training, outgoing weights (at every tap) become 0, and
    the learned scale and shift that a normalisation keeps for each unit become 1 and 0, as in a new network.
    Where two neighbouring layers are renewed in order, the fresh incoming weights of the second overwrite
    the zeros of the first, as in the published codes.

    Args:
        layer: The units' layer.
        units: [n], indices.
        generator: Source of the fresh weights.
        initialiser: How to draw them; default the network's own rule.
        bias: zero; reinitialise: by the initialiser's rule; keep: leave as it is.
        readers: Whose weights of the units become 0; default all that read the layer.
    """
    initialiser = initialiser or layer.initialiser
    weight = trainable_weight(layer.incoming)
    weight[units] = initialiser.rows(weight, len(units), generator)
    if layer.incoming.bias is not None and bias != "keep":
        old = layer.incoming.bias
        old[units] = 0.0 if bias == "zero" else initialiser.bias(old[units], weight[0].numel(), generator)
    for parameter, fresh in _affine(layer):
        parameter[units] = fresh
    for reader in layer.readers if readers is None else readers:
        outgoing_columns(reader, layer.units)[:, units] = 0.0


def zero_unit_moments(
    optimizer: torch.optim.Optimizer,
    layer: HiddenLayer,
    units: Tensor,
    *,
    biases: bool = True,
    readers: Sequence[nn.Linear | nn.Conv2d] | None = None,
) -> None:
    """Zeroes the optimiser's moments of the weights into and out of `units`.

    Args:
        optimizer: Owner of the moments.
        layer: The units' layer.
        units: [n], indices.
        biases: Also those of the units' biases, and of a normalisation's scale and shift.
        readers: Whose weights count as those out of the units; default all that read the layer.
    """
    zero_rows(optimizer, trainable_weight(layer.incoming), units)
    for reader in layer.readers if readers is None else readers:
        zero_columns(optimizer, trainable_weight(reader), layer.units, units)
    if biases:
        for parameter in bias_parameters(layer):
            zero_rows(optimizer, parameter, units)


def bias_parameters(layer: HiddenLayer) -> list[nn.Parameter]:
    """The parameters with one number a unit: bias, and a normalisation's scale and shift."""
    candidates = (layer.incoming.bias, *(parameter for parameter, _ in _affine(layer)))
    return [parameter for parameter in candidates if isinstance(parameter, nn.Parameter)]


def _affine(layer: HiddenLayer) -> list[tuple[nn.Parameter, float]]:
    """Scale and shift of the layer's normalisation, with the values of a new network."""
    pairs = ((getattr(layer.normalisation, "weight", None), 1.0), (getattr(layer.normalisation, "bias", None), 0.0))
    return [
        (parameter, fresh)
        for parameter, fresh in pairs
        if isinstance(parameter, nn.Parameter) and parameter.shape == (layer.units,)
    ]
