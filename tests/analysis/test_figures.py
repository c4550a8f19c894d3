from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from lop_ray.analysis import figures, style
from tests.analysis.looking import curve, drawn_values, everything_fits, legend_text

STD = curve("std", [[0.0, 10.0, 20.0, np.nan], [4.0, 14.0, 30.0, 40.0]])
CBP = curve("cbp", [[1.0, 2.0, 3.0, 4.0]])


def test_return_figure_shows_values_interval_and_seeds() -> None:
    figure = figures.return_figure([STD, CBP], bin_steps=100_000)
    left, right = figure.axes
    # All seeds: solid up to the third bin. One seed left: thin and dashed under it, up to the last.
    dashed, solid = drawn_values(left, "#D55E00")
    assert dashed == [2.0, 12.0, 25.0, 40.0]
    np.testing.assert_array_equal(solid, [2.0, 12.0, 25.0, np.nan])
    assert drawn_values(left, "#0072B2") == [[1.0, 2.0, 3.0, 4.0]]
    band = next(each for each in left.collections if isinstance(each, PolyCollection))
    corners = band.get_paths()[0].vertices
    # With two seeds the 95 % interval is their range; the bin with one seed has none.
    assert {tuple(corner) for corner in corners} >= {(1e5, 0.0), (1e5, 4.0), (3e5, 20.0), (3e5, 30.0)}
    assert corners[:, 0].max() == 3e5
    text = legend_text(figure)
    assert "std (n = 2 seeds)" in text
    assert "cbp (n = 1 seed)" in text
    assert "no interval with 1 seed" in text
    assert "not all seeds" in text
    assert "95 % bootstrap" in text
    assert "100,000 steps" in text
    assert left.get_ylabel() == "episode return"
    assert left.get_xlabel() == "environment steps (thousands)"
    assert "equals the mean" in right.get_title(loc="left")
    assert everything_fits(figure)


def test_bins_without_any_value_do_not_break_a_line() -> None:
    figure = figures.return_figure([curve("std", [[1.0, np.nan, 3.0]])])
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_xydata(), [[1e5, 1.0], [3e5, 3.0]])
    assert "interval over seeds" not in legend_text(figure)
    assert "no interval with 1 seed" in legend_text(figure)


def test_many_variants_with_long_names_fit() -> None:
    assert "not all seeds" not in legend_text(figures.return_figure([curve("another", [[1.0, 2.0]])]))
    many = [curve(f"a_variant_with_a_long_name_{number}", [[1.0, 2.0]]) for number in range(9)]
    assert everything_fits(figures.return_figure(many))
    assert everything_fits(figures.demo_figure(many, {"policy": many, "value": many}, "ant_grid"))


def test_a_collapse_is_cut_off_and_said() -> None:
    fallen = curve("std", [[0.0, 2000.0, -383_981.0, -100.0]])
    figure = figures.return_figure([fallen, curve("cbp", [[0.0, 1000.0, 3000.0, 4000.0]])])
    left = figure.axes[0]
    assert left.get_ylim()[0] == -1000.0
    assert left.get_ylim()[1] > 4000.0
    assert any("lowest \N{MINUS SIGN}383,981" in text.get_text() for text in left.texts)
    assert not figures.return_figure([STD]).axes[0].texts
    # Before anything was learnt, low returns are all there is to see.
    untrained = figures.return_figure([curve("std", [[-200.0, -2260.0, 20.0]])])
    assert not untrained.axes[0].texts
    assert untrained.axes[0].get_ylim()[0] < -2260.0


def test_layer_figure_has_a_panel_for_each_layer() -> None:
    layers = {(network, layer): [STD, CBP] for network in ("policy", "value") for layer in (0, 1)}
    del layers["value", 1]
    figure = figures.layer_figure(layers, "dead units (%)", percent=True)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert titles == [
        "policy network, hidden layer 1",
        "policy network, hidden layer 2",
        "value network, hidden layer 1",
    ]
    assert figure.get_supylabel() == "dead units (%)"
    assert figure.axes[0].get_ylim() == (0.0, pytest.approx(42.0))
    assert everything_fits(figure)


def states(dead: float, at_risk: float, selective: float, always_on: float) -> dict:
    shares = {"dead": dead, "at_risk": at_risk, "selective": selective, "always_on": always_on}
    return {name: {("policy", 0): [curve("std", [[share, share]])]} for name, share in shares.items()}


def test_unit_states_are_stacked_to_a_hundred() -> None:
    figure = figures.unit_states_figure(states(dead=30.0, at_risk=5.0, selective=50.0, always_on=20.0))
    tops = [band.get_paths()[0].vertices[:, 1].max() for band in figure.axes[0].collections]
    assert tops == pytest.approx([30.0, 35.0, 80.0, 100.0])
    for label in ("dead (max < 0)", "at risk (0 ≤ max < 0.1)", "selective (min < 0 < max)", "always on (min > 0)"):
        assert label in legend_text(figure)
    assert "n = 1 seed" in figure.axes[0].get_title(loc="left")
    assert everything_fits(figure)


def test_margins_figure_draws_the_median_and_both_bands() -> None:
    levels = dict(zip((0.05, 0.25, 0.5, 0.75, 0.95), (-1.0, 0.0, 1.0, 2.0, 3.0), strict=True))
    quantiles = {q: {("policy", 0): [curve("std", [[level, level]])]} for q, level in levels.items()}
    figure = figures.margins_figure(quantiles)
    (axes,) = figure.axes
    wide, half = (band.get_paths()[0].vertices[:, 1] for band in axes.collections)
    assert (wide.min(), wide.max(), half.min(), half.max()) == (-1.0, 3.0, 0.0, 2.0)
    assert drawn_values(axes, "#0072B2") == [[1.0, 1.0]]
    assert everything_fits(figure)


def test_demo_figure_without_any_episode_says_so(tmp_path: Path) -> None:
    figure = figures.demo_figure([], {"policy": [STD], "value": [STD]}, "ant_grid")
    assert [text.get_text() for text in figure.axes[0].texts] == ["no rows"]
    figures.save(figure, tmp_path / "new" / "demo.png")
    assert (tmp_path / "new" / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "figure",
    [
        lambda: figures.layer_figure({}, "dead units (%)"),
        lambda: figures.unit_states_figure({"dead": {}}),
        lambda: figures.margins_figure({0.5: {}}),
    ],
    ids=["layers", "states", "margins"],
)
def test_an_empty_table_is_said(figure: Callable[[], Figure]) -> None:
    drawn = figure()
    assert "no rows in the table" in drawn.texts[0].get_text()
    assert everything_fits(drawn)


def test_each_variant_keeps_its_look_and_no_two_share_one() -> None:
    few, many = style.line_styles(["cbp"]), style.line_styles(["std", "cbp", *"abcdefghij"])
    assert few["cbp"] == many["cbp"]
    assert len({str(look) for look in many.values()}) == 12


@pytest.mark.parametrize(
    ("last", "label"),
    [(9_000, "environment steps"), (40_960, "environment steps (thousands)"), (1e8, "environment steps (millions)")],
)
def test_steps_are_given_in_readable_units(last: float, label: str) -> None:
    axes = Figure().subplots()
    assert style.steps_axis(axes, last) == label
    unit = style.steps_unit(last)[0]
    assert axes.xaxis.get_major_formatter()(last / 2, 0) == f"{last / 2 / unit:g}"
