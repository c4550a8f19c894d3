"""What the command line prints beside the live table: tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lop_ray.config import catalogue
from lop_ray.config.checks import show
from lop_ray.config.yaml12 import read_document

if TYPE_CHECKING:
    from lop_ray.algorithms.spec import TrialSpec
    from lop_ray.sweep import Plan


def print_catalogue() -> None:
    """Grids, variants and problems, a line each; loads neither torch nor Ray."""
    from lop_ray.problems import PROBLEMS

    grids = {name: read_document(path).values.get("description", "") for name, path in catalogue.grids().items()}
    problems = {name: problem.description for name, problem in PROBLEMS.items()}
    tables = [("grid", "grids", grids)]
    for file in catalogue.variants_files():
        found = {name: each.values.get("description", "") for name, each in catalogue.variants(file=file.name).items()}
        tables.append(("variant", f"variants ({file.name})", found))
    for kind, title, entries in (*tables, ("problem", "problems", problems)):
        print_rows(title, [kind, "description"], [[name, show(text, 200)] for name, text in entries.items()])


def print_dry_run(plan: Plan) -> None:
    """Every trial with what it reserves and how far it is, and how the grid would run."""
    rows = []
    places = plan.manifest["trials"]
    inner = [axis for axis in plan.manifest["axes"] if axis not in ("variant", "seed", "problem")]
    for spec in plan.specs:
        place = [show(places[spec.trial_id].get(axis, "-")) for axis in inner]
        resources = f"{spec.resources.cpus} CPU"
        if spec.resources.gpus:
            resources += f", {spec.resources.gpus:g} GPU"
        if spec.resources.env_runners:
            resources += f", {spec.resources.env_runners} env runners"
        if spec.resources.seeds_per_trial > 1:
            resources += f", shared by {spec.resources.seeds_per_trial} seeds"
        row = [spec.trial_id, spec.problem, spec.variant, str(spec.seed), *place, f"{spec.total_steps:,}", resources]
        rows.append([*row, plan.state(spec)])
    print_rows(plan.grid, ["id", "problem", "variant", "seed", *inner, "steps", "resources", "state"], rows)
    print_start(plan)
    print("dry run: nothing was run or written")


def print_start(plan: Plan) -> None:
    """How many trials run, how many at a time, and where results go."""
    skipped = Counter(status for _, status in plan.skipped)
    counts = [f"{len(plan.to_run)} to run"]
    if plan.continued_at:
        counts[0] += f" ({len(plan.continued_at)} of them begun before)"
    counts += [f"{n} {status} before" for status, n in skipped.items()]
    print(f"{plan.grid}: {len(plan.specs)} trial{'s' * (len(plan.specs) > 1)}, {', '.join(counts)}")
    if plan.machine and plan.to_run:
        gpus = f", {plan.machine.gpus} GPUs" if plan.machine.gpus else ""
        print(f"{plan.concurrency} at a time on this machine ({plan.machine.cores} cores{gpus})")
    elif plan.to_run:
        limit = f"at most {plan.concurrency}" if plan.concurrency else "as many as fit"
        print(f"{limit} at a time on the cluster at {plan.address}")
    print(f"results: {plan.store.location}", flush=True)


def print_end(plan: Plan, failed: Sequence[tuple[TrialSpec, str, str]], interrupted: bool) -> None:
    """What became of the trials, each failure with its reason and log, and where the results are."""
    rows = plan.store.trials()
    ids = {spec.trial_id for spec, _, _ in failed}
    statuses = Counter(
        "failed" if spec.trial_id in ids else rows[spec.trial_id]["status"] if spec.trial_id in rows else "not begun"
        for spec in plan.specs
    )
    print(f"{plan.grid}: {', '.join(f'{n} {status}' for status, n in statuses.items())}")
    for spec in plan.specs:
        row = rows.get(spec.trial_id, {})
        if row.get("status") == "diverged":
            print(f"  diverged: {_name(spec)}: {row['reason']}")
    for spec, reason, log in failed:
        print(f"  failed: {_name(spec)}: {reason}; log: {log}")
    print(f"results: {plan.store.location}/data")
    if interrupted:
        print("interrupted; run the same command to continue")
    elif failed:
        print("run the same command to try the failed trials again")


def _name(spec: TrialSpec) -> str:
    return f"{spec.variant} seed {spec.seed} ({spec.trial_id})"


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal, plain lines elsewhere."""
    if sys.stdout.isatty():
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold", no_wrap=column in ("id", "variant", "steps"))
        for row in rows:
            table.add_row(*row)
        Console(markup=False, highlight=False).print(table)
        return
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
