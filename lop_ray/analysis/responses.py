"""How an outcome responds to a further axis of the grid, such as the distance between tasks (dose and response)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lop_ray.analysis.boundaries import layer_boundaries
from lop_ray.analysis.curves import Curve, network_curves, networks, return_curves, suitable_bin, variant_order
from lop_ray.analysis.drawing import empty_figure, legend, line, new_figure
from lop_ray.analysis.statistics import Estimate, estimate
from lop_ray.analysis.style import line_styles, styled
from lop_ray.seeding import numpy_generator

if TYPE_CHECKING:
    import duckdb

Outcomes = dict[str, dict[str, list[float]]]
"""A number a seed, by outcome and variant."""


def outcomes(store: duckdb.DuckDBPyConnection) -> Outcomes:
    """What came of every trial of one setting, in one number each.

    Return over the whole run (mean over bins); dead units of the policy network in the last tenth of the steps (mean
    over hidden layers); units of the policy network that a task boundary's shift and the adaptation to it kill (mean
    over boundaries and hidden layers).

    Args:
        store: Connection with the store's views, narrowed to one setting.

    Returns:
        Seeds' numbers by outcome and variant; an outcome without rows is left out.
    """
    bin_steps = suitable_bin(store)
    names = networks(store)
    network = "policy" if "policy" in names or not names else names[0]
    found: Outcomes = {
        "return, whole run": {each.variant: _means(each, 1.0) for each in return_curves(store, bin_steps)},
        "dead units at the end (%)": {
            each.variant: _means(each, 0.1) for each in network_curves(store, "dead", network, bin_steps)
        },
    }
    layers = [each for (name, _), each in layer_boundaries(store).items() if name == network]
    for cause in ("shift", "adaptation"):
        by_variant: dict[str, dict[int, list[float]]] = {}
        for each in (each for layer in layers for each in layer):
            for seed, values in zip(each.seeds, each.values[f"killed_by_{cause}"], strict=True):
                kept = values[np.isfinite(values)]
                if len(kept):
                    by_variant.setdefault(each.variant, {}).setdefault(seed, []).append(float(kept.mean()))
        found[f"units killed by the {cause} (%)"] = {
            variant: [float(np.mean(means)) for means in seeds.values()] for variant, seeds in by_variant.items()
        }
    return {name: variants for name, variants in found.items() if variants}


def response_table(settings: Mapping[str, Outcomes], seed: int = 0) -> pd.DataFrame:
    """Outcomes by setting and variant: mean over seeds with 95 % bootstrap intervals.

    Args:
        settings: From `outcomes`, by the setting's name.
        seed: Of the bootstrap's generator.

    Returns:
        A row for each outcome, variant and setting: n, mean, mean_low, mean_high.
    """
    rows: list[dict[str, Any]] = []
    for outcome, variant in _keys(settings.values()):
        for name, found in settings.items():
            values = found.get(outcome, {}).get(variant, [])
            result = _estimate(values, seed)
            numbers = {"mean": result.value, "mean_low": result.low, "mean_high": result.high}
            row: dict[str, Any] = {"outcome": outcome, "variant": variant, "setting": name, "n": len(values)}
            rows.append(row | {key: float(value) for key, value in numbers.items()})
    columns = ["outcome", "variant", "setting", "n", "mean", "mean_low", "mean_high"]
    return pd.DataFrame(rows, columns=columns).set_index(["outcome", "variant", "setting"])


@styled
def response_figure(doses: Mapping[float, Outcomes], axis: str) -> Figure:
    """Every outcome against the value on an axis of the grid, one line a variant.

    Args:
        doses: From `outcomes`, by the value on the axis.
        axis: Name of the axis.

    Returns:
        A panel for each outcome.
    """
    if not doses or not any(doses.values()):
        return empty_figure("no outcome yet")
    values = sorted(doses)
    keys = _keys(doses.values())
    names = list(dict.fromkeys(outcome for outcome, _ in keys))
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(4.1 * columns + 0.4, 1.0 + 2.5 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    variants = variant_order(variant for _, variant in keys)
    looks = line_styles(variants)
    most = {variant: _Group(variant, 0) for variant in variants}
    for axes, name in zip(panels.flat, names, strict=False):
        for variant in variants:
            of_doses = [_estimate(doses[value].get(name, {}).get(variant, []), 0) for value in values]
            parts = ([np.asarray(getattr(each, part)) for each in of_doses] for part in ("value", "low", "high", "n"))
            result = Estimate(*(np.array(part) for part in parts))
            n = int(result.n.max())
            most[variant] = _Group(variant, max(n, most[variant].n))
            line(axes, values, result, n, looks[variant], few_bands=len(variants) <= 5)
        axes.set_ylabel(name)
        axes.set_xlabel(axis)
        axes.set_xticks(values)
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    legend(figure, [each for each in most.values() if each.n], "mean over seeds")
    return figure


class _Group:
    """A variant and its largest number of seeds, for the legend."""

    def __init__(self, variant: str, n: int):
        self.variant, self.n = variant, n


def _keys(settings: Any) -> list[tuple[str, str]]:
    """Every outcome and variant that occurs, in order."""
    names = dict.fromkeys(outcome for found in settings for outcome in found)
    return [
        (name, variant)
        for name in names
        for variant in variant_order(each for found in settings for each in found.get(name, {}))
    ]


def _estimate(values: Sequence[float], seed: int) -> Estimate:
    if not values:
        nan = np.array(np.nan)
        return Estimate(nan, nan, nan, np.array(0))
    return estimate(values, numpy_generator(seed, "bootstrap"))


def _means(curve: Curve, last: float) -> list[float]:
    """Mean of every seed over the bins in the last part of the steps that it has; seeds without one are left out."""
    late = curve.values[:, curve.env_steps > (1.0 - last) * curve.env_steps[-1]]
    return [float(row[np.isfinite(row)].mean()) for row in late if np.isfinite(row).any()]
