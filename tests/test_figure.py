from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lop_ray.figure import main
from tests.analysis.store import write_store


def test_a_figure_of_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path, updates=8)
    out = tmp_path / "figures" / "ant.png"
    assert main(["ant_grid", "--results", str(tmp_path), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"figure: {out}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ant_gird"], "unknown grid 'ant_gird'; did you mean 'ant_grid'? known: ant_grid in"),
        (["ant_grid", "--results", "nowhere"], "no rows of grid 'ant_grid' in"),
        (["ant_grid", "--out", "x.nonsense"], "can't write the figure x.nonsense"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "results", updates=3)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {message}")
    assert output.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.slow
def test_the_command_exits_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lop_ray.figure", "ant_grid", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no rows of grid 'ant_grid'")
