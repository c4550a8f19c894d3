"""Metrics for Ray's dashboard and Prometheus: speed, return, dead fraction and trial status, by variant."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from ray.tune import Callback
from ray.util.metrics import Gauge

from lop_ray.algorithms.training import dead_fraction

_TAGS = ("grid", "variant", "trial")


class DashboardRows:
    """Carries a trial's speed, return and dead fraction as gauges; a row listener in the trial's process."""

    def __init__(self) -> None:
        self._gauges = {
            "steps_per_s": Gauge(
                "lop_ray_env_steps_per_second", "Environment steps a second of a trial", tag_keys=_TAGS
            ),
            "return": Gauge(
                "lop_ray_episode_return", "Mean return of the episodes of the latest update", tag_keys=_TAGS
            ),
            "dead": Gauge("lop_ray_dead_fraction", "Share of hidden units with margin < 0", tag_keys=_TAGS),
        }
        self._last: tuple[float, int] | None = None

    def on_rows(self, spec: Any, rows: dict[str, list[dict[str, Any]]]) -> None:
        """Sets the gauges from the rows of an update."""
        tags = _tags(spec)
        row, now = rows["updates"][0], time.monotonic()
        if self._last is not None and now > self._last[0]:
            self._gauges["steps_per_s"].set((row["env_steps"] - self._last[1]) / (now - self._last[0]), tags)
        self._last = (now, row["env_steps"])
        if row.get("episode_return_mean") is not None:
            self._gauges["return"].set(row["episode_return_mean"], tags)
        dead = dead_fraction(rows)
        if dead is not None:
            self._gauges["dead"].set(dead, tags)

    def on_end(self, spec: Any, status: str) -> None:
        """Sets the speed to zero: nothing runs any more."""
        self._gauges["steps_per_s"].set(0.0, _tags(spec))


def _tags(spec: Any) -> dict[str, str]:
    return {"grid": spec.grid, "variant": spec.variant, "trial": f"{spec.variant}-seed{spec.seed}"}


class TrialStatusGauge(Callback):
    """Counts trials by status and variant, in the driver.

    Args:
        plan: The run's plan (`lop_ray.sweep.Plan`).
    """

    def __init__(self, plan: Any):
        self._grid = plan.grid
        self._skipped = Counter((spec.variant, status) for spec, status in plan.skipped)
        self._gauge: Gauge | None = None

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Sets the gauges; Tune calls this every step of its loop."""
        if self._gauge is None:
            self._gauge = Gauge("lop_ray_trials", "Trials by status", tag_keys=("grid", "variant", "status"))
        counts = self._skipped.copy()
        for trial in trials:
            result = trial.last_result or {}
            spec = trial.config["spec"]
            for each in (spec, *spec.get("others", [])):
                own = result.get("members", {}).get(each["trial_id"], result)
                status = own.get("status", "pending")
                if trial.status == "ERROR" and status not in ("finished", "diverged"):
                    status = "failed"
                counts[spec["variant"], status] += 1
        for variant in {variant for variant, _ in counts}:
            for status in ("pending", "running", "finished", "diverged", "failed", "stopped"):
                self._gauge.set(counts[variant, status], {"grid": self._grid, "variant": variant, "status": status})
