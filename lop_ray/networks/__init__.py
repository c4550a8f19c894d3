"""Plain torch networks, and the view of hidden layers that all methods and measures use."""

from lop_ray.networks.initialisation import Initialiser
from lop_ray.networks.mlp import MLP, NetworkOptions
from lop_ray.networks.parameters import trainable_weight
from lop_ray.networks.view import (
    ActivationTap,
    HiddenLayer,
    Recording,
    by_unit,
    evaluation_mode,
    features_of,
    hidden_layers,
    outgoing_columns,
    projections_of,
    record,
)

__all__ = [
    "MLP",
    "ActivationTap",
    "HiddenLayer",
    "Initialiser",
    "NetworkOptions",
    "Recording",
    "by_unit",
    "evaluation_mode",
    "features_of",
    "hidden_layers",
    "outgoing_columns",
    "projections_of",
    "record",
    "trainable_weight",
]
