"""A trial as Ray Tune sees it: an actor that reports about ten scalars, at most once a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray import tune

from lop_ray.algorithms.group import TrialGroup
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.training import TrainingFactory
from lop_ray.algorithms.trial import RowListener, Trial
from lop_ray.denormals import flush_denormals
from lop_ray.results import Store

REPORT_EVERY_S = 1.0

REPORTED = (
    "env_steps",
    "updates",
    "episode_return_mean",
    "dead_fraction",
    "policy_loss",
    "entropy",
    "loss",
    "accuracy",
    "grad_norm",
)
"""Scalars of the latest update that Tune hears, beside `status`, `reason` and `steps_per_s`."""


class TuneTrial(tune.Trainable):
    """Runs one `Trial`, or several seeds as a group; rows and checkpoints are their own, and Tune keeps neither."""

    def setup(
        self,
        config: dict[str, Any],
        store: tuple[str, str] = ("results", ""),
        make_training: TrainingFactory | None = None,
        make_listeners: Callable[[], list[RowListener]] = list,
    ) -> None:
        """Starts or continues the trial whose specification is `config["spec"]`; under `others` there may be more."""
        assert make_training is not None
        flush_denormals()  # before torch makes threads, which would go on without
        self._parts = store, make_training, make_listeners
        self._start(config)

    def _start(self, config: dict[str, Any]) -> None:
        store, make_training, make_listeners = self._parts
        specs = [TrialSpec(**values) for values in members_of(config)]
        self.group = TrialGroup(specs, Store(*store), make_training, make_listeners)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Tune hands this process another trial, which saves the seconds in which a new one would load its packages.

        The trial before has ended and has given its lock back; one that Tune took away is left to be continued later.

        Returns:
            True: it has been started.
        """
        self.group.stop()
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Updates until a second has passed or the trial has ended."""
        group = self.group
        start, steps = time.monotonic(), [trial.latest["env_steps"] for trial in group.trials]
        while group.at_work and time.monotonic() - start < REPORT_EVERY_S:
            group.advance()
        seconds = time.monotonic() - start
        results = [_report(*each, seconds) for each in zip(group.trials, steps, strict=True)]
        members = {trial.spec.trial_id: result for trial, result in zip(group.trials, results, strict=True)}
        if "others" in self.config["spec"]:
            status = next((each["status"] for each in results if each["status"] == "running"), "finished")
            return {"members": members, "status": status, "done": not group.at_work}
        return {**results[0], "done": not group.at_work}

    def cleanup(self) -> None:
        """Tune stops the trial early: everything is committed, so that the same command continues."""
        self.group.stop()


def members_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The specifications of the trials that Tune runs as one."""
    first = {key: value for key, value in config["spec"].items() if key != "others"}
    return [first, *config["spec"].get("others", [])]


def _report(trial: Trial, steps: int, seconds: float) -> dict[str, Any]:
    latest = {key: trial.latest.get(key) for key in REPORTED}
    return {
        **{key: value for key, value in latest.items() if value is not None},
        "status": trial.status,
        "reason": trial.reason or "",
        "notes": "; ".join(trial.notes),
        "steps_per_s": (trial.latest["env_steps"] - steps) / seconds if seconds > 0 else 0.0,
    }
