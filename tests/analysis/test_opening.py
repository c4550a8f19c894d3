from __future__ import annotations

from pathlib import Path

import pytest

from lop_ray.analysis import opening
from lop_ray.analysis.opening import open_grid, read_settled
from lop_ray.errors import UserError
from tests.analysis.store import write_store


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_PAUSES_S", (0.0, 0.0))


def layers_of(results: Path) -> Path:
    return next((results / "ant_grid" / "data" / "layers").glob("*/*.parquet"))


def test_parts_that_are_joined_while_they_are_read_are_read_again(tmp_path: Path) -> None:
    write_store(tmp_path, updates=3, seeds=1, variants=("cbp",))
    path = layers_of(tmp_path)
    tries: list[int] = []

    def count() -> int:
        tries.append(1)
        if len(tries) == 2:
            path.with_name("elsewhere").rename(path)
        store = open_grid(tmp_path, "ant_grid")
        if len(tries) == 1:  # another process joins the part after it was listed
            path.rename(path.with_name("elsewhere"))
        return store.execute("SELECT count(*) FROM layers").fetchall()[0][0]

    assert read_settled(count) == 3 * 4
    assert len(tries) == 2


def test_rows_that_stay_unreadable_are_one_line(tmp_path: Path) -> None:
    write_store(tmp_path, updates=3, seeds=1, variants=("cbp",))

    def damaged() -> None:
        layers_of(tmp_path).write_bytes(b"nothing")
        open_grid(tmp_path, "ant_grid").execute("SELECT avg(dead) FROM layers").fetchall()

    with pytest.raises((UserError, ValueError)) as error:
        read_settled(damaged)
    assert "\n" not in str(error.value)
