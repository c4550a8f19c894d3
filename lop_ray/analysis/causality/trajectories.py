"""Experiment 7: how single units die, and whether they come back.

For every unit its margin through training (`histories`). A death is a margin that falls below 0 between two
measurements; a recovery is the reverse. Each event is compared with the *survivors* at the same time: units of the same
layer that are alive before and after. So what moves all units at once, such as a new task, is no evidence. All numbers
are means over the events of a run, then over runs.

- How deaths announce themselves: the change of the margin over the measurements before (not that into death itself).
- The gradient before: the push (above 0 it lowers the unit's pre-activations), in units of its layer's mean |push|, and
  the norm of the gradient on the unit, in units of the layer's mean.
- When: the share of deaths across a change of task, against the share of measurements that lie across one.
- Whether they come back: the share of units that died and were alive again later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lop_ray.analysis.causality.histories import History, read_histories
from lop_ray.analysis.causality.verdict import Verdict, over_seeds, verdict_of
from lop_ray.analysis.statistics import Floats

if TYPE_CHECKING:
    import duckdb

NAME = "unit_trajectories"
_NUMBERS = ("deaths", "recovered", "slope", "push", "gradient", "across", "expected_across")


@dataclass(frozen=True)
class Trajectories:
    """What was found on single units.

    Attributes:
        verdicts: In the order of the argument.
        table: A row a run: deaths, share that recovered, and means over its deaths less those of survivors.
        histories: The data.
        offsets: [W], measurements relative to the death; 0 is the first in which the unit is dead.
        dying: [n, W], margin around deaths, mean over a run's events, layer by layer in units of the layer's spread.
        surviving: [n, W], the same of survivors at the same times.
    """

    verdicts: list[Verdict]
    table: pd.DataFrame
    histories: list[History]
    offsets: NDArray[np.int64]
    dying: Floats
    surviving: Floats


def unit_trajectories(store: duckdb.DuckDBPyConnection, variant: str | None = None, window: int = 3) -> Trajectories:
    """Deaths and recoveries of single units.

    Args:
        store: Connection with the views `trials` and `neurons`.
        variant: Which variant; None: the first.
        window: Measurements before and after a death.

    Returns:
        Verdicts on decline and push before death, on changes of task, and on recovery.

    Raises:
        ValueError: No rows, or a window below 2.
    """
    if window < 2:
        raise ValueError(f"window is {window}; a decline before death needs at least 2 measurements")
    histories = read_histories(store, variant)
    name = variant or histories[0].variant
    histories = [each for each in histories if each.variant == name]
    runs: dict[int, list[History]] = {}
    for each in histories:
        runs.setdefault(each.seed, []).append(each)
    offsets = np.arange(-window, window + 1)
    rows, paths = [], []
    for seed, layers in runs.items():
        numbers, dying, surviving = _run(layers, window)
        rows.append({"seed": seed} | numbers)
        paths.append((dying, surviving))
    table = pd.DataFrame(rows, columns=["seed", *_NUMBERS]).set_index("seed")
    dying, surviving = (np.stack([pair[part] for pair in paths]) for part in (0, 1))
    return Trajectories(_verdicts(table, window), table, histories, offsets, dying, surviving)


def _verdicts(table: pd.DataFrame, window: int) -> list[Verdict]:
    deaths = int(table["deaths"].sum())
    measured = bool(table["push"].notna().any())
    verdicts = [
        verdict_of(
            NAME,
            "margins decline before units die",
            f"change of the margin over the {window - 1} steps before, dying - surviving, in spreads of the layer",
            over_seeds(table["slope"]),
            "below",
            note=f"{deaths} deaths.",
        ),
        verdict_of(
            NAME,
            "deaths fall on changes of the task",
            "share of deaths across a change - share of steps across one",
            over_seeds(table["across"] - table["expected_across"]),
            "above",
        ),
        verdict_of(
            NAME,
            "most units that die stay dead",
            "share of deaths followed by a recovery",
            over_seeds(table["recovered"], null=0.5),
            "below",
            null=0.5,
        ),
    ]
    if measured:
        push = over_seeds(table["push"])
        gradient = over_seeds(table["gradient"])
        verdicts += [
            verdict_of(
                NAME,
                "the gradient pushes units to their death",
                "push in the last measurement before, dying - surviving, in mean |push| of the layer",
                push,
                "above",
                note="Adam and momentum add earlier gradients to the one measured here.",
            ),
            verdict_of(
                NAME,
                "units are starved of gradient before they die",
                "norm of the gradient in the last measurement before, dying - surviving, in means of the layer",
                gradient,
                "below",
            ),
        ]
    return verdicts


def _run(layers: list[History], window: int) -> tuple[dict[str, float], Floats, Floats]:
    """Means over the deaths of a run, and the paths of margins around them, [2 window + 1]."""
    deaths = recovered = across = steps = steps_across = 0
    slopes: list[float] = []
    pushes: list[float] = []
    gradients: list[float] = []
    dying: list[Floats] = []
    surviving: list[Floats] = []
    for each in layers:
        events = each.deaths()
        changes = np.diff(each.tasks) != 0
        deaths += len(events)
        across += int(changes[events[:, 0] - 1].sum())
        steps, steps_across = steps + len(changes), steps_across + int(changes.sum())
        recovered += sum(bool((~each.dead[time:, unit]).any()) for time, unit in events)
        spread = each.margins.std(axis=1, keepdims=True)
        margins = np.divide(each.margins, spread, out=np.zeros_like(each.margins), where=spread > 0)
        push, gradient = _relative(each.pushes), _relative(each.gradients)
        for time, unit in events:
            others = ~each.dead[time - 1] & ~each.dead[time]
            if not others.any():
                continue
            pushes.append(push[time - 1, unit] - float(push[time - 1, others].mean()))
            gradients.append(gradient[time - 1, unit] - float(gradient[time - 1, others].mean()))
            if time >= window and time + window < len(margins):
                part = slice(time - window, time + window + 1)
                dying.append(margins[part, unit])
                surviving.append(margins[part, others].mean(axis=1))
                before = dying[-1][window - 1] - dying[-1][0], surviving[-1][window - 1] - surviving[-1][0]
                slopes.append(float(before[0] - before[1]))
    numbers = {
        "deaths": deaths,
        "recovered": recovered / deaths if deaths else np.nan,
        "slope": _mean(slopes),
        "push": _mean(pushes),
        "gradient": _mean(gradients),
        "across": across / deaths if deaths else np.nan,
        "expected_across": steps_across / steps if steps else np.nan,
    }
    nothing = np.full(2 * window + 1, np.nan)
    mean_dying, mean_surviving = (np.mean(each, axis=0) if each else nothing for each in (dying, surviving))
    return numbers, mean_dying, mean_surviving


def _relative(values: Floats) -> Floats:
    """[T, U] by the layer's mean absolute value at each time; 0 where all are 0."""
    mean = np.abs(values).mean(axis=1, keepdims=True)
    return np.divide(values, mean, out=np.where(np.isnan(values), np.nan, 0.0), where=mean > 0)


def _mean(values: list[float]) -> float:
    finite = [each for each in values if np.isfinite(each)]
    return float(np.mean(finite)) if finite else np.nan
