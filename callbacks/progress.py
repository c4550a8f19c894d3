"""What a person sees while a grid runs: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from lop_ray.algorithms.spec import TrialSpec

PLAIN_LINE_EVERY_S = 10.0
_STATES = ("finished", "running", "waiting", "diverged", "failed")
_ENDED = ("finished", "diverged")


class Progress(Callback):
    """Follows the trials of a run, shows them, and writes down the failures.

    Use it as a context manager around the run.

    Args:
        plan: The run's plan (`lop_ray.sweep.Plan`).
        console: Where to show; default: the terminal, or standard output.

    Attributes:
        failed: Trials that failed for good, each with its reason and the place of its log.
    """

    def __init__(self, plan: Any, console: Console | None = None):
        self.failed: list[tuple[TrialSpec, str, str]] = []
        self._plan = plan
        self._specs = {spec.trial_id: spec for spec in plan.to_run}
        self._state = {spec.trial_id: "waiting" for spec in plan.to_run}
        self._skipped = Counter((spec.variant, status) for spec, status in plan.skipped)
        self._latest: dict[str, dict[str, Any]] = {}
        self._begun_at_steps: dict[str, int] = {}
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._start = time.monotonic()
        self._shown = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles its callbacks for a restore that lop_ray never asks for (docs/architecture.md); a live
        # table cannot be pickled and has no place there.
        return Callback, ()

    @property
    def unfinished(self) -> list[TrialSpec]:
        """Trials that have neither ended nor failed."""
        return [self._specs[i] for i, state in self._state.items() if state in ("waiting", "running", "stopped")]

    def __enter__(self) -> Progress:
        """Begins to show."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Shows the last state and leaves it on the screen."""
        self._show(force=True)
        if self._live:
            self._live.stop()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has begun, or begun again after a failure."""
        for trial_id in _ids(trial):
            if self._state[trial_id] not in _ENDED:
                self._state[trial_id] = "running"
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported."""
        for trial_id, own in result.get("members", {_ids(trial)[0]: result}).items():
            self._take(trial_id, own)
        self._show()

    def _take(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id not in self._latest:
            for note in filter(None, result.get("notes", "").split("; ")):
                self._say(f"{_name(self._specs[trial_id])}: {note}")
        self._begun_at_steps.setdefault(trial_id, result["env_steps"])
        self._latest[trial_id] = result
        if result["status"] == "diverged" and self._state[trial_id] != "diverged":
            self._say(f"{_name(self._specs[trial_id])} diverged: {result['reason']}")
        self._state[trial_id] = result["status"]

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed and will be tried again from its newest valid checkpoint."""
        for trial_id in _ids(trial):
            if self._state[trial_id] not in _ENDED:
                self._state[trial_id] = "waiting"
                self._say(f"{_name(self._specs[trial_id])} failed and is tried again: {_reason(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed for good: its traceback goes beside its checkpoints, its row says so."""
        for trial_id in _ids(trial):
            if self._state[trial_id] not in _ENDED:
                self._fail(self._specs[trial_id], _reason(trial), _traceback(trial))

    def _fail(self, spec: TrialSpec, reason: str, traceback: str) -> None:
        self._state[spec.trial_id] = "failed"
        log = self._plan.record_failure(spec, reason, traceback)
        self.failed.append((spec, reason, log))
        self._say(f"{_name(spec)} failed: {reason}; log: {log}")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's loop has turned."""
        self._show()

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show(self, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._shown < (0.5 if self._live else PLAIN_LINE_EVERY_S):
            return
        self._shown = now
        if self._live:
            self._live.update(self._table(), refresh=True)
        else:
            self._say(self._line())

    def _counts(self, variant: str | None = None) -> Counter[str]:
        counts = Counter(
            "waiting" if state == "stopped" else state
            for trial_id, state in self._state.items()
            if variant is None or self._specs[trial_id].variant == variant
        )
        for (skipped_variant, status), n in self._skipped.items():
            if variant in (None, skipped_variant):
                counts[status] += n
        return counts

    def _speed(self, variant: str | None = None) -> float:
        return sum(
            result["steps_per_s"]
            for trial_id, result in self._latest.items()
            if self._state[trial_id] == "running" and variant in (None, self._specs[trial_id].variant)
        )

    def _mean(self, key: str, variant: str | None) -> str:
        values = [
            result[key]
            for trial_id, result in self._latest.items()
            if result.get(key) is not None and variant in (None, self._specs[trial_id].variant)
        ]
        return f"{sum(values) / len(values):.3g}" if values else "-"

    def _remaining_s(self) -> float | None:
        left = 0
        done = 0
        for trial_id, state in self._state.items():
            if state in ("waiting", "running", "stopped"):
                total = self._specs[trial_id].total_steps
                left += max(0, total - self._latest.get(trial_id, {}).get("env_steps", 0))
            if trial_id in self._latest:
                done += self._latest[trial_id]["env_steps"] - self._begun_at_steps[trial_id]
        elapsed = time.monotonic() - self._start
        return left / (done / elapsed) if done > 0 else None

    def _line(self) -> str:
        counts = self._counts()
        states = ", ".join(f"{counts[state]} {state}" for state in _STATES)
        return (
            f"[{_duration(time.monotonic() - self._start)}] {states}; {self._speed():,.0f} steps/s; "
            f"return {self._mean('episode_return_mean', None)}; dead {self._mean('dead_fraction', None)}; "
            f"ETA {_duration(self._remaining_s())}"
        )

    def _table(self) -> Table:
        table = Table(
            title=f"{self._plan.grid}: {_duration(time.monotonic() - self._start)} gone, "
            f"ETA {_duration(self._remaining_s())}",
            title_justify="left",
        )
        table.add_column("variant")
        for column in (*_STATES, "env steps", "steps/s", "return", "dead"):
            table.add_column(column, justify="right")
        variants = list(dict.fromkeys(spec.variant for spec in self._plan.specs))
        for variant in [*variants, None]:
            counts = self._counts(variant)
            ids = [i for i in self._latest if variant in (None, self._specs[i].variant)]
            steps = sum(self._latest[i]["env_steps"] for i in ids)
            row = [variant or "all", *(str(counts[state] or "-") for state in _STATES), f"{steps:,}"]
            row += [f"{self._speed(variant):,.0f}", self._mean("episode_return_mean", variant)]
            table.add_row(*row, self._mean("dead_fraction", variant), style="bold" if variant is None else None)
            if variant == variants[-1]:
                table.add_section()
        return table


def _ids(trial: Any) -> list[str]:
    """Of a trial as Tune has it: its own, and those of the seeds that run with it."""
    spec = trial.config["spec"]
    return [spec["trial_id"], *(other["trial_id"] for other in spec.get("others", []))]


def _name(spec: TrialSpec) -> str:
    return f"{spec.variant} seed {spec.seed} ({spec.trial_id})"


def _traceback(trial: Any) -> str:
    if trial.error_file:
        with open(trial.error_file) as file:
            return file.read()
    return "the trial left no traceback\n"


def _reason(trial: Any) -> str:
    """The last line of the traceback that names the error."""
    lines = [line.strip() for line in _traceback(trial).splitlines() if line.strip() and not line[0].isspace()]
    return lines[-1][:300] if lines else "unknown"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}"
