"""How well a score tells which units die later: ROC curve, area under it, and two intervals.

The area A is the probability that a unit that dies has a higher score than one that lives, ties half.
The score of a unit is -margin: a small margin should foretell death.

- `delong`: variance of A over independent cases by DeLong et al. 1988 (Biometrics 44:837): with the placements
  V_i = share of survivors below case i, U_j = share of cases above survivor j,
  var(A) = var(V) / m + var(U) / n. For units of one network this is too narrow, as they aren't independent.
- over seeds: A of each run, then Student's interval of the mean; the one that verdicts use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_curve

from lop_ray.analysis.causality.verdict import Interval, over_seeds
from lop_ray.analysis.statistics import Floats
from lop_ray.seeding import numpy_generator


@dataclass(frozen=True)
class Roc:
    """ROC of a score over runs.

    Attributes:
        auc: Mean over runs of each run's area, with Student's interval over runs; null 0.5.
        pooled: Area over the cases of all runs, with the interval of a bootstrap that draws whole runs.
        of_runs: [n], area of each run; NaN where nobody died, or nobody lived.
        cases: Units (times moments) that died.
        survivors: Units (times moments) that lived.
        false_positive: [P], rates of the pooled curve.
        true_positive: [P].
        threshold: Score with the largest true - false positive rate (Youden 1950); a unit with a score at or above it
            is foretold to die.
    """

    auc: Interval
    pooled: Interval
    of_runs: Floats
    cases: int
    survivors: int
    false_positive: Floats
    true_positive: Floats
    threshold: float


def roc_over_runs(scores: Sequence[ArrayLike], died: Sequence[ArrayLike], *, draws: int = 200, seed: int = 0) -> Roc:
    """ROC of a score, run by run and pooled.

    Args:
        scores: Of every run, [k_i], high for those that should die; finite.
        died: Of every run, [k_i], whether they died.
        draws: Bootstrap draws of runs, for the pooled area.
        seed: Of their generator.

    Returns:
        The areas and the pooled curve; NaN and empty where no run has both kinds.

    Raises:
        ValueError: Shapes differ, or a score is not finite.
    """
    pairs = [
        (np.asarray(s, np.float64).ravel(), np.asarray(d, bool).ravel()) for s, d in zip(scores, died, strict=True)
    ]
    for each, labels in pairs:
        if each.shape != labels.shape:
            raise ValueError(f"{len(each)} scores for {len(labels)} labels in a run; give one each")
        if not np.isfinite(each).all():
            raise ValueError("a score is not finite; leave out units whose margin wasn't measured")
    of_runs = np.array([auc(*pair) for pair in pairs], dtype=np.float64)
    own = over_seeds(of_runs, null=0.5)
    all_scores = np.concatenate([np.zeros(0), *(each for each, _ in pairs)])
    labels = np.concatenate([np.zeros(0, dtype=bool), *(each for _, each in pairs)])
    pooled = auc(all_scores, labels)
    if not np.isfinite(pooled):
        empty = np.zeros(0)
        nothing = Interval(np.nan, np.nan, np.nan, 0)
        return Roc(own, nothing, of_runs, int(labels.sum()), int((~labels).sum()), empty, empty, np.nan)
    low, high = _cluster_interval(pairs, draws, seed)
    false_positive, true_positive, thresholds = roc_curve(labels, all_scores)
    best = int(np.argmax(true_positive - false_positive))
    interval = Interval(pooled, low, high, len(pairs))
    counts = int(labels.sum()), int((~labels).sum())
    return Roc(own, interval, of_runs, *counts, false_positive, true_positive, float(thresholds[best]))


def auc(scores: Floats, died: ArrayLike) -> float:
    """Area under the ROC curve by Mann-Whitney ranks; NaN where all or none died."""
    labels = np.asarray(died, dtype=bool)
    if not len(labels) or labels.all() or not labels.any():
        return np.nan
    cases = int(labels.sum())
    ranks = rankdata(scores)  # as scikit-learn's roc_auc_score, but fast enough to draw from
    return float((ranks[labels].sum() - cases * (cases + 1) / 2) / (cases * (len(labels) - cases)))


def delong(scores: ArrayLike, died: ArrayLike, confidence: float = 0.95) -> Interval:
    """Area with DeLong's interval for independent cases, and the p of 0.5.

    Args:
        scores: [k].
        died: [k].
        confidence: Nominal coverage.

    Returns:
        The area, A +- z sqrt(var), cut at 0 and 1; n is k. NaN unless both kinds are there at least twice.
    """
    s, labels = np.asarray(scores, dtype=np.float64), np.asarray(died, dtype=bool)
    cases, survivors = s[labels], s[~labels]
    m, n = len(cases), len(survivors)
    if m < 2 or n < 2:
        return Interval(auc(s, labels), np.nan, np.nan, len(s))
    ranks = rankdata(np.concatenate([cases, survivors]))
    of_cases = (ranks[:m] - rankdata(cases)) / n  # V_i, by midranks (Sun & Xu 2014)
    of_survivors = 1 - (ranks[m:] - rankdata(survivors)) / m  # U_j
    value = float(of_cases.mean())
    error = float(np.sqrt(of_cases.var(ddof=1) / m + of_survivors.var(ddof=1) / n))
    reach = float(norm.ppf((1 + confidence) / 2)) * error
    p = 2 * float(norm.sf(abs(value - 0.5) / error)) if error > 0 else (1.0 if value == 0.5 else 0.0)
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach), len(s), p)


def _cluster_interval(pairs: Sequence[tuple[Floats, NDArray[np.bool_]]], draws: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the pooled area over draws of whole runs."""
    if len(pairs) < 2:
        return np.nan, np.nan
    generator = numpy_generator(seed, "bootstrap")
    drawn = []
    for rows in generator.integers(0, len(pairs), size=(draws, len(pairs))):
        scores = np.concatenate([pairs[row][0] for row in rows])
        drawn.append(auc(scores, np.concatenate([pairs[row][1] for row in rows])))
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return float(low), float(high)
