import numpy as np
import pytest
import torch

from lop_ray.analysis import spectra, spectra_figures
from lop_ray.analysis.opening import open_grid
from lop_ray.diagnostics.curvature import lanczos
from tests.analysis.store import write_spectra_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    results = tmp_path_factory.mktemp("spectra")
    write_spectra_store(results)
    return open_grid(results, "slippery_ant_spectra")


def test_spectra_are_read_by_variant_seed_and_time(store):
    found = spectra.read_spectra(store, "hessian_density", "policy")
    assert [(each.variant, each.seed, each.env_steps) for each in found] == [
        (variant, seed, step) for variant in ("std", "cbp") for seed in (0, 1) for step in (2048, 20480, 40960)
    ]
    assert all(len(each.x) == len(each.y) == 8 for each in found)
    singular = spectra.read_spectra(store, "feature_singular_values", "value", 1)
    assert len(singular) == 12
    assert all(len(each.y) == 0 for each in singular)
    assert spectra.read_spectra(store, "feature_singular_values", "value") == []  # a layer's, not the network's


def test_first_and_last_need_two(store):
    found = spectra.read_spectra(store, "hessian_density", "policy")
    pairs = spectra.first_and_last(found)
    assert {trial: (a.env_steps, b.env_steps) for trial, (a, b) in pairs.items()} == dict.fromkeys(
        [("std", 0), ("std", 1), ("cbp", 0), ("cbp", 1)], (2048, 40960)
    )
    assert spectra.first_and_last(found[:1]) == {}


def test_margins_are_a_row_a_time_and_the_unit_that_dies_is_found(store):
    by_trial = {(each.variant, each.seed): each for each in spectra.unit_margins(store, "policy", 1)}
    assert by_trial["std", 0].margins.shape == (len(by_trial["std", 0].env_steps), 16)
    assert (np.diff(by_trial["std", 0].env_steps) > 0).all()

    def nearest(*columns):
        margins = np.array(columns, float).T
        return spectra.UnitMargins("std", 0, np.arange(len(margins)), margins).nearest_to_death()

    dead_from_the_start, dies, dies_longer, lives = [-1, -1, -1], [1, 1, -1], [1, -1, -1], [1, 2, 3]
    assert nearest(dead_from_the_start, dies, dies_longer, lives) == 2
    assert nearest([2, 2, 0.5], lives, [1, 1, 0.4]) == 2


def test_density_has_mass_one_and_stands_where_the_eigenvalues_are():
    matrix = torch.diag(torch.tensor([3.0, 3.0, -2.0, 0.0], dtype=torch.float64))
    nodes, weights = lanczos(matrix, 4, torch.Generator().manual_seed(0))
    grid, density = spectra_figures.density(
        spectra.Spectrum("std", 0, 1, 0, nodes.double().numpy(), weights.double().numpy())
    )
    mass = (np.diff(grid) * (density[1:] + density[:-1]) / 2).sum()
    assert mass == pytest.approx(1, abs=0.02)
    assert {round(float(x)) for x in grid[density > 0.01 * density.max()]} <= {3, -2, 0}


def test_cosines_have_ones_on_the_diagonal_and_zeros_for_no_gradient():
    gradients = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, -3.0], [-1.0, 0.0], [0.0, 0.0]])
    row = spectra.Spectrum("std", 0, 1, 0, (gradients @ gradients.T).ravel(), np.empty(0))
    expected = np.array(
        [[1, 1, 0, -1, 0], [1, 1, 0, -1, 0], [0, 0, 1, 0, 0], [-1, -1, 0, 1, 0], [0, 0, 0, 0, 0]], float
    )
    np.testing.assert_allclose(spectra_figures.cosines(row), expected)


def test_figures_have_a_panel_a_variant_and_say_when_there_is_nothing(store):
    density = spectra_figures.density_figure(spectra.read_spectra(store, "hessian_density"))
    assert [axes.get_title(loc="left") for axes in density.axes] == ["std", "cbp"]
    assert all(len(axes.lines) == 4 for axes in density.axes)  # two seeds, at start and end
    layers = [spectra.read_spectra(store, "feature_singular_values", "policy", layer) for layer in range(2)]
    assert len(spectra_figures.singular_value_figure(layers, "the features").axes) == 4
    covariance = spectra_figures.covariance_figure(spectra.read_spectra(store, "gradient_covariance"), seed=1)
    assert len(covariance.axes) == 2 * 2 + 1  # and the colour bar
    margins = spectra.unit_margins(store)
    assert len(spectra_figures.margin_histogram_figure(margins).axes) == 2
    assert len(spectra_figures.unit_figure(margins, [20480.0]).axes) == 2
    for nothing in (
        spectra_figures.density_figure([]),
        spectra_figures.singular_value_figure([[]], "the features"),
        spectra_figures.covariance_figure([], 0),
        spectra_figures.margin_histogram_figure([]),
        spectra_figures.unit_figure([]),
    ):
        assert nothing.axes == []
        assert nothing.texts[0].get_text().startswith("no rows")
