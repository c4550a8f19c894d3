"""Optimisers that torch does not have; plain torch, without Ray."""

from lop_ray.optimizers.rooted_adam import RootedAdam
from lop_ray.optimizers.upgd import UPGD

__all__ = ["RootedAdam", "UPGD"]
