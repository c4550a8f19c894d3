"""Performance profiles: which share of the tasks is solved how well.

Agarwal et al. 2021 (section 4.2): for scores x_{m,k} of run m on task k, the profile is

    F(tau) = mean over k and m of 1[x_{m,k} > tau],

the share of scores above tau, for every tau at once. A profile that lies above another everywhere is stochastically
better. Where they cross, the comparison depends on what counts as good.

Here a run is a trial that goes through a sequence of tasks with one network, so trials are resampled whole, with all
their tasks, and not task by task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lop_ray.analysis.statistics import Estimate, Floats, estimate
from lop_ray.analysis.tasks import TaskScores
from lop_ray.seeding import numpy_generator


@dataclass(frozen=True)
class Profile:
    """Performance profile of one variant.

    Attributes:
        variant: Name of the variant.
        thresholds: [T], tau, in the unit of the score.
        share: F(tau) with its 95 % bootstrap interval over trials, [T].
        n: Trials with a score on some task.
        scores: Number of scores: n times the tasks, fewer if tasks are missing.
        tasks: Number of tasks.
    """

    variant: str
    thresholds: Floats
    share: Estimate
    n: int
    scores: int
    tasks: int

    @property
    def missing(self) -> int:
        """Scores that the n trials lack."""
        return self.n * self.tasks - self.scores


def performance_profile(
    scores: ArrayLike, thresholds: ArrayLike, variant: str = "", *, seed: int = 0, resamples: int = 2000
) -> Profile:
    """The share of scores above each threshold.

    A trial counts with the share of its own tasks that lie above: with no task missing this is the formula above,
    and a trial that lacks a task weighs no less than the others. Trials without any score are left out.

    Args:
        scores: [n, K], a row a trial, a column a task; NaN where the trial has no score.
        thresholds: [T], tau.
        variant: Name of the variant.
        seed: Of the bootstrap's generator.
        resamples: Number of draws.

    Returns:
        The profile.

    Raises:
        ValueError: `scores` isn't a table, or there is no score at all.
    """
    table, taus = np.asarray(scores, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"scores has shape {table.shape}; it needs a row a trial and a column a task")
    there = np.isfinite(table)
    kept, there = table[there.any(axis=1)], there[there.any(axis=1)]
    if not len(kept):
        raise ValueError(f"variant {variant} has no score on any task, so there is no profile")
    above = ((kept[:, :, None] > taus) & there[:, :, None]).sum(axis=1) / there.sum(axis=1)[:, None]
    share = estimate(above, numpy_generator(seed, "bootstrap"), resamples=resamples)
    return Profile(variant, taus, share, len(kept), int(there.sum()), table.shape[1])


def task_profiles(scores: Sequence[TaskScores], points: int = 201, *, seed: int = 0) -> list[Profile]:
    """Profiles of the area under the return curve per task, for all variants over the same thresholds.

    Args:
        scores: From `lop_ray.analysis.tasks.task_scores`; only tasks that a trial completed count.
        points: Number of thresholds, evenly spaced from just below the least score to just above the greatest.
        seed: Of the bootstrap's generator.

    Returns:
        A profile for each variant with a completed task.
    """
    finite = [each.whole[np.isfinite(each.whole)] for each in scores]
    everything = np.concatenate([np.empty(0), *finite])
    if not len(everything):
        return []
    beyond = 0.02 * (everything.max() - everything.min())  # so that every profile begins at 1 and ends at 0
    thresholds = np.linspace(everything.min() - beyond, everything.max() + beyond, points)
    return [
        performance_profile(each.whole, thresholds, each.variant, seed=seed)
        for each, own in zip(scores, finite, strict=True)
        if len(own)
    ]
