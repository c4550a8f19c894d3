from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lop_ray.analysis.responses import outcomes, response_figure, response_table
from lop_ray.results import connect
from tests.analysis.looking import drawn_values, everything_fits, legend_text
from tests.analysis.store import write_slippery_store


def test_outcomes_are_one_number_a_seed(tmp_path: Path) -> None:
    write_slippery_store(tmp_path, seeds=2, tasks=3, task_updates=4)
    store = connect(tmp_path, "slippery_ant_grid")
    found = outcomes(store)
    assert list(found) == [
        "return, whole run",
        "dead units at the end (%)",
        "units killed by the shift (%)",
        "units killed by the adaptation (%)",
    ]
    assert {name: len(each) for name, each in found["return, whole run"].items()} == {"std": 2, "cbp": 2}
    # cbp's second seed still runs: no last tenth, and one boundary of two.
    assert len(found["dead units at the end (%)"]["cbp"]) == 1
    killed = store.execute(
        """
        SELECT seed, avg(share) FROM (
            SELECT trial_id, layer, avg(100.0 * killed_by_shift / units) AS share
            FROM boundaries WHERE network = 'policy' GROUP BY ALL
        ) JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id)
        WHERE variant = 'std' GROUP BY seed ORDER BY seed
        """
    ).fetchall()
    assert found["units killed by the shift (%)"]["std"] == pytest.approx([value for _, value in killed])


DOSES = {
    0.5: {"return, whole run": {"std": [1.0, 3.0], "cbp": [4.0]}},
    0.0: {"return, whole run": {"std": [5.0, 5.0]}, "another": {"std": [1.0]}},
}


def test_the_table_has_every_setting_and_its_n() -> None:
    table = response_table({"near": DOSES[0.0], "far": DOSES[0.5]})
    assert table.loc[("return, whole run", "std", "far")].tolist() == [2, 2.0, 1.0, 3.0]
    absent = table.loc[("return, whole run", "cbp", "near")]
    assert absent["n"] == 0
    assert np.isnan(absent["mean"])


def test_the_figure_runs_over_the_values_of_the_axis() -> None:
    figure = response_figure(DOSES, "friction.distance")
    first = figure.axes[0]
    assert drawn_values(first, "#D55E00") == [[5.0, 2.0]]
    assert list(first.lines[0].get_xdata()) == [0.0, 0.5]
    assert first.get_xlabel() == "friction.distance"
    assert "std (n = 2 seeds)" in legend_text(figure)
    assert everything_fits(figure)
    assert "no outcome" in response_figure({}, "x").texts[0].get_text()
