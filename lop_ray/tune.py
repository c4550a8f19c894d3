"""The command line: `python -m lop_ray.tune GRID`.

Exit codes: 0 all trials finished (or diverged, which is a result and is said); 1 some trial failed, each named
with its reason and log; 2 bad input, said in one line, nothing written; 130 interrupted, everything committed.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from lop_ray.errors import UserError, nearest

if TYPE_CHECKING:
    from lop_ray.config.settings import Assignment
    from lop_ray.sweep import Plan

FINISHED, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; run the same command to continue", file=sys.stderr)
        return INTERRUPTED


def _main(arguments: list[str]) -> int:
    # Imports stand where they are needed: --list stays quick, and Ray is loaded only once all input is checked.
    options = _parser().parse_args(arguments)
    if options.list:
        from lop_ray.console import print_catalogue

        return _show(print_catalogue)
    plan = _plan(options, shlex.join(["python", "-m", "lop_ray.tune", *arguments]))
    from lop_ray import console

    for line in plan.warnings:
        print(f"warning: {line}", file=sys.stderr)
    if options.dry_run:
        return _show(lambda: console.print_dry_run(plan))
    console.print_start(plan)
    if not plan.to_run:
        console.print_end(plan, failed=[], interrupted=False)
        return FINISHED
    from lop_ray.experiment import run

    outcome = run(plan)
    console.print_end(plan, outcome.failed, outcome.interrupted)
    if outcome.interrupted:
        return INTERRUPTED
    return FAILED if outcome.failed else FINISHED


def _show(what: Callable[[], None]) -> int:
    """Prints; a reader that has seen enough (`--dry-run | head`) is no error."""
    try:
        what()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
    return FINISHED


def _plan(options: argparse.Namespace, command: str) -> Plan:
    if options.grid is None:
        raise UserError("GRID is missing: a name in tune_configs/ or a path to a YAML file; --list shows the names")
    from lop_ray.config.grid import load_grid, parse_seeds
    from lop_ray.sweep import make_plan

    grid = load_grid(options.grid, _assignments(options))
    variants = None if options.variants is None else [each for each in options.variants.split(",") if each.strip()]
    seeds = None
    if options.seeds is not None:
        seeds = parse_seeds(options.seeds) if options.seeds.strip() else ()
    return make_plan(
        grid,
        results=options.results,
        variants=None if variants is None else [each.strip() for each in variants],
        seeds=seeds,
        fresh=options.fresh,
        address=options.address,
        max_concurrent=options.max_concurrent,
        wandb=options.wandb,
        command=command,
        will_write=not options.dry_run,
    )


def _assignments(options: argparse.Namespace) -> list[Assignment]:
    """What --set and its short forms set, the short forms last."""
    from lop_ray.config.grid import parse_assignment
    from lop_ray.config.settings import Assignment
    from lop_ray.config.yaml12 import parse_value

    assignments = [parse_assignment(text) for text in options.set]
    for flag, path in (
        ("--total-steps", ("total_steps",)),
        ("--cpus-per-trial", ("resources", "cpus")),
        ("--gpus-per-trial", ("resources", "gpus")),
    ):
        text = getattr(options, flag[2:].replace("-", "_"))
        if text is not None:
            assignments.append(Assignment(path, parse_value(text, flag), f"{flag} {text}"))
    return assignments


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest flag."""

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings]
        guesses = [nearest(flag, flags) for flag in re.findall(r"--[\w-]+", message) if flag not in flags]
        hint = f"; did you mean {guesses[0]}?" if guesses and guesses[0] else ""
        raise UserError(f"{' '.join(message.split())}{hint}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' should be a whole number from 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m lop_ray.tune",
        description="Runs a grid of trials. The same command given again continues where it was.",
        epilog="exit codes: 0 all finished (or diverged), 1 some failed, 2 bad input, 130 interrupted",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("grid", nargs="?", metavar="GRID", help="a name in tune_configs/, or a path to a YAML file")
    add("--list", action="store_true", help="show grids, variants and problems, a line each")
    add("--dry-run", action="store_true", help="show the trials and where results go; run and write nothing")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="set any key, dotted (ppo.lr=3e-4); beats the grid file and the variant")  # fmt: skip
    add("--variants", metavar="A,B", help="only these variants of the grid")
    add("--seeds", metavar="0-29|0,3", help="only these seeds of the grid")
    add("--total-steps", metavar="N", help="environment steps a trial (1e6 will do)")
    add("--results", default="results", metavar="DIR|URI", help="where results go; default: results")
    add("--address", metavar="ADDR", help="an existing Ray cluster; default: start Ray here")
    add("--cpus-per-trial", metavar="N", help="CPU cores that a trial reserves")
    add("--gpus-per-trial", metavar="X", help="GPUs that a trial reserves; a fraction shares one")
    add("--max-concurrent", type=_positive, metavar="N", help="at most so many trials at a time")
    add("--fresh", action="store_true", help="refuse to continue; start in an empty place")
    add("--wandb", choices=["off", "offline", "online"], default="off", help="one Weights & Biases run a trial")
    return parser


if __name__ == "__main__":
    sys.exit(main())
