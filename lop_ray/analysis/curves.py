"""Rows of the store made into curves: one quantity over environment steps, a row a seed.

Every function takes a duckdb connection that has the store's tables as views
(`lop_ray.results.reader.connect`), lets duckdb average the rows of a trial within bins of environment
steps, and returns small arrays. Bin i covers the steps (i w, (i + 1) w] and stands at its right edge, as in
the plots of Dohare et al. 2024 (`lop/rl/plots/fig4a.py`): first the mean within a bin for each seed, then the
statistic over seeds. All trials count, whatever their status; a seed that has ended, or has no row in a
bin, has no value there, and the number of seeds goes with every point.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lop_ray.analysis.statistics import Estimate, Floats, Statistic, estimate, mean
from lop_ray.seeding import numpy_generator

if TYPE_CHECKING:
    import duckdb

BIN_STEPS = 100_000
"""Bin width of the paper's return curves on SlipperyAnt, in environment steps."""

WEIGHT_CHANGE_BIN_STEPS = 1_000_000
"""Bin width of the paper's curves of weight change (the reference takes maxima of 500 updates of 2048 steps)."""

KNOWN_VARIANTS = ("std", "ns", "l2", "cbp", "redo", "layernorm", "specnorm")
"""Those that come first and look the same in all figures."""


@dataclass(frozen=True)
class Curve:
    """One quantity of one variant over environment steps.

    Attributes:
        variant: Name of the variant.
        trials: [n], ids of the trials, in the order of their seeds.
        seeds: [n], their seeds.
        env_steps: [P], right edge of each bin; the last is where the data end, if that is earlier.
        values: [n, P], mean of the rows of a trial in a bin; NaN where it has none.
    """

    variant: str
    trials: tuple[str, ...]
    seeds: tuple[int, ...]
    env_steps: NDArray[np.int64]
    values: Floats

    @property
    def n(self) -> int:
        """Number of seeds with a value in some bin."""
        return len(self.trials)

    def estimate(self, statistic: Statistic = mean, *, seed: int = 0, resamples: int = 2000) -> Estimate:
        """The statistic over seeds in every bin, with its 95 % bootstrap interval over seeds.

        Args:
            statistic: `mean` or `interquartile_mean`.
            seed: Of the bootstrap's generator; the same seed gives the same interval.
            resamples: Number of draws.

        Returns:
            The estimate, of shape [P].
        """
        generator = numpy_generator(seed, "bootstrap")
        return estimate(self.values, generator, statistic=statistic, resamples=resamples)


@dataclass(frozen=True)
class Measure:
    """A number that a row holds on a hidden layer.

    Attributes:
        label: Axis label, with the unit.
        expression: SQL on the columns of `table`.
        table: `layers` or `neurons`.
    """

    label: str
    expression: str
    table: str = "layers"

    @property
    def percent(self) -> bool:
        """Whether it lies between 0 and 100."""
        return "(%" in self.label


MEASURES: dict[str, Measure] = {
    "dead": Measure("dead units (%)", "100.0 * dead / units"),
    "at_risk": Measure("units at risk (%)", "100.0 * at_risk / units"),
    "always_on": Measure("always-on units (%)", "100.0 * always_on / units"),
    "selective": Measure("selective units (%)", "100.0 * selective / units"),
    "dormant": Measure("dormant units (%)", "100.0 * dormant / units"),
    "silent": Measure("units active on at most 1 % (%)", "100.0 * silent / units"),
    "duplicates": Measure("duplicate units (%)", "100.0 * duplicates / units"),
    "sparsity": Measure("activations that are 0 (%)", "100.0 * sparsity"),
    "saturation": Measure("pre-activations with |z| > 2 (%)", "100.0 * saturation"),
    "mean_margin": Measure("mean margin (pre-activation)", "mean_margin"),
    "activity": Measure("mean |activation|", "activity"),
    "stable_rank": Measure("stable rank (% of units)", "100.0 * stable_rank / units"),
    "effective_rank": Measure("effective rank (% of units)", "100.0 * effective_rank / units"),
    "feature_rank": Measure("feature rank (% of units)", "100.0 * feature_rank / units"),
    "pca_rank": Measure("PCA rank (% of units)", "100.0 * pca_rank / units"),
    "covariance_rank": Measure("covariance rank (% of units)", "100.0 * covariance_rank / units"),
    "numerical_rank": Measure("numerical rank (% of units)", "100.0 * numerical_rank / units"),
    "relative_rank": Measure("relative rank (% of units)", "100.0 * relative_rank / units"),
    "weight_magnitude": Measure("mean |weight|", "weight_magnitude"),
    "weight_norm": Measure("Frobenius norm of the weights", "weight_norm"),
    "init_distance": Measure("distance from the initial weights", "init_distance"),
    "spectral_norm": Measure("largest singular value of the weights", "spectral_norm"),
    "condition_number": Measure("condition number of the weights", "condition_number"),
    "weight_rank": Measure("effective rank of the weights", "weight_rank"),
    "weight_change": Measure("sum of |weight change| an update", "weight_change"),
}
"""What `layer_curves` knows by name; counts and ranks are given in per cent of the layer's units."""

LayerCurves = dict[tuple[str, int], list[Curve]]
"""Curves by (network, layer), policy first."""


def variant_order(names: Iterable[str]) -> list[str]:
    """Variants in the order in which figures show them: the paper's first, then others by name."""
    known = {name: place for place, name in enumerate(KNOWN_VARIANTS)}
    return sorted(set(names), key=lambda name: (known.get(name, len(known)), name))


def narrow(store: duckdb.DuckDBPyConnection, condition: str) -> None:
    """Leaves only some trials in the store's view `trials`, and so in all curves and tables.

    Args:
        store: Connection with the view `trials`.
        condition: In SQL, on the columns of `trials`, such as "problem = 'ant' AND seed < 10".
    """
    store.register("trials", store.execute(f"SELECT * FROM trials WHERE {condition}").df())


def networks(store: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of the networks that were measured, policy and value first."""
    names = [row[0] for row in store.execute("SELECT DISTINCT network FROM layers").fetchall()]
    return sorted(names, key=network_place)


def suitable_bin(store: duckdb.DuckDBPyConnection, points: int = 40, usual: int = BIN_STEPS) -> int:
    """A bin width for runs of any length, in environment steps.

    The usual one (the paper's 100,000) where this gives at least `points` bins. For shorter runs, the whole
    number of updates that comes nearest to `points` bins, so that every bin holds the same number of updates.

    Args:
        store: Connection with the views `trials` and `updates`.
        points: Desired number of bins of a short run.
        usual: The width for long runs.

    Returns:
        The width; `usual` for an empty store.
    """
    longest, update = _one_row(
        store,
        "SELECT (SELECT max(env_steps) FROM updates), (SELECT min(env_steps) FROM updates WHERE update = 1)",
    )
    if longest is None or longest >= points * usual:
        return usual
    if not update:
        return max(1, longest // points)
    return int(update * max(1, round(longest / points / update)))


def return_curves(store: duckdb.DuckDBPyConnection, bin_steps: int = BIN_STEPS) -> list[Curve]:
    """Undiscounted return of the episodes that end within a bin, one curve a variant.

    Args:
        store: Connection with the views `trials` and `episodes`.
        bin_steps: Bin width in environment steps.

    Returns:
        Curves in the order of `variant_order`; empty without episodes.

    Raises:
        ValueError: `bin_steps` is not positive, or a variant has several trials of a seed (narrow the store).
    """
    curves = _curves(store, "episodes", "episode_return", (), "true", bin_steps)
    return curves.get((), [])


def evaluation_curves(store: duckdb.DuckDBPyConnection, split: str = "test", bin_steps: int = BIN_STEPS) -> list[Curve]:
    """Mean return of the evaluations within a bin, one curve a variant.

    Args:
        store: Connection with the views `trials` and `evaluations`.
        split: What was evaluated on.
        bin_steps: Bin width in environment steps.

    Returns:
        Curves in the order of `variant_order`; empty without evaluations.

    Raises:
        ValueError: `bin_steps` is not positive, or a variant has several trials of a seed (narrow the store).
    """
    return _curves(store, "evaluations", "episode_return_mean", (), f"split = '{split}'", bin_steps).get((), [])


def weight_change_curves(store: duckdb.DuckDBPyConnection, bin_steps: int = WEIGHT_CHANGE_BIN_STEPS) -> list[Curve]:
    """The largest change of the policy's weights in one update within a bin, one curve a variant.

    max over the updates of a bin of sum |w_after - w_before| over the policy network's weights without biases,
    as in `lop/rl/plots/rlapp-c.py` of the reference; then the statistic over seeds.

    Args:
        store: Connection with the views `trials` and `updates`.
        bin_steps: Bin width in environment steps.

    Returns:
        Curves in the order of `variant_order`; empty without rows.

    Raises:
        ValueError: `bin_steps` is not positive, or a variant has several trials of a seed (narrow the store).
    """
    return _curves(store, "updates", "weight_change", (), "true", bin_steps, "max").get((), [])


def layer_curves(store: duckdb.DuckDBPyConnection, measure: str | Measure, bin_steps: int = BIN_STEPS) -> LayerCurves:
    """A measure of every hidden layer of every network, one curve a variant.

    Args:
        store: Connection with the views `trials` and `layers` (or `neurons`).
        measure: A name in `MEASURES`, or a measure.
        bin_steps: Bin width in environment steps.

    Returns:
        Curves by network and layer.

    Raises:
        ValueError: `bin_steps` is not positive, or a variant has several trials of a seed (narrow the store).
    """
    chosen = MEASURES[measure] if isinstance(measure, str) else measure
    curves = _curves(store, chosen.table, chosen.expression, ("network", "layer"), "true", bin_steps)
    ordered = sorted(curves, key=lambda key: (network_place(key[0]), key[1]))
    return {(str(network), int(layer)): curves[network, layer] for network, layer in ordered}


def network_curves(
    store: duckdb.DuckDBPyConnection, measure: str | Measure, network: str, bin_steps: int = BIN_STEPS
) -> list[Curve]:
    """A measure of one network, mean over its hidden layers, one curve a variant.

    Args:
        store: Connection with the views `trials` and `layers`.
        measure: A name in `MEASURES`, or a measure.
        network: Such as "policy".
        bin_steps: Bin width in environment steps.

    Returns:
        Curves in the order of `variant_order`; empty without rows.

    Raises:
        ValueError: `bin_steps` is not positive, or a variant has several trials of a seed (narrow the store).
    """
    chosen = MEASURES[measure] if isinstance(measure, str) else measure
    where = f"network = '{network}'"
    return _curves(store, chosen.table, chosen.expression, (), where, bin_steps).get((), [])


def margin_quantile(quantile: float) -> Measure:
    """The measure "this quantile of the margins of a layer's units", from the table `neurons`."""
    return Measure("margin (pre-activation)", f"list_aggregate(margin, 'quantile_cont', {quantile:g})", "neurons")


def _curves(
    store: duckdb.DuckDBPyConnection,
    table: str,
    expression: str,
    keys: tuple[str, ...],
    where: str,
    bin_steps: int,
    within_bin: str = "avg",
) -> dict[tuple[Any, ...], list[Curve]]:
    """Binned means (or another aggregate of SQL) by the columns `keys`, each with a curve a variant.

    Raises:
        ValueError: `bin_steps` is not positive, or a variant has several trials of a seed.
    """
    if bin_steps < 1:
        raise ValueError(f"bin_steps is {bin_steps}; a bin must cover at least 1 environment step")
    columns = "".join(f"{key}, " for key in keys)
    rows = store.execute(
        f"""
        WITH measured AS (
            SELECT trial_id, {columns} env_steps, CAST({expression} AS DOUBLE) AS value FROM {table} WHERE {where}
        ), binned AS (
            SELECT trial_id, {columns} (env_steps + {bin_steps - 1}) // {bin_steps} AS bin,
                   {within_bin}(value) AS value, max(env_steps) AS last_step
            FROM measured WHERE isfinite(value) GROUP BY ALL
        )
        SELECT variant, seed, trial_id, {columns} bin, value, last_step
        FROM binned JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id)
        ORDER BY variant, seed, trial_id, bin
        """
    ).fetchall()
    if not rows:
        return {}
    first_bin, last_bin = (pick(row[-3] for row in rows) for pick in (min, max))
    edges = np.arange(first_bin, last_bin + 1, dtype=np.int64) * bin_steps
    edges[-1] = min(edges[-1], max(row[-1] for row in rows))
    grouped: dict[tuple[Any, ...], dict[str, dict[tuple[int, str], Floats]]] = {}
    for variant, seed, trial, *key, place, value, _ in rows:
        trials = grouped.setdefault(tuple(key), {}).setdefault(variant, {})
        trials.setdefault((seed, trial), np.full(len(edges), np.nan))[place - first_bin] = value
    return {
        key: [_curve(variant, variants[variant], edges) for variant in variant_order(variants)]
        for key, variants in grouped.items()
    }


def network_place(name: str) -> tuple[int, str]:
    """Where a network stands in figures and tables: policy, value, others by name."""
    return {"policy": 0, "value": 1}.get(name, 2), name


def _curve(variant: str, trials: dict[tuple[int, str], Floats], edges: NDArray[np.int64]) -> Curve:
    seeds, ids = zip(*trials, strict=True)
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            f"variant {variant} has several trials a seed ({len(seeds)} trials, {len(set(seeds))} seeds): the grid has "
            "further axes; draw one setting at a time, such as narrow(store, \"problem = 'ant'\")"
        )
    return Curve(variant, ids, seeds, edges, np.stack(list(trials.values())))


def _one_row(store: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = store.execute(query).fetchone()
    assert row is not None  # an aggregate always gives one
    return row
