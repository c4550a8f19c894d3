"""Figures of runs on images: what they show, and that all of it is inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lop_ray.analysis import pixel_figures, pixels
from lop_ray.analysis.spectra import Spectrum
from lop_ray.results import connect
from tests.analysis.looking import curve, everything_fits, legend_text
from tests.analysis.pixel_store import GRID, write_pixel_store


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder: Path = tmp_path_factory.mktemp("pixels")
    write_pixel_store(folder)
    return pixels.scores(connect(folder, GRID))


def test_bars_are_means_with_every_seed_and_the_published_number(scores: pd.DataFrame) -> None:
    columns = ["test_return", "never_active"]
    figure = pixel_figures.comparison_figure(scores, columns, pixels.PUBLISHED)
    returns, never = figure.axes
    assert [label.get_text() for label in returns.get_xticklabels()] == ["specnorm", "baseline"]
    assert [bar.get_height() for bar in returns.patches] == pytest.approx([5.5, 4.5])
    intervals, seeds, published = (returns.lines[i].get_ydata() for i in (0, 1, 2))
    assert list(intervals) == [5.0, 6.0]
    assert list(seeds) == [5.0, 6.0]
    assert list(published) == [6.6]
    assert [bar.get_height() for bar in never.patches] == pytest.approx([25.0, 25.0])
    text = legend_text(figure)
    assert "n = 2 each" in text
    assert "95 % bootstrap interval" in text
    assert "published" in text
    assert everything_fits(figure)


def test_one_seed_has_no_interval_and_a_score_without_rows_says_so(scores: pd.DataFrame) -> None:
    one = scores[scores["seed"] == 0].assign(held_out_sparsity=np.nan)
    figure = pixel_figures.comparison_figure(one, ["test_return", "held_out_sparsity", "dead", "activation_rate"])
    assert len(figure.axes) == 6
    assert [len(axes.patches) for axes in figure.axes] == [2, 0, 2, 2, 0, 0]
    assert figure.axes[1].texts[0].get_text() == "no rows"
    assert "no interval with 1 seed" in legend_text(figure)
    assert "published" not in legend_text(figure)
    assert everything_fits(figure)


def test_both_splits_share_an_axis_and_show_the_shifts() -> None:
    train, test = [curve("baseline", [[1.0, 2.0, 3.0]])], [curve("baseline", [[1.0, np.nan, 2.0]])]
    figure = pixel_figures.split_return_figure(train, test, np.array([150_000.0]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["training levels", "held-out levels"]
    for axes in figure.axes:
        assert any(list(line.get_xdata()) == [150_000.0] * 2 for line in axes.lines)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert "dotted: the task changes" in legend_text(figure)
    assert everything_fits(figure)
    assert everything_fits(pixel_figures.split_return_figure(train, [], np.array([])))


def test_spectra_are_means_over_seeds_relative_to_the_largest() -> None:
    def spectrum(seed: int, values: list[float]) -> Spectrum:
        return Spectrum("specnorm", seed, 10, 0, np.array(values), np.empty(0))

    figure = pixel_figures.spectrum_figure([spectrum(0, [4.0, 2.0, 1.0]), spectrum(1, [2.0, 0.5, 0.1])])
    (axes,) = figure.axes
    assert any(np.allclose(line.get_ydata(), [1.0, 0.375, 0.15]) for line in axes.lines)
    assert "specnorm (n = 2 seeds)" in legend_text(figure)
    assert everything_fits(figure)
    empty = pixel_figures.spectrum_figure([spectrum(0, [0.0, 0.0])])
    assert "lop_ray.diagnose" in empty.texts[0].get_text()


def test_norms_have_a_line_a_trial() -> None:
    norms = pd.DataFrame(
        {
            "variant": ["baseline"] * 3,
            "seed": [0] * 3,
            "trial_id": ["t0"] * 3,
            "layer": [0, 1, 2],
            "pre_activation_norm": [4.0, 2.0, 1.0],
            "activation_norm": [3.0, 2.0, 1.0],
            "gradient_norm": [np.nan] * 3,
        }
    )
    figure = pixel_figures.norm_figure(norms)
    assert len(figure.axes) == 2  # gradients were not measured
    assert list(figure.axes[0].lines[0].get_ydata()) == [4.0, 2.0, 1.0]
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 2, 3]
    assert everything_fits(figure)
    assert "no norms" in pixel_figures.norm_figure(norms.iloc[:0]).texts[0].get_text()


def test_power_iteration_is_drawn_weight_by_weight() -> None:
    errors = pd.DataFrame(
        {
            "variant": ["specnorm"] * 4,
            "seed": [0] * 4,
            "env_steps": [10, 20, 10, 20],
            "weight": ["a", "a", "b", "b"],
            "error": [0.5, 0.25, -1e-9, 0.01],
            "sigma": [1.0] * 4,
        }
    )
    figure = pixel_figures.power_iteration_figure(errors)
    lines = sorted(list(line.get_ydata()) for line in figure.axes[0].lines)
    assert lines == [pytest.approx([1e-5, 1.0]), pytest.approx([50.0, 25.0])]
    assert everything_fits(figure)
    assert "spectral norm" in pixel_figures.power_iteration_figure(errors.iloc[:0]).texts[0].get_text()
