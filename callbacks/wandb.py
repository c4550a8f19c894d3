"""One Weights & Biases run a trial, fed from the rows: scalars only, and never in the way of training."""

from __future__ import annotations

import queue
import threading
import warnings
from typing import Any, Literal

_END = object()
_WAIT_AT_END_S = 20.0
_INIT_TIMEOUT_S = 30.0
_MAX_WAITING_ROWS = 10_000


class WandbRows:
    """A row listener that sends each update's scalars to W&B from a thread of its own.

    The run has the trial's id and its grid as group, so a continued trial continues its run. Whatever goes
    wrong (no network, no key, a full disk, W&B not installed) costs one warning, and the trial goes on.

    Args:
        mode: "offline" writes below `directory` for a later `wandb sync`; "online" sends.
        directory: Where W&B keeps its files.
    """

    def __init__(self, mode: Literal["offline", "online"], directory: str | None = None):
        self._mode, self._directory = mode, directory
        self._rows: queue.Queue[Any] = queue.Queue(_MAX_WAITING_ROWS)
        self._thread: threading.Thread | None = None
        self._broken = False

    def on_rows(self, spec: Any, rows: dict[str, list[dict[str, Any]]]) -> None:
        """Hands an update's scalars to the thread."""
        if self._broken:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, args=(spec,), name="wandb", daemon=True)
            self._thread.start()
        try:
            self._rows.put_nowait(scalars(rows))
        except queue.Full:
            self._give_up(f"{_MAX_WAITING_ROWS} rows wait to be sent")

    def on_end(self, spec: Any, status: str) -> None:
        """Waits a bounded time for the last rows."""
        if self._thread is not None and not self._broken:
            self._rows.put(_END)
            self._thread.join(_WAIT_AT_END_S)
            if self._thread.is_alive():
                self._give_up(f"it did not finish within {_WAIT_AT_END_S:g} s")

    def _work(self, spec: Any) -> None:
        run = None
        try:
            import wandb

            run = wandb.init(
                project="lop_ray",
                id=spec.trial_id,
                name=f"{spec.variant}-seed{spec.seed}",
                group=spec.grid,
                mode=self._mode,
                resume="allow",
                dir=self._directory,
                config=spec.model_dump(mode="json"),
                reinit="create_new",
                settings=wandb.Settings(init_timeout=_INIT_TIMEOUT_S, console="off", silent=True, x_disable_stats=True),
            )
            while (row := self._rows.get()) is not _END:
                run.log(row, step=row["update"])
            run.finish()
        except BaseException as error:  # W&B raises much, and exits; none of it may end a trial
            self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, why: str) -> None:
        if not self._broken:
            self._broken = True
            reason = " ".join(why.split())[:200]
            warnings.warn(f"W&B is off for the rest of this trial: {reason}", RuntimeWarning, stacklevel=2)


def scalars(rows: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """An update's numbers by name: those of `updates` as they are, those of `layers` as network/layer/name."""
    flat = {key: value for key, value in rows["updates"][0].items() if isinstance(value, int | float)}
    for layer in rows.get("layers", []):
        prefix = f"{layer['network']}/{layer['layer']}/"
        flat |= {
            prefix + key: value
            for key, value in layer.items()
            if isinstance(value, int | float) and key not in ("update", "env_steps", "task", "layer")
        }
    return flat
