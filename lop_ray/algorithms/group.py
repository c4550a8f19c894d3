"""Trials that differ in the seed alone, trained in step by one process as one batched network.

Every trial has its own rows, checkpoints, lock and end. A start goes on from the newest update that all of them have a
valid checkpoint of, so that they stay in step: they save at the same updates, and two are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.training import TrainingFactory
from lop_ray.algorithms.trial import RowListener, Trial
from lop_ray.results import Checkpoints, Store

if TYPE_CHECKING:
    from lop_ray.algorithms.supervised.group import SupervisedGroup


ENDED = ("finished", "diverged")
"""Statuses of trials that do not go on."""


class TrialGroup:
    """One trial, or several in step.

    Args:
        specs: What to train; several differ in the seed alone.
        store: Where their grid's results are.
        make_training: Builds a trial's training.
        make_listeners: Makes the listeners of one trial.

    Attributes:
        trials: In the order of `specs`, without those of a group that had ended before.
    """

    def __init__(
        self,
        specs: Sequence[TrialSpec],
        store: Store,
        make_training: TrainingFactory,
        make_listeners: Callable[[], list[RowListener]] = list,
    ):
        grouped = len(specs) > 1
        if grouped:  # on a second start some may have ended
            known = store.trials()
            specs = [spec for spec in specs if known.get(spec.trial_id, {}).get("status") not in ENDED]
        common = newest_common_update(specs, store) if grouped else None
        self.trials = [Trial(spec, store, make_training, make_listeners(), resume_at=common) for spec in specs]
        self._members = [trial for trial in self.trials if trial.at_work]
        self._group = _make_group([trial.training for trial in self._members]) if grouped else None

    @property
    def at_work(self) -> bool:
        """Whether updates remain."""
        return any(trial.at_work for trial in self.trials)

    def advance(self) -> None:
        """One update of every trial at work."""
        if self._group is None:
            self.trials[0].advance()
            return
        start = time.perf_counter()
        try:
            results = self._group.update()
            wall_s = (time.perf_counter() - start) / sum(trial.at_work for trial in self._members)
            for trial, result in zip(self._members, results, strict=True):
                if trial.at_work and result is not None:
                    trial.take(result, wall_s)
        except BaseException:
            for trial in self.trials:
                if trial.at_work:
                    trial.status = "failed"
            raise

    def stop(self) -> None:
        """Commits everything and leaves the trials to be continued later; does nothing once they have ended."""
        for trial in self.trials:
            trial.stop()


def newest_common_update(specs: Sequence[TrialSpec], store: Store) -> int:
    """The newest update that all trials have a valid checkpoint of; 0 if there is none.

    Args:
        specs: The trials.
        store: Where their grid's results are.

    Returns:
        Its number.
    """
    common: set[int] | None = None
    for spec in specs:
        found, _ = Checkpoints(store.location, spec.trial_id).valid()
        own = {checkpoint.update for checkpoint in found}
        common = own if common is None else common & own
    return max(common or {0})


def _make_group(members: list[Any]) -> SupervisedGroup | None:
    from lop_ray.algorithms.supervised.group import SupervisedGroup

    return SupervisedGroup(members) if members else None
