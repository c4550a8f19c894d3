from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lop_ray.report import main
from lop_ray.results import Store
from tests.analysis.store import trial_id, write_manifest, write_slippery_store, write_store
from tests.analysis.test_page import Outline, outline


@pytest.fixture(scope="module")
def slippery(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Outline]:
    """A report on a grid whose tasks change and of which one trial still runs: its folder, its line, its page."""
    folder = tmp_path_factory.mktemp("report")
    write_slippery_store(folder / "results", seeds=2, tasks=3)
    command = ["slippery_ant_grid", "--results", str(folder / "results"), "--out", str(folder / "out")]
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
        assert main(command) == 0
    page = (folder / "out" / "index.html").read_text(encoding="utf-8")
    return folder / "out", "\n".join(said), outline(page)


def text_of(page: Outline) -> str:
    return " ".join(" ".join(page.text).split())


@pytest.mark.slow  # draws everything
def test_every_figure_is_a_file_and_on_the_page(slippery: tuple[Path, str, Outline]) -> None:
    out, said, page = slippery
    figures = sorted(path.stem for path in (out / "figures").iterdir())
    assert {"return_tasks", "return_seeds", "task_auc", "paired", "profile", "internals", "weight_change"} <= set(
        figures
    )
    assert {"unit_states", "dead", "margins", "stable_rank", "weight_magnitude", "correlation"} <= set(figures)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (out / "figures").iterdir())
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(figures)
    assert f"{len(figures)} figures" in said


@pytest.mark.slow  # draws everything
def test_tables_have_n_and_intervals_in_every_form(slippery: tuple[Path, str, Outline]) -> None:
    out, _, page = slippery
    for name in ("return_table", "paired_table", "task_table", "correlation_table", "trials"):
        markdown, latex = ((out / "tables" / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("md", "tex"))
        assert "| n " in markdown
        assert "\\toprule" in latex
    paired = (out / "tables" / "paired_table.md").read_text(encoding="utf-8")
    assert "cbp \N{MINUS SIGN} std" in paired
    # In the last tenth of the steps the running trial has no value: one pair is left, and the table says so.
    (late,) = [line for line in paired.splitlines() if "return, last 10 %" in line]
    assert "| 1 | only std: seed 1 |" in late
    assert "(no interval)" in late
    assert "cbp \N{MINUS SIGN} std" in text_of(page)


@pytest.mark.slow  # draws everything
def test_a_half_done_grid_says_so(slippery: tuple[Path, str, Outline]) -> None:
    _, said, page = slippery
    assert "This grid is not finished: of 4 trials 3 finished, 1 running." in text_of(page)
    assert said.endswith("of 4 trials 3 finished, 1 running)")


@pytest.mark.slow  # draws everything
def test_provenance_and_configuration_are_on_the_page(slippery: tuple[Path, str, Outline]) -> None:
    text = text_of(slippery[2])
    for part in ("0123456789abcdef0123456789abcdef01234567", "torch 2.13", "a processor, 2 cores"):
        assert part in text
    for part in ("ppo.lr 0.0001", "variant cbp", "optimizer.weight_decay 0.0001", "All trials (4)"):
        assert part in text
    assert "two variants <side by side>" in text
    assert "python -m lop_ray.tune slippery_ant_grid" in text


@pytest.mark.slow  # draws everything
def test_links_of_the_contents_lead_somewhere(slippery: tuple[Path, str, Outline]) -> None:
    page = slippery[2]
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {(attributes["href"] or "").removeprefix("#") for tag, attributes in page.tags if tag == "a"}
    assert links == targets
    assert len(links) > 5


def test_what_cannot_be_drawn_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = Store(tmp_path / "results", "bare").trial_writer("t")
    writer.append("updates", {"update": 1, "env_steps": 2048})
    writer.set_status("running", variant="std", seed=0, problem="ant")
    writer.close()
    assert main(["bare", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]) == 0
    text = text_of(outline((tmp_path / "out" / "index.html").read_text(encoding="utf-8")))
    for reason in (
        "Return: no episode has ended yet",
        "Figures by task: the task never changed",
        "Paired comparison: std has no return yet: nothing to compare",
        "What the units do: no row of layers counts units by state",
        "grid.yaml is missing",
        "uncommitted",
    ):
        assert reason in text
    assert "of 1 trial 1 running" in capsys.readouterr().out


def test_each_setting_of_further_axes_has_its_own_part(tmp_path: Path) -> None:
    results, grid = tmp_path / "results", "doses"
    for seed, returns in ((0, 5.0), (1, 70.0)):
        writer = Store(results, grid).trial_writer(trial_id(grid, "std", seed))
        when = {"update": 1, "env_steps": 2048, "task": 0}
        writer.append("updates", when)
        writer.append("episodes", when | {"episode_return": returns, "length": 10})
        writer.set_status("finished", variant="std", seed=seed, problem="ant")
        writer.close()
    write_manifest(results, grid, ["std"], (0, 1))
    manifest = Store(results, grid).read_manifest()
    assert manifest is not None
    for seed in (0, 1):
        manifest["trials"][trial_id(grid, "std", seed)]["ppo.lr"] = (0.1, 0.2)[seed]
    Store(results, grid).write_manifest(manifest)
    assert main([grid, "--results", str(results), "--out", str(tmp_path / "out")]) == 0
    tables = tmp_path / "out" / "tables"
    folders = sorted(path.name for path in tables.iterdir() if path.is_dir())
    assert folders == ["problem-ant-ppo.lr-0.1", "problem-ant-ppo.lr-0.2"]
    for name, value in (("problem-ant-ppo.lr-0.1", "5"), ("problem-ant-ppo.lr-0.2", "70")):
        row = (tables / name / "task_table.md").read_text(encoding="utf-8").splitlines()[-1]
        assert row == f"| std | 0 | 1 | 0 | {value} (no interval) |"
    text = text_of(outline((tmp_path / "out" / "index.html").read_text(encoding="utf-8")))
    assert "problem = ant, ppo.lr = 0.2" in text
    across = (tables / "response_table.md").read_text(encoding="utf-8").splitlines()[2:]
    assert [line.split(" | ")[2:] for line in across] == [
        ["problem = ant, ppo.lr = 0.1", "1", "5.0 (no interval) |"],
        ["problem = ant, ppo.lr = 0.2", "1", "70.0 (no interval) |"],
    ]
    assert (tmp_path / "out" / "figures" / "response.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ant_gird"], "unknown grid 'ant_gird'; did you mean 'ant_grid'? known: ant_grid in"),
        (["ant_grid", "--results", "nowhere"], "no rows of grid 'ant_grid' in"),
        (["ant_grid", "--results", "nonsense://x"], "results location nonsense://x"),
        (["ant_grid", "--baseline", "cpb"], "unknown variant 'cpb'; did you mean 'cbp'? known: std, cbp in grid"),
        (["ant_grid", "--outt", "x"], "unrecognized arguments: --outt x"),
        ([], "the following arguments are required: GRID"),
        (["ant_grid", "--out", "results/ant_grid/grid.yaml"], "can't report on ant_grid: "),
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
    write_store(tmp_path / "results", updates=3, seeds=1)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {message}")
    assert output.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.slow
def test_the_command_exits_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lop_ray.report", "ant_grid", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no rows of grid 'ant_grid'")
