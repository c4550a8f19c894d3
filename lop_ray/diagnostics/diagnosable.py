"""What a training offers to diagnostics, whatever its algorithm is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lop_ray.diagnostics.losses import Batch, Loss


class Diagnosable:
    """Networks in training, and what else diagnostics may ask of it; answers are by name of network.

    An algorithm overrides the entries that it has, for the networks that have them; a grid that names a diagnostic
    whose entries its algorithm lacks is refused before anything runs. `DiagnosticSuite.prepare` and `diagnose` do
    the asking:

        suite.prepare(update, training)  # before the update
        ...
        rows = suite.diagnose(update, training, observations)
    """

    def networks(self) -> Mapping[str, nn.Module]:
        """The networks as they are now, each with a view of its hidden layers; every algorithm has them."""
        raise NotImplementedError

    def prepare(self, entries: frozenset[str]) -> None:
        """Told before every update which entries will be asked for after it; what they need is kept, the rest let go.

        Args:
            entries: Names of the methods below; empty when nothing is due.
        """

    def initial(self) -> Mapping[str, nn.Module]:
        """The networks as they were initialised, on the device of those in training."""
        return {}

    def losses(self) -> Mapping[str, Loss]:
        """The loss as trained: of a network's output and a batch, the mean over rows; see `losses.py`."""
        return {}

    def batches(self) -> Mapping[str, Batch]:
        """Columns [N, ...] of the latest update's batch that the losses read; `inputs` is what the network reads."""
        return {}

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """The optimiser that trains each network; it may train others too."""
        return {}

    def ratios(self) -> Mapping[str, Tensor]:
        """pi_new(a|s) / pi_old(a|s) [N] on the latest update's batch, under the policy after it."""
        return {}

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """What the latest update learned from, in time order, for those who follow changes of task.

        Returns:
            Observations [T, N, ...] of N copies over T steps, and [T + 1, N], the task of each step and of the step
            that follows.
        """
        raise NotImplementedError

    @classmethod
    def offers(cls) -> frozenset[str]:
        """What this class has: the methods it overrides, and `before`, which needs networks only."""
        names = [*ENTRIES, "steps"]
        own = {name for name in names if getattr(cls, name) is not getattr(Diagnosable, name)}
        return frozenset(own | {"before"})


ENTRIES = ("initial", "losses", "batches", "optimizers", "ratios")
"""Entries of `extra` that a training gives; see `lop_ray.diagnostics.suite`."""
