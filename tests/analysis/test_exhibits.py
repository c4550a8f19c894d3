from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from lop_ray.analysis.exhibits import exhibits, line_parts
from lop_ray.results import connect
from tests.analysis.store import write_slippery_store, write_store


def test_few_variants_share_a_figure_and_many_are_split_with_the_baseline() -> None:
    assert line_parts(["std", "cbp"], "std") == [["std", "cbp"]]
    many = ["a", "std", *(f"v{number}" for number in range(15))]
    parts = line_parts(many, "std")
    assert all(part[0] == "std" and len(part) <= 9 for part in parts)
    assert sorted(name for part in parts for name in part[1:]) == sorted(set(many) - {"std"})


def test_a_grid_that_changes_has_every_exhibit_once(tmp_path: Path) -> None:
    write_slippery_store(tmp_path, seeds=2, tasks=3, task_updates=4)
    found = list(exhibits(connect(tmp_path, "slippery_ant_grid"), "std"))
    names = [each.name for each in found]
    assert len(set(names)) == len(names)
    sections = list(dict.fromkeys(each.section for each in found))
    assert sections == [
        "Return",
        "Tasks",
        "Compared with std",
        "Task boundaries",
        "The paper's measures",
        "Units",
        "Margins",
        "Ranks",
        "Weights",
        "What moves first",
    ]
    by_name = {each.name: each for each in found}
    for name in ("return", "return_tasks", "return_seeds", "task_auc", "paired", "profile", "boundary_margins",
                 "boundary_deaths", "internals", "weight_change", "unit_states", "dead", "margins", "stable_rank",
                 "weight_magnitude", "correlation"):  # fmt: skip
        assert isinstance(by_name[name].content, Figure), name
        assert by_name[name].caption
    for name in ("trials", "return_table", "task_table", "paired_table", "paired_tasks", "boundary_table"):
        table = by_name[name].content
        assert isinstance(table, pd.DataFrame)
        assert "n" in table.columns or "n" in table.index.names, name


def test_one_variant_has_nothing_to_compare_with(tmp_path: Path) -> None:
    write_store(tmp_path, variants=("cbp",), seeds=1, updates=4)
    found = {each.name: each.content for each in exhibits(connect(tmp_path, "ant_grid"), "cbp")}
    assert found["paired"] == "no other variant than cbp: nothing to compare"
    assert found["tasks"] == "the task never changed"
    assert found["margins"] == "no row of neurons"
    assert "no row in the table boundaries" in str(found["boundaries"])


def test_many_variants_are_split_over_figures(tmp_path: Path) -> None:
    variants = ("std", *(f"v{number:02d}" for number in range(13)))
    write_store(tmp_path, variants=variants, seeds=1, updates=1)
    names = [each.name for each in exhibits(connect(tmp_path, "ant_grid"), "std")]
    assert [name for name in names if name.startswith("dead")] == ["dead_1", "dead_2"]
    assert [name for name in names if name.startswith("unit_states")] == [f"unit_states_{at}" for at in (1, 2, 3)]
