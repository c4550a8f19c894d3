from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.collections import PolyCollection

from lop_ray.analysis import paper_figures
from lop_ray.results import connect
from tests.analysis.looking import curve, drawn_values, everything_fits, legend_text
from tests.analysis.store import write_store

STD = curve("std", [[0.0, 10.0, 20.0, np.nan], [4.0, 14.0, 30.0, 40.0]])
CBP = curve("cbp", [[1.0, 2.0, 3.0, 4.0]])


def test_internals_are_the_papers_four_measures(tmp_path: Path) -> None:
    write_store(tmp_path, updates=4, seeds=1, variants=("cbp",))
    store = connect(tmp_path, "ant_grid")
    panels = paper_figures.internals(store, 4 * 2048)
    rows = store.execute(
        "SELECT layer, 100.0 * silent / units, 100.0 * stable_rank / units, weight_magnitude FROM layers "
        "WHERE network = 'policy'"
    ).fetchall()
    silent = np.mean([row[1] for row in rows])  # both layers
    rank, weight = (np.mean([row[place] for row in rows if row[0] == 1]) for place in (2, 3))  # the last
    for values, expected in zip(list(panels.values())[1:], (silent, rank, weight), strict=True):
        np.testing.assert_allclose(values[0].values, [[expected]])
    figure = paper_figures.internals_figure(panels, "policy network")
    assert len(figure.axes) == 4
    assert "cbp (n = 1 seed)" in legend_text(figure)
    assert everything_fits(figure)


def test_internals_without_rows_say_so() -> None:
    assert paper_figures.internals_figure({"episode return": []}).texts[0].get_text() == "no rows"


def test_three_panels_leave_a_place_empty() -> None:
    panels = {"episode return": [STD, CBP], "a share (%)": [CBP], "a length": [STD]}
    figure = paper_figures.internals_figure(panels)
    assert [axes.get_ylabel() for axes in figure.axes if axes.axison] == list(panels)
    assert figure.axes[1].get_ylim()[0] == 0.0
    assert everything_fits(figure)


def test_spread_reaches_from_the_least_to_the_greatest_seed() -> None:
    seeds = curve("std", [[0.0], [1.0], [2.0], [3.0], [30.0], [3.0], [2.0], [1.0]])
    figure = paper_figures.spread_figure([seeds, CBP])
    spread, interval = (
        each.get_paths()[0].vertices[:, 1] for each in figure.axes[0].collections if isinstance(each, PolyCollection)
    )
    assert (spread.min(), spread.max()) == (0.0, 30.0)
    assert 0.0 < interval.min() < np.mean(seeds.values) < interval.max() < 30.0
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["std\nn = 8 seeds", "cbp\nn = 1 seed"]
    assert "no interval with 1 seed" in legend_text(figure)
    assert everything_fits(figure)


def test_twelve_variants_stand_in_three_rows() -> None:
    many = [curve(f"another_variant_{number}", [[1.0, 2.0], [2.0, 5.0]]) for number in range(12)]
    figure = paper_figures.spread_figure(many)
    assert len(figure.axes) == 12
    assert everything_fits(figure)
    assert everything_fits(paper_figures.internals_figure({"episode return": many, "a share (%)": many}))


def test_weight_change_begins_at_zero() -> None:
    figure = paper_figures.weight_change_figure([STD, CBP], bin_steps=1_000_000)
    assert figure.axes[0].get_ylim()[0] == 0.0
    assert drawn_values(figure.axes[0], "#0072B2") == [[1.0, 2.0, 3.0, 4.0]]
    assert "bin of 1,000,000 steps" in legend_text(figure)
    assert everything_fits(figure)


def test_empty_figures_say_why() -> None:
    assert "no weight change" in paper_figures.weight_change_figure([], 1).axes[0].texts[0].get_text()
    assert "no episode" in paper_figures.spread_figure([]).texts[0].get_text()
