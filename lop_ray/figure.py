"""A first look at a grid: `python -m lop_ray.figure GRID [--results DIR] [--out PNG]`.

Draws return and dead units over environment steps from the rows of the store and prints where the figure is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lop_ray.analysis.curves import narrow, network_curves, networks, return_curves, suitable_bin
from lop_ray.analysis.figures import demo_figure, save
from lop_ray.analysis.opening import open_grid, read_settled
from lop_ray.errors import UserError
from lop_ray.results import Location, LocationError


def draw(results: str | Path | Location, grid: str, path: str | Path, only: str = "true") -> None:
    """Writes the figure of return and dead units of a grid.

    Args:
        results: The folder of all grids: a path or URI.
        grid: Name of the grid.
        path: The figure's file; its ending (png, pdf, svg) chooses the format.
        only: Condition in SQL on the columns of `trials`: which trials to draw.

    Raises:
        UserError: There is nothing to draw.
    """
    store = open_grid(results, grid)
    narrow(store, only)
    bin_steps = suitable_bin(store, points=20)
    dead = {name: network_curves(store, "dead", name, bin_steps) for name in networks(store)}
    save(demo_figure(return_curves(store, bin_steps), dead, f"{grid}, bins of {bin_steps:,} steps"), path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: What follows the command's name; `sys.argv` by default.

    Returns:
        Exit code: 0, or 2 with one line on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m lop_ray.figure", description=__doc__.splitlines()[0])
    parser.add_argument("grid", metavar="GRID", help="name of a grid that has results")
    parser.add_argument("--results", default="results", help="folder or URI of all grids (default: %(default)s)")
    parser.add_argument("--out", help="file to write, .png, .pdf or .svg (default: GRID.png)")
    chosen = parser.parse_args(arguments)
    path = Path(chosen.out or f"{chosen.grid}.png")
    try:
        read_settled(lambda: draw(chosen.results, chosen.grid, path))
    except (UserError, LocationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"error: can't write the figure {path}: {error}", file=sys.stderr)
        return 2
    print(f"figure: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
