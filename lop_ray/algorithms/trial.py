"""One trial from its first update to its last, through any number of deaths in between.

A trial owns its rows and its checkpoints. Every start is the same: find the newest valid checkpoint, remove
the rows past it, go on. That one way serves a killed process, a lost node and a new session alike.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Protocol

from lop_ray.algorithms.divergence import DivergedError
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.training import Rows, Training, TrainingFactory, dead_fraction
from lop_ray.results import Checkpoints, Lock, Store
from lop_ray.results.provenance import provenance, versions

LOCK_WAIT_S = 60.0
"""How long a start waits for an earlier life of the trial, whose driver was killed, to die."""


class RowListener(Protocol):
    """Someone who is told of a trial's rows as they are written."""

    def on_rows(self, spec: TrialSpec, rows: Rows) -> None:
        """Called with the rows of every update."""
        ...

    def on_end(self, spec: TrialSpec, status: str) -> None:
        """Called once, when this process stops working on the trial."""
        ...


class Trial:
    """A trial at work in this process.

    Args:
        spec: What to train.
        store: Where its grid's results are.
        make_training: Builds the training.
        listeners: Told of every update's rows.
        resume_at: Update of the checkpoint to go on from, 0 for none: those of later updates are given up. By default
            the newest valid one.

    Attributes:
        training: What it runs.
        status: running, finished, diverged, stopped, or failed after an error that was not expected.
        notes: What a person should know about this start, such as a checkpoint passed over.
    """

    def __init__(
        self,
        spec: TrialSpec,
        store: Store,
        make_training: TrainingFactory,
        listeners: list[RowListener] | None = None,
        *,
        resume_at: int | None = None,
    ):
        self.spec = spec
        self.status = "running"
        self.reason: str | None = None
        self._listeners = listeners or []
        self._lock = Lock(store.location, f"trials/{spec.trial_id}/lock", f"trial {spec.trial_id}")
        self._lock.acquire(wait_s=LOCK_WAIT_S)
        self._writer = store.trial_writer(spec.trial_id)
        self._checkpoints = Checkpoints(store.location, spec.trial_id, keep=spec.checkpoints.keep)
        if resume_at is not None:
            self._checkpoints.give_up_after(resume_at)
        checkpoint, self.notes = self._checkpoints.newest_valid()
        self._writer.rewind(checkpoint.update if checkpoint else 0)
        self._started_at = (store.trials().get(spec.trial_id) or {}).get("started_at") or _now()
        self._set_status("running", checkpoint.env_steps if checkpoint else 0, checkpoint.update if checkpoint else 0)
        self.training: Training = make_training(spec)
        if checkpoint:
            self.training.restore({name: checkpoint.read(name) for name in checkpoint.files})
            self.notes.append(f"continues from update {checkpoint.update}")
        self._saved_at = self.training.env_steps
        self._saved_update = checkpoint.update if checkpoint else 0
        self.latest: dict[str, Any] = {"env_steps": self.training.env_steps, "updates": self.training.updates}
        self._finish_if_done()

    @property
    def at_work(self) -> bool:
        """Whether updates remain."""
        return self.status == "running"

    def advance(self) -> None:
        """One update: train, keep its rows, and when due write a checkpoint or the end.

        After any error but divergence nothing more is written: the update's rows may be incomplete, and the next
        start goes on from the newest checkpoint.
        """
        start = time.perf_counter()
        try:
            try:
                result: Rows | DivergedError = self.training.update()
            except DivergedError as error:
                result = error
            self.take(result, time.perf_counter() - start)
        except BaseException:
            self.status = "failed"
            raise

    def take(self, result: Rows | DivergedError, wall_s: float) -> None:
        """Takes in what an update gave, made here or by the group that the training belongs to.

        Args:
            result: Its rows, or why there are none.
            wall_s: How long it took.
        """
        if isinstance(result, DivergedError):
            self._end("diverged", f"update {self.training.updates + 1}: {result}")
        else:
            self._keep(result, wall_s)

    def _keep(self, rows: Rows, wall_s: float) -> None:
        row = rows["updates"][0]
        row["wall_s"] = wall_s
        for table, some in rows.items():
            self._writer.append_many(table, some)
        for listener in self._listeners:
            listener.on_rows(self.spec, rows)
        self.latest = {**row, "updates": self.training.updates, "dead_fraction": dead_fraction(rows)}
        if self.training.env_steps - self._saved_at >= self.spec.checkpoints.every_steps:
            self._save()
        self._finish_if_done()

    def stop(self) -> None:
        """Commits everything and leaves the trial to be continued later; does nothing once it has ended."""
        if self.at_work:
            self._save()
            self._end("stopped", "interrupted")

    def _finish_if_done(self) -> None:
        if self.training.env_steps >= self.spec.total_steps:
            self._save()
            self._end("finished", None)

    def _save(self) -> None:
        """Rows first, then the checkpoint: rows past the newest checkpoint can be removed, missing ones not made."""
        self._writer.commit()
        if self.training.updates > self._saved_update:
            self._checkpoints.save(self.training.updates, self.training.env_steps, self.training.state(), versions())
            self._saved_update = self.training.updates
        self._saved_at = self.training.env_steps

    def _end(self, status: str, reason: str | None) -> None:
        self._writer.commit()
        if status != "stopped":
            self._writer.join()
        self._set_status(status, self.training.env_steps, self.training.updates, reason)
        self.status, self.reason = status, reason
        for listener in self._listeners:
            listener.on_end(self.spec, status)
        self.training.close()
        self._lock.release()

    def _set_status(self, status: str, env_steps: int, updates: int, reason: str | None = None) -> None:
        spec = self.spec
        self._writer.set_status(
            status,
            reason,
            grid=spec.grid,
            problem=spec.problem,
            algorithm=spec.algorithm,
            variant=spec.variant,
            seed=spec.seed,
            env_steps=env_steps,
            updates=updates,
            config=spec.model_dump_json(),
            started_at=self._started_at,
            finished_at=None if status == "running" else _now(),
            **provenance(),
        )


def _now() -> datetime:
    return datetime.now(UTC)
