"""The diagnostics by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from lop_ray.diagnostics.base import Diagnostic, DiagnosticOptions
from lop_ray.errors import unknown

_PLACES = {
    "margins": "units:MARGINS",
    "dormant": "units:DORMANT",
    "ranks": "ranks:RANKS",
    "features": "features:FEATURES",
    "predictive_margins": "features:PREDICTIVE_MARGINS",
    "weights": "weights:WEIGHTS",
    "weight_spectrum": "weights:WEIGHT_SPECTRUM",
    "spectral_norm_error": "spectral_norm:SPECTRAL_NORM_ERROR",
    "signal": "signal_norms:SIGNAL",
    "gradients": "gradients:GRADIENTS",
    "unit_gradients": "unit_gradients:UNIT_GRADIENTS",
    "gradient_covariance": "gradients:GRADIENT_COVARIANCE",
    "churn": "gradients:CHURN",
    "trust_region": "gradients:TRUST_REGION",
    "hessian_density": "curvature:HESSIAN_DENSITY",
    "top_eigenvalues": "curvature:TOP_EIGENVALUES",
    "kfac_ranks": "kfac:KFAC_RANKS",
    "input_curvature": "input_curvature:INPUT_CURVATURE",
    "probe": "probe:PROBE",
}
"""Module and name of each diagnostic; modules load when first used."""

RUN_ONLY = ("boundaries",)
"""Names that a grid knows as well; they follow a run from update to update, and are no functions of one network."""


def find_diagnostic(name: str) -> Diagnostic:
    """The diagnostic called `name`.

    Raises:
        ValueError: There is none; the nearest name is offered.
    """
    if name in RUN_ONLY:
        raise ValueError(f"{name} follows a run from update to update: it can only be switched on in a grid")
    if name not in _PLACES:
        raise ValueError(unknown("diagnostic", name, [*_PLACES, *RUN_ONLY]))
    module, attribute = _PLACES[name].split(":")
    found = getattr(import_module(f"lop_ray.diagnostics.{module}"), attribute)
    assert isinstance(found, Diagnostic)
    return found


class _OptionsByName(Mapping[str, type[DiagnosticOptions]]):
    """Read-only mapping from a diagnostic's name to the class of its options."""

    def __getitem__(self, name: str) -> type[DiagnosticOptions]:
        if name not in _PLACES:
            raise KeyError(name)
        return find_diagnostic(name).options

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


DIAGNOSTICS: Mapping[str, type[DiagnosticOptions]] = _OptionsByName()
"""Class of the options of every diagnostic, by name."""
