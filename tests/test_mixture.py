"""The command that writes simple-lop's table and plots."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lop_ray.mixture import main
from tests.analysis.store import write_store as write_ppo_store
from tests.analysis.test_mixture_figures import write_store


def test_table_and_plots_of_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path)
    out = tmp_path / "out"
    assert main(["gmm", "--results", str(tmp_path), "--out", str(out)]) == 0
    names = ["lop_dup_frac", "lop_effrank", "lop_finalCE", "lop_grad", "lop_minCE", "lop_sat"]
    assert sorted(path.name for path in out.glob("*.png")) == [f"{name}.png" for name in names]
    with (out / "lop_fixed_regime_results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert float(rows[7]["final_CE"]) == pytest.approx(1.6)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("sgd: cross-entropy of a new network exceeded by 1.08 in the last half of the tasks, 95 %")
    assert last.endswith("(8 tasks of 2 trials); 6 plots beside it")


def test_part_of_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path)
    assert main(["gmm", "--results", str(tmp_path), "--out", str(tmp_path / "out"), "--only", "seed = 1"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith("exceeded by 1.58 in the last half of the tasks (n = 1 seed)")
    assert "(4 tasks of 1 trials)" in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gmn"], "unknown grid 'gmn'; did you mean 'gmm'?"),
        (["ant_grid"], "grid 'ant_grid': no task has ended yet, or the grid's algorithm has no table of tasks"),
        (["gmm", "--only", "sed = 1"], "--only sed = 1: Binder Error"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_store(tmp_path / "results", seeds=1, tasks=2)
    write_ppo_store(tmp_path / "results", updates=2, seeds=1)
    assert main([*arguments, "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {message}")
    assert output.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
