"""A trial as Ray Tune sees it: an actor that reports about ten scalars, at most once a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray import tune

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.training import TrainingFactory
from lop_ray.algorithms.trial import RowListener, Trial
from lop_ray.results import Store

REPORT_EVERY_S = 1.0

REPORTED = (
    "env_steps",
    "updates",
    "episode_return_mean",
    "dead_fraction",
    "policy_loss",
    "entropy",
    "grad_norm",
)
"""Scalars of the latest update that Tune hears, beside `status`, `reason` and `steps_per_s`."""


class TuneTrial(tune.Trainable):
    """Runs one `Trial`; rows and checkpoints are the trial's own, and Tune keeps neither."""

    def setup(
        self,
        config: dict[str, Any],
        store: tuple[str, str] = ("results", ""),
        make_training: TrainingFactory | None = None,
        make_listeners: Callable[[], list[RowListener]] = list,
    ) -> None:
        """Starts or continues the trial whose specification is `config["spec"]`."""
        assert make_training is not None
        self.trial = Trial(TrialSpec(**config["spec"]), Store(*store), make_training, make_listeners())

    def step(self) -> dict[str, Any]:
        """Updates until a second has passed or the trial has ended."""
        trial = self.trial
        start, steps = time.monotonic(), trial.latest["env_steps"]
        while trial.at_work and time.monotonic() - start < REPORT_EVERY_S:
            trial.advance()
        seconds = time.monotonic() - start
        latest = {key: trial.latest.get(key) for key in REPORTED}
        return {
            **{key: value for key, value in latest.items() if value is not None},
            "status": trial.status,
            "reason": trial.reason or "",
            "notes": "; ".join(trial.notes),
            "steps_per_s": (trial.latest["env_steps"] - steps) / seconds if seconds > 0 else 0.0,
            "done": not trial.at_work,
        }

    def cleanup(self) -> None:
        """Tune stops the trial early: everything is committed, so that the same command continues."""
        self.trial.stop()
