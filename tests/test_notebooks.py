from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.analysis.pixel_store import write_pixel_store
from tests.analysis.store import write_slippery_store, write_spectra_store, write_store
from tests.analysis.test_mixture_figures import write_store as write_mixture_store

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SLOW = ["slippery", "paper", "spectra", "coinrun"]  # fixtures that run a notebook each, of 10 to 30 s


def execute(results: Path, out: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, NOTEBOOKS / "execute.py", NOTEBOOKS / name, "--results", results, "--out", out]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def run(folder: Path, name: str) -> list:
    """What the cells of a notebook put out on the store at `folder / "results"`."""
    done = execute(folder / "results", folder, name)
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(folder / name, as_version=4)
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def images_of(outputs: list) -> list:
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert all(len(image.data["image/png"]) > 10_000 for image in images)
    return images


def tables_of(outputs: list) -> list[str]:
    return [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list:
    """What the cells of the Ant notebook put out on a small store."""
    folder = tmp_path_factory.mktemp("ant")
    write_store(folder / "results", seeds=2)
    return run(folder, "ant.ipynb")


@pytest.fixture(scope="module")
def slippery(tmp_path_factory: pytest.TempPathFactory) -> list:
    """What the cells of the SlipperyAnt notebook put out on a small store, in which one trial still runs."""
    folder = tmp_path_factory.mktemp("slippery")
    write_slippery_store(folder / "results", seeds=2)
    return run(folder, "slippery_ant.ipynb")


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> list:
    """What the cells of the notebook with the paper's figures put out on a small store."""
    folder = tmp_path_factory.mktemp("paper")
    write_store(folder / "results")
    return run(folder, "paper_figures.ipynb")


@pytest.fixture(scope="module")
def spectra(tmp_path_factory: pytest.TempPathFactory) -> list:
    """What the cells of the notebook on spectra put out on a small store."""
    folder = tmp_path_factory.mktemp("spectra")
    write_spectra_store(folder / "results")
    return run(folder, "spectra.ipynb")


@pytest.fixture(scope="module")
def coinrun(tmp_path_factory: pytest.TempPathFactory) -> list:
    """What the cells of the CoinRun notebook put out on a small store."""
    folder = tmp_path_factory.mktemp("coinrun")
    write_pixel_store(folder / "results")
    return run(folder, "coinrun.ipynb")


def test_every_figure_is_drawn(outputs: list) -> None:
    # Return, unit states, dead, dormant, mean margin, spread of margins, weight magnitude, stable rank.
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) == 8
    assert all(len(image.data["image/png"]) > 20_000 for image in images)


def test_tables_give_seeds_intervals_and_provenance(outputs: list) -> None:
    trials, returns, provenance = (
        output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})
    )
    assert "diverged" in trials
    assert "final_iqm" in returns
    assert "[" in returns
    assert "0123456789abcdef" in provenance
    assert "torch 2.13" in provenance


@pytest.mark.parametrize("notebook", ["outputs", *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def test_no_cell_warns(notebook: str, request: pytest.FixtureRequest) -> None:
    assert [output.text for output in request.getfixturevalue(notebook) if output.get("name") == "stderr"] == []


@pytest.mark.slow
def test_slippery_ant_draws_tasks_pairs_and_boundaries(slippery: list) -> None:
    # Return with boundaries, seed by seed, area by task, paired differences, margins and deaths at boundaries, dead.
    assert len(images_of(slippery)) == 7
    trials, by_task, paired, boundaries, provenance = tables_of(slippery)
    assert "running" in trials
    assert "incomplete" in by_task
    assert "cbp \N{MINUS SIGN} std" in paired
    assert "d_z" in paired
    assert "only std: seed 1" in paired  # the trial that still runs has no last tenth
    assert "killed_by_shift" in boundaries
    assert "0123456789abcdef" in provenance


@pytest.mark.slow
def test_the_papers_figures_are_drawn(paper: list) -> None:
    # Return, spread, the four measures, weight change, paired differences, profile, lagged correlation.
    assert len(images_of(paper)) == 7
    trials, paired, correlation, provenance = tables_of(paper)
    assert "diverged" in trials
    assert "improvement" in paired
    assert "strongest_lag" in correlation
    assert "torch 2.13" in provenance
    assert any("\\toprule" in output.text for output in paper if output.get("name") == "stdout")


@pytest.mark.slow
def test_spectra_are_drawn(spectra: list) -> None:
    # Hessian of both losses, gradient covariance, singular values, margins, one unit, dead.
    assert len(images_of(spectra)) == 7
    trials, density, provenance = tables_of(spectra)
    assert "cbp" in trials
    assert "epsilon_rank" in density
    assert "torch 2.13" in provenance


@pytest.mark.slow
def test_coinrun_draws_the_sources_comparison(coinrun: list) -> None:
    # Both splits, bars, dead, sparsity, effective rank, singular values, norms, power iteration.
    assert len(images_of(coinrun)) == 8
    trials, scores, published, provenance = tables_of(coinrun)
    assert "specnorm" in trials
    assert "5.50 [5.00, 6.00]" in scores
    assert "6.96" in published
    assert "torch 2.13" in provenance


@pytest.mark.slow
def test_a_store_without_rows_is_named(tmp_path: Path) -> None:
    done = execute(tmp_path / "nowhere", tmp_path, "ant.ipynb")
    assert done.returncode == 1
    assert "no rows of grid 'ant_grid'" in done.stderr
    assert not (tmp_path / "ant.ipynb").exists()


def test_the_mixture_notebook_says_by_how_much_plasticity_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOP_RAY_GRID", "gmm")
    write_mixture_store(tmp_path / "results")
    outputs = run(tmp_path, "mixture.ipynb")
    assert len(images_of(outputs)) == 6
    assert "nats more than a new network, 95 % interval [" in "".join(each.get("text", "") for each in outputs)
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
