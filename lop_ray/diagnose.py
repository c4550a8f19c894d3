"""Diagnostics on a trial's checkpoints: `python -m lop_ray.diagnose TRIAL_DIR|CHECKPOINT`.

    python -m lop_ray.diagnose results/ant_grid/trials/t123456789abc --diagnostics hessian_density,probe
    python -m lop_ray.diagnose results/ant_grid/trials/t123456789abc/checkpoints/000004-update-1220
    python -m lop_ray.diagnose results/coinrun_quick/trials/t123456789abc --collect 2560

For questions that are asked after the training: any diagnostic that a grid could have switched on, on all checkpoints
of a trial or on one. The trial may be running; it is only read. Rows go to `results/<grid>/diagnose/`, beside those of
the run, and replace those of an earlier command on the same checkpoint and diagnostic;
`lop_ray.results.read_table(results, grid, "diagnosed_layers")` returns them.

A checkpoint has the networks, the optimiser and the observations that the run kept for its diagnostics. PPO's has
neither a batch nor losses: derivatives are of the regression toward the network's own output + N(0, 1), unless `--set`
says otherwise; of supervised training `--set NAME.loss=training` takes the task's own loss. What compares with the
network from before an update needs `--before`, another checkpoint of the trial.
Rows that a run writes at intervals (margins of units, spectra) are always written here.

Where the problem holds something out (ProcGen's levels), the stored policy acts on that first, for ten observations a
feature of the last hidden layer, and what looks at observations looks at all of those; by default that is what tells
whether units and features are alive (`lop_ray.collection.DIAGNOSTICS`). `--collect N` says how many, `--collect 0`
takes the checkpoint's own instead.

Exit codes: 0 done; 1 a diagnostic failed on the numbers (NaN in the weights), the others are written; 2 bad input, said
in one line, nothing written; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lop_ray.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from lop_ray.config.settings import Assignment
    from lop_ray.diagnostics.base import DiagnosticOptions
    from lop_ray.snapshots import Snapshot, StoredTrial

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code.
    """
    log = logging.getLogger("lop_ray.diagnostics")
    level = log.level
    log.setLevel(logging.ERROR)  # failures stand in the table
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; what was measured is written", file=sys.stderr)
        return INTERRUPTED
    finally:
        log.setLevel(level)


def _main(arguments: list[str]) -> int:
    chosen = _parser().parse_args(arguments)
    if chosen.list:
        _print_list()
        return DONE
    if chosen.place is None:
        raise UserError("TRIAL_DIR is missing: such as results/ant_grid/trials/t123456789abc, or a checkpoint in it")
    names = None if chosen.diagnostics is None else [each.strip() for each in chosen.diagnostics.split(",")]
    assignments = _assignments(chosen.set, names)
    from lop_ray.snapshots import find_trial, read_observations

    trial = find_trial(chosen.place)
    given = None if chosen.observations is None else read_observations(chosen.observations)
    if given and chosen.collect:
        raise UserError("--collect and --observations both say what to measure on: give one of them")
    before = None if chosen.before is None else trial.checkpoint(chosen.before)
    snapshots = trial.snapshots()
    for note in trial.notes:
        print(f"note: {note}", file=sys.stderr)
    work = []  # everything is checked before anything is measured
    for snapshot in snapshots:
        observations, collected = given, False
        if given is None and snapshot.collects(chosen.collect):
            observations, collected = snapshot.collect(chosen.collect, trial.task_at(snapshot.update), chosen.act), True
        source = "checkpoint" if observations is None else observations.name
        seen = snapshot.observations(observations)
        offered = snapshot.training.offers() - (set() if before else {"before"})
        options = choose_options(names, assignments, offered, len(seen), collected=collected)
        work.append((snapshot, seen, options, source))
    failed = [_diagnose(trial, *each[:3], before, each[3]) for each in work]
    print(f"rows: {trial.grid_location}/diagnose")
    return FAILED if any(failed) else DONE


def choose_options(
    names: Sequence[str] | None,
    assignments: Sequence[Assignment],
    offered: frozenset[str],
    samples: int,
    *,
    collected: bool = False,
) -> dict[str, DiagnosticOptions]:
    """The options of the diagnostics to run on a checkpoint.

    Args:
        names: Which; by default all that can be run, or on collected observations those that are meant for them, and
            whatever `assignments` name.
        assignments: What `--set` sets.
        offered: What the checkpoint has besides networks and observations, as diagnostics name it in `needs`.
        samples: How many observations there are.
        collected: Whether they were collected for this; then all are looked at, unless `assignments` say otherwise.

    Returns:
        By name, in the order of `names` or of the registry.

    Raises:
        UserError: Unknown name or key, a value out of range, or something is needed that is not there.
    """
    from lop_ray.collection import DIAGNOSTICS as OF_COLLECTED
    from lop_ray.config.checks import dotted
    from lop_ray.diagnostics import DIAGNOSTICS

    found: dict[str, DiagnosticOptions] = {}
    asked = dict.fromkeys([*OF_COLLECTED, *(each.path[0] for each in assignments)]) if collected else DIAGNOSTICS
    for name in asked if names is None else names:
        own = {dotted(each.path[1:]): each for each in assignments if each.path[0] == name}
        options = _options(name, own, samples if collected else None)
        lacking = sorted(options.needs() - offered)
        if lacking and (names is not None or own):
            raise UserError(f"{name}: needs {_missing(lacking)}")
        if "samples" in own and options.observations() > samples:
            raise UserError(
                f"{name}.samples = {options.observations()}: there are {samples} observations; lower it, or give more "
                f"with --observations [{own['samples'].source}]"
            )
        if not lacking:
            found[name] = options
    return found


def _options(name: str, own: Mapping[str, Assignment], collected: int | None) -> DiagnosticOptions:
    """Of one diagnostic: nothing is done at intervals, what can be stored is, and the loss needs no batch."""
    from lop_ray.collection import RANKS
    from lop_ray.config.checks import check, dotted
    from lop_ray.diagnostics import DIAGNOSTICS
    from lop_ray.diagnostics.base import ObservingOptions

    kind = DIAGNOSTICS[name]
    values: dict[str, Any] = {key: 1 for key in kind.model_fields if key == "every" or key.endswith("_every")}
    values |= {key: True for key in kind.model_fields if key == "store"}
    values |= {key: "perturbed_output" for key in kind.model_fields if key == "loss"}
    if collected is not None and issubclass(kind, ObservingOptions):
        values |= {"samples": collected} | ({"kinds": RANKS} if "kinds" in kind.model_fields else {})
    values |= {key: each.value for key, each in own.items()}

    def blame(path: Sequence[str]) -> str:
        key = dotted(tuple(path[1:]))
        return own[key].source if key in own else f"--diagnostics {name}"

    return check(kind, values, (name,), blame)


_MISSING = {
    "before": "the network from before an update: give another checkpoint of the trial with --before",
    "ratios": "the batch of an update, which checkpoints do not hold: switch it on in a grid",
    "losses": "the run's loss and batch, which checkpoints do not hold: use loss=perturbed_output",
    "optimizers": "the run's optimiser, which this checkpoint does not hold: use optimizer=adam",
}


def _missing(lacking: Sequence[str]) -> str:
    return next((text for key, text in _MISSING.items() if key in lacking), " and ".join(lacking))


def _diagnose(
    trial: StoredTrial,
    snapshot: Snapshot,
    observations: Tensor,
    options: Mapping[str, DiagnosticOptions],
    before: Snapshot | None,
    source: str,
) -> bool:
    """Measures on one checkpoint, writes every diagnostic's rows as it ends, and prints tables.

    Returns:
        Whether a diagnostic failed on the numbers.

    Raises:
        UserError: A diagnostic cannot be had from what there is.
    """
    from lop_ray.diagnostics import DiagnosticSuite
    from lop_ray.results.diagnoses import Making, write_diagnosis
    from lop_ray.results.provenance import git_state

    print(f"{trial} update {snapshot.update:,}, {len(observations):,} observations ({source})", flush=True)
    git, columns = git_state(), {"env_steps": snapshot.env_steps, "task": trial.task_at(snapshot.update)}
    everything: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, chosen in options.items():
        start = time.perf_counter()
        values = chosen.model_dump(mode="json")
        suite = DiagnosticSuite({name: values}, seed=trial.spec.seed)
        if before is not None:
            suite.remember(snapshot.update, before.training.networks())
        try:
            found = suite.diagnose(snapshot.update, snapshot.training, observations).tables()
        except ValueError as error:
            raise UserError(" ".join(str(error).split())) from error
        made = {table: [columns | row for row in rows] for table, rows in found.items()}
        making = Making(values, source, None if before is None else before.update, git)
        write_diagnosis(trial.grid_location, trial.spec.trial_id, snapshot.update, name, made, making)
        everything[name] = made
        print(f"  {name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    _print_tables(everything)
    _print_summary(everything, len(observations))
    return any(row["metric"] == "failed" for made in everything.values() for row in made.get("probes", ()))


def _print_tables(found: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> None:
    """A line a number: of hidden layers with a column each, of whole networks with a column each."""
    from lop_ray.console import print_rows

    layers: dict[tuple[str, str], dict[str, Any]] = {}
    networks: dict[tuple[str, str], dict[str, Any]] = {}
    stored: list[str] = []
    for name, tables in found.items():
        for row in tables.get("layers", ()):
            for column in [each for each in row if each not in ("env_steps", "task", "network", "layer", "units")]:
                layers.setdefault((name, column), {})[f"{row['network']} {row['layer'] + 1}"] = row[column]
        for row in tables.get("probes", ()):
            metric = row["metric"] if row["probe"] == name else f"{row['probe']} {row['metric']}"
            networks.setdefault((name, metric), {})[row["network"]] = row.get("reason") or row["value"]
        stored += [f"{len(tables[kind])} rows of {kind} ({name})" for kind in ("neurons", "spectra") if kind in tables]
    for title, rows in (("hidden layers", layers), ("networks", networks)):
        if rows:
            columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
            print_rows(
                title,
                ["diagnostic", "number", *columns],
                [[*key, *(_written(cells.get(column)) for column in columns)] for key, cells in rows.items()],
            )
    if stored:
        print(f"also written: {', '.join(stored)}")


def _print_summary(found: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], samples: int) -> None:
    """Of the last hidden layer, a line a number."""
    from lop_ray.collection import last_layer_summary
    from lop_ray.console import print_rows

    summary = last_layer_summary(found)
    networks = list(dict.fromkeys(network for cells in summary.values() for network in cells))
    if summary:
        title = f"last hidden layer, {samples:,} observations"
        rows = [[number, *(cells.get(network, "-") for network in networks)] for number, cells in summary.items()]
        print_rows(title, [title, *networks], rows)


def _written(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _assignments(texts: Sequence[str], names: Sequence[str] | None) -> list[Assignment]:
    """What `--set` sets, and the names checked.

    Raises:
        UserError: Unknown diagnostic.
    """
    from lop_ray.config.grid import parse_assignment
    from lop_ray.diagnostics import DIAGNOSTICS

    for name in names or ():
        if name not in DIAGNOSTICS:
            raise UserError(f"--diagnostics: {unknown('diagnostic', name, DIAGNOSTICS)}")
    found = [parse_assignment(text) for text in texts]
    for each in found:
        if len(each.path) < 2:
            raise UserError(f"{each.source}: should be NAME.KEY=VALUE, such as probe.steps=500")
        if each.path[0] not in DIAGNOSTICS:
            raise UserError(f"{each.source}: {unknown('diagnostic', each.path[0], DIAGNOSTICS)}")
        if names is not None and each.path[0] not in names:
            raise UserError(f"{each.source}: {each.path[0]} is not among --diagnostics {','.join(names)}")
    return found


def _print_list() -> None:
    from lop_ray.diagnostics import DIAGNOSTICS

    width = max(map(len, DIAGNOSTICS))
    for name, kind in DIAGNOSTICS.items():
        print(f"{name.ljust(width)}  {' '.join((kind.__doc__ or '').split('.')[0].split())}")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> Any:
        raise UserError(" ".join(message.split()))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m lop_ray.diagnose",
        description="Runs diagnostics on the checkpoints of a trial, writes their rows and prints them.",
        epilog="exit codes: 0 done, 1 a diagnostic failed on the numbers, 2 bad input, 130 interrupted",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("place", nargs="?", metavar="TRIAL_DIR|CHECKPOINT", help="RESULTS/GRID/trials/ID, or a folder in its "
        "checkpoints/; a path or URI")  # fmt: skip
    add("--list", action="store_true", help="show the diagnostics, a line each")
    add("--diagnostics", metavar="A,B", help="only these; default: all that a checkpoint serves")
    add("--observations", metavar="FILE.npz", help="array `observations` [N, ...] to measure on; default: the "
        "checkpoint's own")  # fmt: skip
    add("--collect", type=int, metavar="N", help="let the stored policy act on what the problem holds out, for so many "
        "observations; default there: ten a feature; 0: the checkpoint's own")  # fmt: skip
    add("--act", choices=["policy", "random"], default="policy", help="whose actions collect: the policy's, or "
        "uniform ones")  # fmt: skip
    add("--before", metavar="CHECKPOINT", help="what stands for the network before the update, for churn and the like")
    add("--set", nargs="+", action="extend", default=[], metavar="NAME.KEY=VALUE",
        help="set an option of a diagnostic (probe.steps=500)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
