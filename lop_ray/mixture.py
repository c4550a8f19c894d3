"""simple-lop's table and plots of a supervised grid: `python -m lop_ray.mixture GRID [--results DIR] [--out DIR]`.

    OUT/lop_fixed_regime_results.csv   a row a task of each trial; the source's columns, then variant, seed, baseline
    OUT/lop_minCE.png, lop_finalCE.png, lop_sat.png, lop_grad.png, lop_effrank.png, lop_dup_frac.png

Prints how much more loss late tasks leave than they leave a new network, where the grid has this baseline. What the
columns mean says `lop_ray.analysis.mixture_figures`. Exit codes: 0, or 2 with one line on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import duckdb

from lop_ray.analysis.curves import narrow
from lop_ray.analysis.figures import save
from lop_ray.analysis.mixture_figures import CSV_NAME, excess_loss, figures, task_table
from lop_ray.analysis.opening import open_grid, read_settled
from lop_ray.errors import UserError
from lop_ray.results import Location, LocationError


def write(results: str | Path | Location, grid: str, out: str | Path, only: str = "true") -> list[str]:
    """Writes the table and the six plots of a grid.

    Args:
        results: The folder of all grids: a path or URI.
        grid: Name of the grid.
        out: Folder for what is written; made if there is none, files of the same names are replaced.
        only: Condition in SQL on the columns of `trials`: which trials count.

    Returns:
        Lines that say what was found and written.

    Raises:
        UserError: There is nothing to write, or the condition is wrong.
    """
    store = open_grid(results, grid)
    try:
        narrow(store, only)
    except duckdb.Error as error:
        raise UserError(f"--only {only}: {' '.join(str(error).split())}") from error
    try:
        table = task_table(store)
    except ValueError as error:
        raise UserError(f"grid '{grid}': {error}") from error
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / CSV_NAME, index=False)
    for name, figure in figures(table).items():
        save(figure, folder / f"{name}.png")
    found = [
        f"{variant}: cross-entropy of a new network exceeded by {excess.value:.4g} in the last half of the tasks"
        + (f", 95 % interval [{excess.low:.4g}, {excess.high:.4g}]" if excess.n > 1 else "")
        + f" (n = {excess.n} seed{'s' if excess.n > 1 else ''})"
        for variant, excess in excess_loss(table).items()
    ]
    trials = len(table[["variant", "seed"]].drop_duplicates())
    return [*found, f"table: {folder / CSV_NAME} ({len(table)} tasks of {trials} trials); 6 plots beside it"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: What follows the command's name; `sys.argv` by default.

    Returns:
        Exit code: 0, or 2 with one line on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m lop_ray.mixture", description=__doc__.splitlines()[0])
    parser.add_argument("grid", metavar="GRID", help="name of a grid on supervised tasks that has results")
    parser.add_argument("--results", default="results", help="folder or URI of all grids (default: %(default)s)")
    parser.add_argument("--out", help="folder to write into (default: reports/GRID)")
    parser.add_argument("--only", default="true", help="condition in SQL on the columns of `trials`")
    chosen = parser.parse_args(arguments)
    out = Path(chosen.out or Path("reports") / chosen.grid)
    try:
        found = read_settled(lambda: write(chosen.results, chosen.grid, out, chosen.only))
    except (UserError, LocationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: can't write into {out}: {error}", file=sys.stderr)
        return 2
    print("\n".join(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
