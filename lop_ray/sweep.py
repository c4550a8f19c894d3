"""A grid made into trials, and set against what a results folder already holds.

A trial's id is a hash of what the trial *is* (`identity`), the same on every machine, whatever its resources,
its folder and its grid's name. What has finished is skipped, what has begun goes on, and a grid whose
definition changed is refused (`lop_ray.manifest` says what a change is).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

from lop_ray.algorithms.spec import Resources, TrialSpec
from lop_ray.config.catalogue import check_trial
from lop_ray.config.checks import show
from lop_ray.config.grid import Grid
from lop_ray.config.settings import Settings
from lop_ray.config.tasks import task_warnings
from lop_ray.errors import UserError, unknown
from lop_ray.manifest import Manifest, check_format, describe, differences, grown
from lop_ray.results import Checkpoints, CheckpointVersionError, Store, provenance

ENDED = ("finished", "diverged")
"""Statuses of trials that are not run again."""

RETRIES = 2
"""How often a trial that failed is tried again, from its newest valid checkpoint, before it counts as failed."""


def identity(spec: TrialSpec) -> dict[str, Any]:
    """What a trial is: everything that decides its rows, as plain values.

    Left out are `trial_id`, `grid`, `resources` and `checkpoints`. Interventions are a list, because the order
    in which they act matters.
    """
    kept = spec.model_dump(mode="json", exclude={"trial_id", "grid", "resources", "checkpoints"})
    return kept | {"interventions": [[name, options] for name, options in spec.interventions.items()]}


def trial_id(spec: TrialSpec) -> str:
    """`t` and the first 12 hexadecimal digits of SHA-256 over the canonical JSON of `identity`.

    The letter keeps readers of partitioned folders from taking an id of digits for a number.
    """
    text = json.dumps(identity(spec), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "t" + hashlib.sha256(text.encode()).hexdigest()[:12]


def make_trials(
    grid: Grid, variants: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> list[TrialSpec]:
    """The trials of a grid, seed by seed, so that a part of the grid is a comparison already.

    Args:
        grid: The grid.
        variants: Only these; all by default.
        seeds: Only these; all by default.

    Returns:
        Each trial once, also where an axis changes nothing in it.

    Raises:
        UserError: A key or value is wrong, nothing is selected, or something that the grid does not have.
    """
    variants = _select("variants", variants, grid)
    seeds = _select("seeds", seeds, grid)
    settings = [(variant, grid.settings(variant, point)[0]) for point in grid.points() for variant in variants]
    trials: dict[str, TrialSpec] = {}
    for seed in seeds:
        for variant, each in settings:
            spec = _make_trial(grid.name, variant, seed, each)
            trials.setdefault(spec.trial_id, spec)
    return list(trials.values())


def _make_trial(grid: str, variant: str, seed: int, settings: Settings) -> TrialSpec:
    spec = TrialSpec(trial_id="", grid=grid, variant=variant, seed=seed, **vars(settings))
    return spec.model_copy(update={"trial_id": trial_id(spec)})


def _select(what: Literal["variants", "seeds"], chosen: Sequence[Any] | None, grid: Grid) -> Sequence[Any]:
    axis = grid.axes[what.removesuffix("s")]
    if chosen is None:
        return axis
    if not chosen:
        raise UserError(f"--{what} is empty: nothing of grid {grid.name} is left to run")
    missing = [each for each in chosen if each not in axis]
    if missing and what == "variants":
        raise UserError(f"--variants: {unknown(f'variant of grid {grid.name}', missing[0], axis)}")
    if missing:
        raise UserError(f"--seeds: {missing[0]} is no seed of grid {grid.name}, which has {_ranges(axis)}")
    return list(dict.fromkeys(chosen))


def _ranges(seeds: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "0..2, 5"."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


@dataclass(frozen=True)
class Machine:
    """What this machine can hold.

    Attributes:
        cores: CPU cores that this process may use.
        gpus: GPUs that torch sees.
    """

    cores: int
    gpus: int = 0

    @classmethod
    def here(cls, *, look_for_gpus: bool) -> Machine:
        """The machine of this process; GPUs are only looked for when a trial wants one."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if not look_for_gpus:
            return cls(cores)
        import torch

        return cls(cores, torch.cuda.device_count())

    def check(self, resources: Resources) -> None:
        """Refuses a trial that this machine can't hold.

        Raises:
            UserError: It needs more CPUs or GPUs than there are.
        """
        cpus = resources.cpus + resources.env_runners
        if cpus > self.cores:
            runners = f" (of them env_runners = {resources.env_runners})" if resources.env_runners else ""
            raise UserError(
                f"resources.cpus: a trial needs {cpus} CPUs{runners}, this machine has {self.cores}; "
                "lower --cpus-per-trial, or give a cluster with --address"
            )
        if resources.gpus > self.gpus:
            raise UserError(
                f"resources.gpus = {resources.gpus:g}: this machine has {self.gpus} GPUs; "
                "lower --gpus-per-trial, or give a cluster with --address"
            )

    def holds(self, resources: Resources) -> int:
        """How many such trials fit at a time."""
        fit = self.cores // (resources.cpus + resources.env_runners)
        return min(fit, int(self.gpus / resources.gpus)) if resources.gpus else fit


@dataclass(frozen=True)
class Plan:
    """What a command will do: which trials run, which are skipped, and where.

    Attributes:
        grid: The grid's name.
        results: The folder of all grids, absolute, or its URI.
        store: The grid's results.
        specs: All trials that the command asks for.
        to_run: Those that run, new or continued.
        skipped: Those that ended before, each with its status.
        continued_at: Environment steps at which a trial that has begun goes on, by trial id.
        manifest: The manifest as it will be.
        machine: This machine; None with an existing cluster.
        max_concurrent: At most so many trials at a time; None for as many as fit.
        address: An existing Ray cluster; None to start Ray here.
        wandb: off, offline or online.
        command: The command, as typed.
        retries: How often a failed trial is tried again.
        warnings: What a person should know before it runs, a line each.
    """

    grid: str
    results: str
    store: Store
    specs: tuple[TrialSpec, ...]
    to_run: tuple[TrialSpec, ...]
    skipped: tuple[tuple[TrialSpec, str], ...]
    continued_at: Mapping[str, int]
    manifest: Manifest
    machine: Machine | None
    max_concurrent: int | None = None
    address: str | None = None
    wandb: Literal["off", "offline", "online"] = "off"
    command: str = ""
    retries: int = RETRIES
    warnings: tuple[str, ...] = ()

    @property
    def cores(self) -> int | None:
        """CPU cores for a Ray that is started here; None with an existing cluster."""
        return self.machine.cores if self.machine else None

    @property
    def concurrency(self) -> int | None:
        """How many trials run at a time, seeds of one network each for itself; None if only the cluster can tell."""
        limits = [len(self.groups)] + ([] if self.max_concurrent is None else [self.max_concurrent])
        if self.machine is not None:
            limits.append(self.machine.holds(self.specs[0].resources))
        elif self.max_concurrent is None:
            return None
        return sum(sorted(map(len, self.groups), reverse=True)[: min(limits)]) if self.groups else 0

    @cached_property
    def groups(self) -> list[list[TrialSpec]]:
        """The trials that run, those together that run as one; `resources.seeds_per_trial` says how many do."""
        together: dict[Any, list[list[TrialSpec]]] = {}
        for spec in self.to_run:
            # Those that have begun are not held back to where others begin.
            rows = together.setdefault((_whatever_the_seed(spec), spec.trial_id in self.continued_at), [])
            if not rows or len(rows[-1]) >= spec.resources.seeds_per_trial:
                rows.append([])
            rows[-1].append(spec)
        place = {spec.trial_id: i for i, spec in enumerate(self.to_run)}
        return sorted((row for rows in together.values() for row in rows), key=lambda row: place[row[0].trial_id])

    def state(self, spec: TrialSpec) -> str:
        """new, continues at N, finished or diverged."""
        if spec.trial_id in self.continued_at:
            return f"continues at {self.continued_at[spec.trial_id]:,}"
        return dict((skipped.trial_id, status) for skipped, status in self.skipped).get(spec.trial_id, "new")

    def commit(self) -> None:
        """Writes the manifest, with this run in it: the first thing that a run writes."""
        own = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "command": self.command}
        runs = [*self.manifest["runs"], own | provenance()]
        self.store.write_manifest(self.manifest | {"runs": runs})

    def record_failure(self, spec: TrialSpec, reason: str, log: str) -> str:
        """Marks a trial as failed and keeps its log.

        Args:
            spec: The trial.
            reason: Why, on one line.
            log: The traceback.

        Returns:
            Where the log is.
        """
        path = f"trials/{spec.trial_id}/error.log"
        self.store.location.write_atomic(path, log.encode())
        about = spec.model_dump(include={"grid", "problem", "algorithm", "variant", "seed"})
        if spec.trial_id not in self.store.trials():  # it died before it could say where it runs
            about |= provenance()
        self.store.trial_writer(spec.trial_id).set_status("failed", reason, config=spec.model_dump_json(), **about)
        return str(self.store.location / path)


def make_plan(
    grid: Grid,
    *,
    results: str = "results",
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    fresh: bool = False,
    address: str | None = None,
    max_concurrent: int | None = None,
    wandb: Literal["off", "offline", "online"] = "off",
    command: str = "",
    will_write: bool = True,
) -> Plan:
    """Checks everything that can be checked before Ray starts; writes nothing.

    Args:
        grid: The grid.
        results: The folder of all grids: a path or URI.
        variants: Only these; all by default.
        seeds: Only these; all by default.
        fresh: Refuse results that are there already.
        address: An existing Ray cluster, which checks resources itself.
        max_concurrent: At most so many trials at a time.
        wandb: off, offline or online.
        command: The command, as typed; for the manifest.
        will_write: Check that the results folder can be written.

    Returns:
        What to do.

    Raises:
        UserError: Something is wrong.
    """
    specs = make_trials(grid, variants, seeds)
    for spec in _once_whatever_the_seed(specs):
        check_trial(spec)
    warnings = dict.fromkeys(line for spec in specs for line in task_warnings(spec))
    resources = specs[0].resources  # the same in all: neither axes nor variants may set them
    if resources.gpus > 1 and resources.gpus != int(resources.gpus):
        raise UserError(f"resources.gpus = {resources.gpus:g}: should be a whole number, or a fraction below 1")
    machine = None if address else Machine.here(look_for_gpus=resources.gpus > 0)
    if machine:
        machine.check(resources)
    if not results.strip():
        raise UserError("--results is empty: should be a folder or a URI; leave it out for results/")
    results = results if "://" in results else os.path.abspath(os.path.expanduser(results))
    try:
        store = Store(results, grid.name)
        present = store.location.list()
        stored = store.read_manifest()
        known = store.trials()
        if will_write:
            store.location.check_writable()
    except (OSError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    if fresh and present:
        raise UserError(f"--fresh: {store.location} holds {len(present)} files; remove them, or give another --results")
    _refuse_another_grid(grid, store, stored, known)
    ended = {each for each, row in known.items() if row["status"] in ENDED}
    to_run = tuple(spec for spec in specs if spec.trial_id not in ended)
    return Plan(
        grid=grid.name,
        results=results,
        store=store,
        specs=tuple(specs),
        to_run=to_run,
        skipped=tuple((spec, known[spec.trial_id]["status"]) for spec in specs if spec.trial_id in ended),
        continued_at={spec.trial_id: _newest_checkpoint(store, spec) for spec in to_run if spec.trial_id in known},
        manifest=grown(stored, describe(grid, specs)),
        machine=machine,
        max_concurrent=max_concurrent,
        address=address,
        wandb=wandb,
        command=command,
        warnings=tuple(warnings),
    )


def _once_whatever_the_seed(specs: Sequence[TrialSpec]) -> list[TrialSpec]:
    """The first of every set of trials that differ in nothing but the seed."""
    return list({_whatever_the_seed(spec): spec for spec in reversed(specs)}.values())[::-1]


def _whatever_the_seed(spec: TrialSpec) -> str:
    return spec.model_copy(update={"trial_id": "", "seed": 0}).model_dump_json()


def _refuse_another_grid(
    grid: Grid, store: Store, stored: Manifest | None, known: Mapping[str, Mapping[str, Any]]
) -> None:
    if stored is None:
        if known:
            raise UserError(f"{store.location} holds {len(known)} trials, but no grid.yaml; give another --results")
        return
    check_format(stored, f"{store.location}/grid.yaml")
    # All trials, not only the selected: a change must not hide behind a selection.
    changes = differences(stored, describe(grid, make_trials(grid)))
    if changes:
        raise UserError(
            f"grid {grid.name} is not the one that {store.location} holds; undo the change, or give another --results; "
            "changed (stored -> now):\n" + "\n".join(f"  {line}" for line in changes)
        )


def _newest_checkpoint(store: Store, spec: TrialSpec) -> int:
    """Environment steps of a trial's newest valid checkpoint, 0 without one.

    Raises:
        UserError: It is from another version.
    """
    try:
        checkpoint, _ = Checkpoints(store.location, spec.trial_id).newest_valid()
    except CheckpointVersionError as error:
        raise UserError(f"trial {spec.trial_id} ({show(spec.variant)}, seed {spec.seed}): {error}") from error
    return checkpoint.env_steps if checkpoint else 0
