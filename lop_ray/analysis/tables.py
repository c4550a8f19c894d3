"""Tables beside the figures: which trials there are, what they reached, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lop_ray.analysis.curves import Curve, variant_order
from lop_ray.analysis.statistics import estimate, interquartile_mean, mean
from lop_ray.seeding import numpy_generator

if TYPE_CHECKING:
    import duckdb

_PACKAGES = ("python", "lop_ray", "torch", "ray", "mujoco", "gymnasium", "numpy")


def trials_table(store: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Trials by variant: their number, how many ended how, and how far they came.

    Args:
        store: Connection with the views `trials` and `updates`.

    Returns:
        A row a variant: n, a column for each status that occurs, and the least and greatest env_steps.
    """
    # A running trial's row of `trials` doesn't say how far it is; its updates do.
    trials = store.execute(
        """
        SELECT variant, status, coalesce(steps, trials.env_steps, 0) AS env_steps
        FROM trials LEFT JOIN (SELECT trial_id, max(env_steps) AS steps FROM updates GROUP BY 1) USING (trial_id)
        """
    ).df()
    by_variant = trials.groupby("variant")
    steps = by_variant["env_steps"].agg(["min", "max"]).add_prefix("env_steps_")
    statuses = pd.crosstab(trials["variant"], trials["status"]).rename_axis(columns=None)
    table = pd.concat([by_variant.size().rename("n"), statuses, steps], axis=1)
    return table.loc[variant_order(table.index)]


def return_table(curves: Sequence[Curve], last: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """Return at the end of the runs and over all of them, with 95 % bootstrap intervals over seeds.

    `final` is a seed's mean over the bins in the last part of the steps; `whole` is its mean over all bins
    (the area under the curve, divided by the steps). A seed that ended before the last part has no final
    return, and n_final says how many have one.

    Args:
        curves: From `lop_ray.analysis.curves.return_curves`.
        last: Share of the steps that is the last part.
        seed: Of the bootstrap's generator.

    Returns:
        A row a variant: n, n_final, and for final_mean, final_iqm and whole_mean the value, low and high;
        the highest bin of the mean curve and its env_steps.
    """
    rows = {}
    for curve in curves:
        late = curve.env_steps > (1.0 - last) * curve.env_steps[-1]
        final, whole = _mean_over_bins(curve.values[:, late]), _mean_over_bins(curve.values)
        row: dict[str, float | int] = {"n": curve.n, "n_final": int(np.isfinite(final).sum())}
        for name, values, statistic in (
            ("final_mean", final, mean),
            ("final_iqm", final, interquartile_mean),
            ("whole_mean", whole, mean),
        ):
            result = estimate(values, numpy_generator(seed, "bootstrap"), statistic=statistic)
            row |= {name: float(result.value), f"{name}_low": float(result.low), f"{name}_high": float(result.high)}
        means = curve.estimate().value
        peak = int(np.nanargmax(means))
        row |= {"peak_mean": float(means[peak]), "peak_env_steps": int(curve.env_steps[peak])}
        rows[curve.variant] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def with_intervals(table: pd.DataFrame, digits: int = 0, own: Mapping[str, int] | None = None) -> pd.DataFrame:
    """The same table for reading: `value [low, high]` in one cell, "no interval" where there is none.

    Args:
        table: Numbers or text; the columns `x`, `x_low` and `x_high` become one.
        digits: Digits after the point of values with an interval; other numbers have none.
        own: Digits of single columns.

    Returns:
        A table of text; "none" where there is no value.
    """
    text = pd.DataFrame(index=table.index)
    for name in table.columns:
        if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in table:
            continue
        places = (own or {}).get(name, digits if f"{name}_low" in table else 0)
        if f"{name}_low" in table:
            triples = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
            text[name] = [_with_interval(*triple, places) for triple in triples]
        elif pd.api.types.is_numeric_dtype(table[name]):
            text[name] = [f"{value:,.{places}f}" if np.isfinite(value) else "none" for value in table[name]]
        else:
            text[name] = table[name].astype(str)
    return text


def trial_list(store: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Every trial that has begun: how it stands and how far it is.

    Args:
        store: Connection with the views `trials` and `updates`.

    Returns:
        A row a trial, by variant and seed: trial_id, variant, seed, problem, status, reason, updates, env_steps,
        total_steps (null where the configuration doesn't say), git_commit.
    """
    rows = store.execute(
        """
        SELECT trial_id, variant, seed, problem, status, coalesce(reason, '') AS reason,
               coalesce(done.updates, trials.updates, 0) AS updates,
               coalesce(done.env_steps, trials.env_steps, 0) AS env_steps,
               TRY_CAST(json_extract_string(config, '$.total_steps') AS BIGINT) AS total_steps, git_commit
        FROM trials LEFT JOIN (
            SELECT trial_id, max("update") AS updates, max(env_steps) AS env_steps FROM updates GROUP BY 1
        ) AS done USING (trial_id)
        ORDER BY problem, variant, seed, trial_id
        """
    ).df()
    order = {name: place for place, name in enumerate(variant_order(rows["variant"]))}
    return rows.sort_values("variant", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def provenance_table(store: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Where the rows come from: a row for each commit, set of versions and kind of machine.

    Args:
        store: Connection with the view `trials`.

    Returns:
        git_commit, uncommitted (whether the code differed from the commit), trials, the versions of Python and
        the main packages, hardware, and the first start and last end (UTC).
    """
    trials = store.execute("SELECT git_commit, git_dirty, versions, hardware, started_at, finished_at FROM trials").df()
    versions = [json.loads(text) if isinstance(text, str) else {} for text in trials.pop("versions")]
    trials["versions"] = [
        ", ".join(f"{name} {each[name]}" for name in _PACKAGES if name in each) or "unknown" for each in versions
    ]
    trials = trials.rename(columns={"git_dirty": "uncommitted"})
    keys = ["git_commit", "uncommitted", "versions", "hardware"]
    table = trials.groupby(keys, dropna=False).agg(
        trials=("versions", "size"), first_start=("started_at", "min"), last_end=("finished_at", "max")
    )
    return table.reset_index()


def _mean_over_bins(values: np.ndarray) -> np.ndarray:
    """Mean along the bins, without the missing ones; [n, P] -> [n], NaN where all are missing."""
    there = np.isfinite(values)
    counts = there.sum(axis=1)
    sums = np.where(there, values, 0.0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def _with_interval(value: float, low: float, high: float, digits: int) -> str:
    if not np.isfinite(value):
        return "none"
    interval = f"[{low:,.{digits}f}, {high:,.{digits}f}]" if np.isfinite(low) else "(no interval)"
    return f"{value:,.{digits}f} {interval}"
