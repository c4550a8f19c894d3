"""What keeps a network plastic: one small module each, registered here by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from lop_ray.interventions.base import GradientStep, Intervention, Interventions, Training
from lop_ray.interventions.continual_backprop import ContinualBackprop
from lop_ray.interventions.redo import ReDo
from lop_ray.interventions.spectral_norm import SpectralNorm, exact_spectral_norm

INTERVENTIONS: dict[str, type[Intervention]] = {
    "cbp": ContinualBackprop,
    "redo": ReDo,
    "spectral_norm": SpectralNorm,
}


def make_interventions(spec: Mapping[str, Mapping[str, Any]]) -> Interventions:
    """The interventions of a variant.

    Args:
        spec: Options by name of intervention, such as `{"redo": {"threshold": 0.1}}`; they act in this order.

    Returns:
        All of them as one; empty for an empty `spec`.

    Raises:
        ValueError: No intervention has that name. (Options that do not fit raise pydantic's ValidationError,
            which is a ValueError too.)
    """
    for name in spec:
        if name not in INTERVENTIONS:
            near = get_close_matches(name.lower(), INTERVENTIONS, n=1, cutoff=0.0)
            raise ValueError(
                f"unknown intervention {name!r}; did you mean {near[0]!r}? known: {', '.join(INTERVENTIONS)}"
            )
    return Interventions({name: INTERVENTIONS[name](**options) for name, options in spec.items()})


__all__ = [
    "INTERVENTIONS",
    "ContinualBackprop",
    "GradientStep",
    "Intervention",
    "Interventions",
    "ReDo",
    "SpectralNorm",
    "Training",
    "exact_spectral_norm",
    "make_interventions",
]
