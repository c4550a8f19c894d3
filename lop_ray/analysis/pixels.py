"""Runs on images in numbers: held-out return and the last hidden layer, trial by trial, beside what was published.

Two sorts of rows tell about the last hidden layer. Those of the run are of the latest observations that it trained on.
Those of `python -m lop_ray.diagnose` are of observations gathered on held-out levels (`lop_ray.collection`), ten a
feature, as the source's analysis has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lop_ray.analysis.curves import LayerCurves, layer_curves, network_place, variant_order
from lop_ray.analysis.spectra import Spectrum
from lop_ray.analysis.statistics import estimate
from lop_ray.seeding import numpy_generator

if TYPE_CHECKING:
    import duckdb

HELD_OUT = "held out"
"""How column `observations` of a diagnosis begins where they were gathered on held-out levels."""


@dataclass(frozen=True)
class Score:
    """A number a trial.

    Attributes:
        label: With its unit.
        expression: SQL on the columns of `table`.
        table: Where it is; `layers` and `diagnosed_layers`: in the rows of the last hidden layer.
    """

    label: str
    expression: str
    table: str = "layers"


SCORES: dict[str, Score] = {
    "test_return": Score("return on held-out levels", "episode_return_mean", "evaluations"),
    "train_return": Score("return on training levels", "episode_return", "episodes"),
    "sparsity": Score("activations that are 0 (%)", "100.0 * sparsity"),
    "dead": Score("dead units, training images (%)", "100.0 * dead / units"),
    "dormant": Score("dormant units (%)", "100.0 * dormant / units"),
    "effective_rank": Score("effective rank (% of units)", "100.0 * effective_rank / units"),
    "never_active": Score(
        "never-active units, held-out images (%)", "100.0 * never_active / units", "diagnosed_layers"
    ),
    "activation_rate": Score("activation rate, held-out images (%)", "100.0 * activation_rate", "diagnosed_layers"),
    "held_out_sparsity": Score("activations that are 0, held-out images (%)", "100.0 * sparsity", "diagnosed_layers"),
    "held_out_effective_rank": Score(
        "effective rank, centred, held-out images (% of units)",
        "100.0 * centred_effective_rank / units",
        "diagnosed_layers",
    ),
}
"""What `scores` gives, by column."""

PUBLISHED = pd.DataFrame.from_dict(
    {
        "baseline": [5.80, 82.4, 5.75, 1.06, 82.5, 3.5, 19.14, 21.52],
        "leaky_relu": [4.94, 0.0, *[np.nan] * 6],
        "mish": [5.72, 93.6, *[np.nan] * 6],
        "layernorm": [4.65, 75.9, 5.91, 0.61, 75.9, 0.5, np.nan, np.nan],
        "rmsnorm": [4.21, 67.4, *[np.nan] * 6],
        "redo": [5.73, 71.4, 5.91, 0.95, 71.8, 2.5, 26.17, 32.53],
        "specnorm": [6.96, 39.5, 6.60, 0.41, 41.6, 2.6, 25.39, 66.76],
    },
    orient="index",
    columns=[
        "test_return_1_seed",
        "sparsity_1_seed",
        "test_return",
        "test_return_spread",
        "sparsity",
        "sparsity_spread",
        "never_active",
        "activation_rate",
    ],
).rename_axis("variant")
"""The numbers of kai666-song/rl-plasticity-specnorm: its README at first, with one seed, and later, with five (and +-,
which its plots call the standard deviation over seeds), after 3,000 updates with shifts at 1,000 and 2,000. Its "dead
units" are the share of activations that are 0 (of Mish, that are below -0.28). Never-active units and activation rate
are of one seed, on 2,560 held-out images seen under uniformly drawn actions."""


def main_network(store: duckdb.DuckDBPyConnection) -> str:
    """The network that acts: `policy_value` where policy and value share one, else `policy`."""
    names = {row[0] for row in store.execute("SELECT DISTINCT network FROM layers").fetchall()}
    names |= {row[0] for row in store.execute("SELECT DISTINCT network FROM diagnosed_layers").fetchall()}
    known = [name for name in ("policy_value", "policy") if name in names]
    return known[0] if known else min(names, key=network_place, default="policy_value")


def last_layer_curves(store: duckdb.DuckDBPyConnection, measure: str, bin_steps: int) -> LayerCurves:
    """`lop_ray.analysis.curves.layer_curves` of the last hidden layer of the network that acts alone.

    Args:
        store: Connection with the views `trials` and `layers`.
        measure: A name in `lop_ray.analysis.curves.MEASURES`.
        bin_steps: Bin width in environment steps.

    Returns:
        Curves of one layer; empty without rows.
    """
    network, found = main_network(store), layer_curves(store, measure, bin_steps)
    last = max((layer for name, layer in found if name == network), default=None)
    return {key: curves for key, curves in found.items() if key == (network, last)}


def scores(store: duckdb.DuckDBPyConnection, last: float = 0.1) -> pd.DataFrame:
    """Every score of every trial at the end of its training.

    Of evaluations, episodes and the run's own rows it is the mean over the last part of the steps that the trial has
    rows for; of a diagnosis, the latest one on held-out observations.

    Args:
        store: Connection with the store's views.
        last: Share of the steps that is the last part.

    Returns:
        A row a trial: variant, seed, trial_id, env_steps, and the columns of `SCORES`, NaN where there are no rows.
    """
    network = main_network(store)
    found = store.execute(
        """SELECT variant, seed, trial_id, max(updates.env_steps) AS env_steps
           FROM updates JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id) GROUP BY ALL"""
    ).df()
    for name, score in SCORES.items():
        in_layers = score.table in ("layers", "diagnosed_layers")
        where = f"{score.expression} IS NOT NULL"
        if score.table == "evaluations":
            where += " AND split = 'test'"
        if in_layers:
            where += f" AND network = '{network}'"
        if score.table == "diagnosed_layers":
            where += f" AND observations LIKE '{HELD_OUT}%'"
        of_last_layer = ", max(layer) AS layer" if in_layers else ""
        since = 1.0 if score.table == "diagnosed_layers" else 1.0 - last
        values = store.execute(
            f"""
            WITH chosen AS (SELECT *, CAST({score.expression} AS DOUBLE) AS score FROM {score.table} WHERE {where}),
                 ends AS (SELECT trial_id, max(env_steps) AS end_steps {of_last_layer} FROM chosen GROUP BY trial_id)
            SELECT trial_id, avg(score) AS "{name}"
            FROM chosen JOIN ends USING (trial_id{", layer" if in_layers else ""})
            WHERE env_steps = end_steps OR env_steps > {since} * end_steps
            GROUP BY trial_id
            """
        ).df()
        found = found.merge(values, on="trial_id", how="left")
    order = {name: place for place, name in enumerate(variant_order(found["variant"]))}
    return found.sort_values(["variant", "seed"], key=lambda x: x.map(order) if x.name == "variant" else x).reset_index(
        drop=True
    )


def score_table(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean over seeds of every score, with its 95 % bootstrap interval.

    Args:
        table: From `scores`.
        seed: Of the bootstrap's generator.

    Returns:
        A row a variant: n, and for each score that some trial has `x`, `x_low`, `x_high`
        (`lop_ray.analysis.tables.with_intervals` writes it for reading).
    """
    rows = {}
    for variant in variant_order(table["variant"]):
        some = table[table["variant"] == variant]
        row: dict[str, float] = {"n": len(some)}
        for name in SCORES:
            if table[name].notna().any():
                result = estimate(some[name].to_numpy(dtype=np.float64), numpy_generator(seed, "bootstrap"))
                row |= {name: float(result.value), f"{name}_low": float(result.low), f"{name}_high": float(result.high)}
        rows[variant] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def last_spectra(store: duckdb.DuckDBPyConnection, spectrum: str = "feature_singular_values") -> list[Spectrum]:
    """Of every trial the latest spectrum of the last hidden layer: on held-out observations if there is one.

    Args:
        store: Connection with the views `trials`, `spectra` and `diagnosed_spectra`.
        spectrum: Its name.

    Returns:
        Spectra in the figures' order of variants, then by seed.
    """
    rows = store.execute(
        f"""
        WITH every AS (
            SELECT trial_id, env_steps, task, layer, x, 1 AS held_out FROM diagnosed_spectra
            WHERE spectrum = $spectrum AND network = $network AND observations LIKE '{HELD_OUT}%'
            UNION ALL
            SELECT trial_id, env_steps, task, layer, x, 0 FROM spectra
            WHERE spectrum = $spectrum AND network = $network
        )
        SELECT variant, seed, env_steps, coalesce(task, 0), x
        FROM every JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id)
        WHERE layer IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY trial_id ORDER BY held_out DESC, env_steps DESC, layer DESC) = 1
        ORDER BY seed
        """,
        {"spectrum": spectrum, "network": main_network(store)},
    ).fetchall()
    order = variant_order({row[0] for row in rows})
    found = [
        Spectrum(variant, seed, env_steps, task, np.asarray(x, np.float64), np.empty(0))
        for variant, seed, env_steps, task, x in rows
    ]
    return sorted(found, key=lambda each: order.index(each.variant))


def layer_norms(store: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Norms of activations and gradients by layer, of the latest diagnosis on held-out observations of each trial.

    Args:
        store: Connection with the views `trials` and `diagnosed_layers`.

    Returns:
        variant, seed, trial_id, layer, pre_activation_norm, activation_norm, gradient_norm.
    """
    columns = ("pre_activation_norm", "activation_norm", "gradient_norm")
    values = ", ".join(f"max({column}) AS {column}" for column in columns)  # each diagnostic has rows of its own
    return store.execute(
        f"""
        WITH chosen AS (
            SELECT * FROM diagnosed_layers WHERE network = ? AND observations LIKE '{HELD_OUT}%'
            QUALIFY env_steps = max(env_steps) OVER (PARTITION BY trial_id)
        )
        SELECT variant, seed, trial_id, layer, {values}
        FROM chosen JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id)
        GROUP BY ALL ORDER BY variant, seed, layer
        """,
        [main_network(store)],
    ).df()


def power_iteration_errors(store: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """1 - u' W v / sigma of every spectrally normalised weight over training, from the run and from diagnoses.

    Args:
        store: Connection with the views `trials`, `probes` and `diagnosed_probes`.

    Returns:
        variant, seed, env_steps, weight, error, sigma; by trial and time.
    """
    return store.execute(
        """
        WITH every AS (
            SELECT trial_id, env_steps, probe, metric, value FROM probes
            UNION SELECT trial_id, env_steps, probe, metric, value FROM diagnosed_probes
        )
        SELECT variant, seed, env_steps, metric AS weight,
               max(value) FILTER (probe = 'spectral_norm_error') AS error,
               max(value) FILTER (probe = 'spectral_norm_exact') AS sigma
        FROM every JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id)
        WHERE probe IN ('spectral_norm_error', 'spectral_norm_exact') AND metric <> 'failed'
        GROUP BY ALL ORDER BY variant, seed, env_steps, weight
        """
    ).df()
