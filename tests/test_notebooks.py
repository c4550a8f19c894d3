from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.analysis.store import write_store

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def execute(results: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, NOTEBOOKS / "execute.py", NOTEBOOKS / "ant.ipynb", "--results", results, "--out", out]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list:
    """What the cells of the Ant notebook put out on a small store."""
    folder = tmp_path_factory.mktemp("ant")
    write_store(folder / "results", seeds=2)
    done = execute(folder / "results", folder)
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(folder / "ant.ipynb", as_version=4)
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


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


def test_no_cell_warns(outputs: list) -> None:
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


@pytest.mark.slow
def test_a_store_without_rows_is_named(tmp_path: Path) -> None:
    done = execute(tmp_path / "nowhere", tmp_path)
    assert done.returncode == 1
    assert "no rows of grid 'ant_grid'" in done.stderr
    assert not (tmp_path / "ant.ipynb").exists()
