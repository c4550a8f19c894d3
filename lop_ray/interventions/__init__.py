"""What keeps a network plastic: one small module each, registered here by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from lop_ray.interventions.activation_clamping import ActivationClamping
from lop_ray.interventions.adam_rel import AdamRel
from lop_ray.interventions.base import GradientStep, Intervention, Interventions, LossStep, Training
from lop_ray.interventions.bias_clipping import BiasClipping
from lop_ray.interventions.c_chain import CChain
from lop_ray.interventions.continual_backprop import ContinualBackprop
from lop_ray.interventions.effective_rank import EffectiveRank
from lop_ray.interventions.kill_units import KillUnits
from lop_ray.interventions.l2_init import L2Init
from lop_ray.interventions.parseval import Parseval
from lop_ray.interventions.plasticity_injection import PlasticityInjection
from lop_ray.interventions.random_walk import RandomWalk
from lop_ray.interventions.redo import ReDo
from lop_ray.interventions.reset import Reset
from lop_ray.interventions.resurrection import Resurrection
from lop_ray.interventions.shrink_perturb import ShrinkPerturb
from lop_ray.interventions.spectral_norm import SpectralNorm, exact_spectral_norm
from lop_ray.interventions.spectral_regularisation import SpectralRegularisation
from lop_ray.interventions.weight_clipping import WeightClipping
from lop_ray.interventions.weight_projection import WeightProjection

INTERVENTIONS: dict[str, type[Intervention]] = {
    "cbp": ContinualBackprop,
    "redo": ReDo,
    "spectral_norm": SpectralNorm,
    "reset": Reset,
    "shrink_perturb": ShrinkPerturb,
    "l2_init": L2Init,
    "weight_clipping": WeightClipping,
    "weight_projection": WeightProjection,
    "parseval": Parseval,
    "spectral_regularisation": SpectralRegularisation,
    "effective_rank": EffectiveRank,
    "bias_clipping": BiasClipping,
    "activation_clamping": ActivationClamping,
    "resurrection": Resurrection,
    "kill_units": KillUnits,
    "random_walk": RandomWalk,
    "plasticity_injection": PlasticityInjection,
    "adam_rel": AdamRel,
    "c_chain": CChain,
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
    "ActivationClamping",
    "AdamRel",
    "BiasClipping",
    "CChain",
    "ContinualBackprop",
    "EffectiveRank",
    "GradientStep",
    "Intervention",
    "Interventions",
    "KillUnits",
    "L2Init",
    "LossStep",
    "Parseval",
    "PlasticityInjection",
    "RandomWalk",
    "ReDo",
    "Reset",
    "Resurrection",
    "ShrinkPerturb",
    "SpectralNorm",
    "SpectralRegularisation",
    "Training",
    "WeightClipping",
    "WeightProjection",
    "exact_spectral_norm",
    "make_interventions",
]
