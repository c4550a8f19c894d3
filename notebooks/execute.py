"""Runs notebooks on a store and keeps their output: `python notebooks/execute.py NOTEBOOK ... [--results DIR]`.

Each notebook is run in its own folder and written back whole when every cell has succeeded; otherwise it stays
as it was, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config


def execute(notebook: Path, out: Path) -> None:
    """Runs `notebook` in its folder and writes it with its output to `out`.

    Metadata that differ from run to run (times of the cells) are left out.
    """
    content = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(notebook.parent)}}
    # Sockets in a folder of our own: nobody else on the machine can reach the kernel.
    with tempfile.TemporaryDirectory(prefix="lop-") as folder:
        config = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        client = NotebookClient(
            content, config=config, timeout=1800, startup_timeout=300, resources=resources, record_timing=False
        )
        client.execute()
    nbformat.write(content, out)


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--results", help="folder or URI of all grids (default: LOP_RAY_RESULTS, or ../results)")
    parser.add_argument("--grid", help="name of the grid (default: LOP_RAY_GRID, or the notebook's own)")
    parser.add_argument("--out", type=Path, help="folder for the executed notebooks (default: in place)")
    chosen = parser.parse_args()
    if chosen.results:
        # The kernel runs in the notebook's folder, so a path has to be absolute.
        uri = "://" in chosen.results
        os.environ["LOP_RAY_RESULTS"] = chosen.results if uri else str(Path(chosen.results).resolve())
    if chosen.grid:
        os.environ["LOP_RAY_GRID"] = chosen.grid
    for notebook in chosen.notebooks:
        try:
            execute(notebook, (chosen.out or notebook.parent) / notebook.name)
        except CellExecutionError as error:
            print(f"error: {notebook}: {error}", file=sys.stderr)
            return 1
        print(f"executed: {notebook}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
