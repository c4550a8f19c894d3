"""What an experiment hands on: verdicts, the numbers behind them, and the data for a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from lop_ray.analysis.causality.panel import Panel
from lop_ray.analysis.causality.verdict import Verdict, over_seeds


@dataclass(frozen=True)
class Result:
    """What an experiment found.

    Attributes:
        verdicts: In the order of the argument.
        table: The numbers behind them.
        panel: The data, for figures.
    """

    verdicts: list[Verdict]
    table: pd.DataFrame
    panel: Panel


def interval_table(values: Mapping[tuple[Any, ...], ArrayLike], names: list[str]) -> pd.DataFrame:
    """Means over seeds with Student's intervals.

    Args:
        values: By what they are of, a number a seed.
        names: Names of the parts of the keys, which become the index.

    Returns:
        A row a key: n, mean, low, high, p (of mean = 0).
    """
    rows = []
    for key, own in values.items():
        found = over_seeds(own)
        numbers = {"n": found.n, "mean": found.value, "low": found.low, "high": found.high, "p": found.p}
        rows.append(dict(zip(names, key, strict=True)) | numbers)
    return pd.DataFrame(rows, columns=[*names, "n", "mean", "low", "high", "p"]).set_index(names)
