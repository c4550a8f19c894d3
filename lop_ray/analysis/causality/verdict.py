"""What an experiment says on its hypothesis: one statistic with interval, n and p, and a decision either way.

The interval is that of a mean over seeds. For n seeds with statistic s_i it is Student's,

    mean(s) +- t_{n-1, 0.975} sd(s) / sqrt(n),

which covers 95 % of normal values at any n; the percentile bootstrap, which figures show for curves, covers 83 % at
n = 5 and would find too much (`lop_ray.analysis.statistics`). A statistic that is not normal over seeds (a share near
0 or 1) is transformed first where its function says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

Direction = Literal["above", "below"]


@dataclass(frozen=True)
class Interval:
    """A statistic with its 95 % interval.

    Attributes:
        value: The statistic; NaN where nothing could be computed.
        low: Lower end; NaN with too few seeds for one.
        high: Upper end.
        n: How many seeds (or pairs) it rests on.
        p: Two-sided p of "it is what it would be without an effect"; None where there is no such test.
    """

    value: float
    low: float
    high: float
    n: int
    p: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The result of one experiment on one hypothesis.

    Attributes:
        experiment: Its name, such as "prevent_death".
        hypothesis: What was to be shown, as a statement that can be wrong.
        statistic: What was computed, in words, with its unit.
        value, low, high: The statistic and its 95 % interval.
        n: How many of `unit` it rests on.
        p: Two-sided p where that means something; None elsewhere.
        supported: True: the data support the hypothesis; False: they speak against it; None: they don't decide.
        unit: What n counts.
        note: What else must be known to read it, one or two sentences.
    """

    experiment: str
    hypothesis: str
    statistic: str
    value: float
    low: float
    high: float
    n: int
    p: float | None
    supported: bool | None
    unit: str = "seeds"
    note: str = ""

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        word = {True: "SUPPORTED", False: "AGAINST", None: "UNDECIDED"}[self.supported]
        p = "" if self.p is None or np.isnan(self.p) else f", p {written_p(self.p)}"
        numbers = written_interval(self.value, self.low, self.high)
        note = f" {self.note}" if self.note else ""
        return f"{word}: {self.hypothesis}: {self.statistic} {numbers}, n = {self.n} {self.unit}{p}.{note}"


def over_seeds(values: ArrayLike, *, null: float = 0.0, confidence: float = 0.95) -> Interval:
    """Mean over seeds with Student's t interval and the two-sided t test of mean = null.

    Args:
        values: [n], a number a seed; seeds without one are NaN and left out.
        null: The mean if there were no effect.
        confidence: Nominal coverage.

    Returns:
        The interval; without one (NaN) for fewer than two seeds. Seeds that agree exactly have an interval of width 0,
        and p 0, or 1 where they agree on `null`.
    """
    given = np.asarray(values, dtype=np.float64).ravel()
    kept = given[np.isfinite(given)]
    n = len(kept)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(kept.mean())
    if n < 2:
        return Interval(mean, np.nan, np.nan, n)
    error = float(kept.std(ddof=1)) / np.sqrt(n)
    if error <= 1e-12 * max(1.0, abs(mean)):
        return Interval(mean, mean, mean, n, 1.0 if np.isclose(mean, null, rtol=0, atol=1e-12) else 0.0)
    reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean - null) / error, n - 1))
    return Interval(mean, mean - reach, mean + reach, n, p)


def decide(found: Interval, direction: Direction, *, null: float = 0.0, negligible: float = 0.0) -> bool | None:
    """Whether an interval supports "the statistic lies above (below) null".

    Supported where the whole interval is on the hypothesis' side of `null`. Against it where no part of the interval is
    (seeds that agree on no effect at all included), or where it shows that the effect, if there is one, is smaller than
    `negligible` (the logic of equivalence tests: Lakens 2017, Soc. Psychol. Personal. Sci. 8:355). Undecided otherwise,
    or without an interval.

    Args:
        found: Statistic and interval.
        direction: On which side of `null` the hypothesis puts it.
        null: Value without an effect.
        negligible: Smallest distance from `null` that would matter; at least 0.

    Returns:
        True, False or None.

    Raises:
        ValueError: `negligible` is negative.
    """
    if negligible < 0:
        raise ValueError(f"negligible is {negligible}; it is a distance from null and must be at least 0")
    if not np.isfinite([found.low, found.high]).all():
        return None
    sign = 1.0 if direction == "above" else -1.0
    low, high = sorted((sign * (found.low - null), sign * (found.high - null)))
    if high <= 0 or (negligible > 0 and high < negligible):
        return False
    return True if low > 0 else None


def verdict_of(
    experiment: str,
    hypothesis: str,
    statistic: str,
    found: Interval,
    direction: Direction,
    *,
    null: float = 0.0,
    negligible: float = 0.0,
    unit: str = "seeds",
    note: str = "",
) -> Verdict:
    """The verdict of an interval, by `decide`.

    Args:
        experiment: Name of the experiment.
        hypothesis: What was to be shown.
        statistic: What was computed.
        found: It, with its interval.
        direction: Where the hypothesis puts it.
        null: Value without an effect.
        negligible: Smallest effect that would matter.
        unit: What n counts.
        note: What else must be known.

    Returns:
        The verdict.
    """
    supported = decide(found, direction, null=null, negligible=negligible)
    return Verdict(
        experiment, hypothesis, statistic, found.value, found.low, found.high, found.n, found.p, supported, unit, note
    )


def verdict_table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Verdicts as a table, a row each: experiment, hypothesis, statistic, value, low, high, n, unit, p, verdict."""
    words = {True: "supported", False: "against", None: "undecided"}
    columns = ["experiment", "hypothesis", "statistic", "value", "low", "high", "n", "unit", "p", "verdict"]
    rows = []
    for each in verdicts:
        p = "" if each.p is None or np.isnan(each.p) else written_p(each.p).removeprefix("= ")
        numbers = [each.value, each.low, each.high, each.n, each.unit, p, words[each.supported]]
        rows.append([each.experiment, each.hypothesis, each.statistic, *numbers])
    return pd.DataFrame(rows, columns=columns).set_index(["experiment", "hypothesis"])


def printed(verdicts: Sequence[Verdict]) -> str:
    """The sentences of verdicts, a line each."""
    return "\n".join(each.sentence for each in verdicts)


def written_p(p: float) -> str:
    """Such as "= 0.034", or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def written_interval(value: float, low: float, high: float) -> str:
    """Such as "0.43 [0.2, 0.66]"."""
    return f"{_number(value)} [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "none"
