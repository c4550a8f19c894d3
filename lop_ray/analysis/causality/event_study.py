"""What a series does around events, against what it does around times without any.

For a run with series y and events at times e, the effect of one event is the change from before to after,

    D_e = mean(y_e, ..., y_{e+w-1}) - mean(y_{e-w}, ..., y_{e-1}),

and the run's effect is the mean of D over its events. A series that drifts changes around any time. So as many placebo
events are drawn from the same run, at times at least w from every event where there are such times, and the run's
placebo is the mean over many draws. The estimate is effect - placebo, one number a run, with the interval over runs.
Near times without an event are rarely like those with one in everything else; the placebo takes out drift, not cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lop_ray.analysis.causality.verdict import Interval, over_seeds
from lop_ray.analysis.statistics import Estimate, Floats, estimate
from lop_ray.seeding import numpy_generator


@dataclass(frozen=True)
class EventStudy:
    """Response to events over runs.

    Attributes:
        offsets: [2w], time relative to the event: -w..w-1; 0 is the first point at which the event has happened.
        paths: [n, 2w], mean over a run's events of y minus its mean over the w points before; NaN without events.
        placebo_paths: [n, 2w], the same around placebo events, mean over draws.
        effects: [n], change from before to after, mean over a run's events.
        placebos: [n], the same around placebo events.
        events: [n], how many events of a run have a whole window.
    """

    offsets: NDArray[np.int64]
    paths: Floats
    placebo_paths: Floats
    effects: Floats
    placebos: Floats
    events: NDArray[np.int64]

    @property
    def effect(self) -> Interval:
        """Effect beyond the placebo, mean over the runs that have both."""
        return over_seeds(self.effects - self.placebos)

    def path(self, *, placebo: bool = False) -> Estimate:
        """Mean path over runs with its bootstrap interval over runs, [2w]."""
        return estimate(self.placebo_paths if placebo else self.paths, numpy_generator(0, "bootstrap"))


def event_study(
    series: Sequence[ArrayLike], events: Sequence[ArrayLike], window: int = 3, *, draws: int = 200, seed: int = 0
) -> EventStudy:
    """Responses of a series to events, run by run.

    Args:
        series: y of every run, [T_i]; without gaps.
        events: Times of the events of every run: the first point of y after each.
        window: w, points before and after.
        draws: Placebo sets a run.
        seed: Of their generator.

    Returns:
        The study; runs without an event that has a whole window are NaN.

    Raises:
        ValueError: Numbers of runs differ, or the window is empty.
    """
    if len(series) != len(events):
        raise ValueError(f"{len(series)} series and {len(events)} lists of events; give one each a run")
    if window < 1:
        raise ValueError(f"window is {window}; it must be at least 1 point")
    offsets = np.arange(-window, window)
    paths, placebo_paths = (np.full((len(series), 2 * window), np.nan) for _ in range(2))
    counts = np.zeros(len(series), dtype=np.int64)
    for run, (values, times) in enumerate(zip(series, events, strict=True)):
        y = np.asarray(values, dtype=np.float64)
        all_times = np.unique(np.asarray(times, dtype=np.int64))
        usable = _usable(y, window)
        own = np.intersect1d(all_times, usable)
        counts[run] = len(own)
        if not len(own):
            continue
        paths[run] = _path(y, own, offsets)
        away = np.array([t for t in usable if not len(all_times) or np.abs(all_times - t).min() >= window])
        if not len(away):  # events everywhere: the best that is left are times that are no event themselves
            away = np.setdiff1d(usable, all_times)
        if len(away):
            generator = numpy_generator(seed, "placebo", run)
            drawn = generator.choice(away, size=(draws, len(own)), replace=True)
            placebo_paths[run] = np.mean([_path(y, each, offsets) for each in drawn], axis=0)
    after = offsets >= 0
    effects, placebos = (each[:, after].mean(axis=1) for each in (paths, placebo_paths))
    return EventStudy(offsets, paths, placebo_paths, effects, placebos, counts)


def rises(series: ArrayLike, least: float) -> NDArray[np.int64]:
    """Times t at which a series rises by at least `least`: x_t - x_{t-1} >= least.

    Args:
        series: [T], such as dead units.
        least: The rise that counts as an event, above 0.

    Returns:
        The times, ascending.

    Raises:
        ValueError: `least` is not above 0.
    """
    if least <= 0:
        raise ValueError(f"least is {least}; a rise is above 0")
    x = np.asarray(series, dtype=np.float64)
    return np.asarray(1 + np.flatnonzero(np.diff(x) >= least - 1e-12), dtype=np.int64)


def _usable(y: Floats, window: int) -> NDArray[np.int64]:
    """Times with `window` finite points before and as many from there on."""
    times = np.arange(window, len(y) - window + 1)
    return np.array([t for t in times if np.isfinite(y[t - window : t + window]).all()], dtype=np.int64)


def _path(y: Floats, times: NDArray[np.int64], offsets: NDArray[np.int64]) -> Floats:
    """Mean over events of y relative to its mean before, [2w]."""
    rows = y[times[:, None] + offsets]
    before = rows[:, offsets < 0].mean(axis=1, keepdims=True)
    return np.asarray((rows - before).mean(axis=0))
