"""Trials as their results hold them: found by a path, with their checkpoints opened for measuring."""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from lop_ray.algorithms.ppo.networks import with_policy
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.stored import StoredTraining, StoredVersionError, open_training
from lop_ray.collection import SAMPLES_PER_FEATURE, Actor, collect, features_of_last_layer, holds_out
from lop_ray.errors import UserError, nearest
from lop_ray.results import (
    Checkpoint,
    Checkpoints,
    CheckpointVersionError,
    DamagedCheckpointError,
    Location,
    LocationError,
    SchemaVersionError,
    read_table,
)

_PLACE = re.compile(r"(?P<results>.*)/(?P<grid>[^/]+)/trials/(?P<trial>[^/]+)(/checkpoints(/(?P<checkpoint>[^/]+))?)?")


@dataclass(frozen=True)
class Observations:
    """Observations out of a file.

    Attributes:
        name: The file's name and the first digits of its SHA-256.
        values: [N, ...], floating point, or bytes.
    """

    name: str
    values: Tensor


class Snapshot:
    """A checkpoint of a trial.

    Attributes:
        trial: What was trained.
        update: Updates of the trial when it was saved.
        env_steps: Environment steps of the trial when it was saved.
        training: What it holds.

    Args:
        trial: What was trained.
        checkpoint: The checkpoint.

    Raises:
        UserError: It was written by another version, or is damaged.
    """

    def __init__(self, trial: TrialSpec, checkpoint: Checkpoint):
        self.trial, self.update, self.env_steps = trial, checkpoint.update, checkpoint.env_steps
        try:
            self.training: StoredTraining = open_training(trial, {n: checkpoint.read(n) for n in checkpoint.files})
        except StoredVersionError as error:
            wrote = ", ".join(f"{name} {version}" for name, version in checkpoint.versions.items())
            raise UserError(
                f"checkpoint {checkpoint.location} was written by another version ({wrote or 'not recorded'}): "
                f"use that one ({error})"
            ) from error
        except (ValueError, DamagedCheckpointError) as error:
            raise UserError(f"checkpoint {checkpoint.location}: {error}") from error

    def collects(self, count: int | None) -> bool:
        """Whether to collect observations: if so many are asked for, or by default where something is held out."""
        return bool(count) if count is not None else holds_out(self.trial)

    def collect(self, count: int | None, task: int | None, actor: Actor) -> Observations:
        """Lets the stored policy act on what the problem holds out.

        Args:
            count: How many observations; None: ten a feature of the policy's last hidden layer.
            task: Which task of the problem; None: the first.
            actor: Who draws the actions.

        Returns:
            The observations.

        Raises:
            UserError: Nothing is held out, or `count` is negative.
        """
        if not holds_out(self.trial):
            raise UserError(
                f"--collect: problem {self.trial.problem} holds nothing out; measure on --observations FILE.npz"
            )
        _, policy = with_policy(self.training.networks())
        wanted = SAMPLES_PER_FEATURE * features_of_last_layer(policy) if count is None else count
        if wanted < 0:
            raise UserError(f"--collect {wanted}: should be a number of observations, or 0 for the checkpoint's own")
        number = task or 0
        found = collect(self.trial, policy, wanted, task=number, update=self.update, actor=actor)
        return Observations(f"held out, task {number}, actions of {actor}", found)

    def observations(self, given: Observations | None) -> Tensor:
        """Those given, or the checkpoint's own.

        Raises:
            UserError: There are none, or the networks read others.
        """
        found = self.training.observations() if given is None else given.values
        if found is None or not len(found):
            raise UserError(
                f"the checkpoint of update {self.update} holds no observations (its run's diagnostics read none): "
                "give some with --observations FILE.npz"
            )
        shape = self.training.observation_shape
        if tuple(found.shape[1:]) != shape:
            raise UserError(
                f"--observations: shape {list(found.shape)}, but the networks read [N, {', '.join(map(str, shape))}]"
            )
        networks = self.training.networks().values()
        if found.dtype == torch.uint8 and all(hasattr(network, "scaled") for network in networks):
            return found
        return found.to(next(parameter.dtype for network in networks for parameter in network.parameters()))


@dataclass
class StoredTrial:
    """A trial in a results folder.

    Attributes:
        results: The folder of all grids.
        grid: Name of the grid.
        spec: What was trained.
        chosen: Folder of the checkpoint that the path named, or None.
        notes: What a person should know, such as a checkpoint passed over.
    """

    results: Location
    grid: str
    spec: TrialSpec
    chosen: str | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.grid}: {self.spec.variant} seed {self.spec.seed} ({self.spec.trial_id})"

    @property
    def grid_location(self) -> Location:
        """The grid's folder."""
        return self.results / self.grid

    def snapshots(self) -> list[Snapshot]:
        """All checkpoints, oldest first, or the one that was chosen.

        Raises:
            UserError: There is none, or one of another version.
        """
        if self.chosen is not None:
            return [self.checkpoint(self.chosen)]
        if not self._checkpoints:
            raise UserError(
                f"trial {self.spec.trial_id} has no valid checkpoint in {self.grid_location}/trials/"
                f"{self.spec.trial_id}/checkpoints{': ' if self.notes else ''}{' '.join(self.notes)}"
            )
        return [Snapshot(self.spec, checkpoint) for checkpoint in self._checkpoints.values()]

    def checkpoint(self, name: str) -> Snapshot:
        """One checkpoint, by its folder's name or a path to it.

        Raises:
            UserError: There is none of that name.
        """
        folder = name.rstrip("/").rpartition("/")[2]
        if folder not in self._checkpoints:
            passed = next((note for note in self.notes if f"/{folder} " in note), None)
            known = ", ".join(self._checkpoints) or "none"
            raise UserError(passed or f"trial {self.spec.trial_id} has no checkpoint '{folder}'; it has: {known}")
        return Snapshot(self.spec, self._checkpoints[folder])

    @cached_property
    def _checkpoints(self) -> dict[str, Checkpoint]:
        """The valid ones by name of folder, oldest first.

        Raises:
            UserError: One is of another format.
        """
        try:
            found, notes = Checkpoints(self.grid_location, self.spec.trial_id).valid()
        except CheckpointVersionError as error:
            raise UserError(str(error)) from error
        self.notes += notes
        return {checkpoint.location.root.rpartition("/")[2]: checkpoint for checkpoint in found}

    def task_at(self, update: int) -> int | None:
        """The task after an update, as the run's rows say; None if they do not."""
        rows = read_table(
            self.results, self.grid, "updates", columns=["update", "task"], trials=[self.spec.trial_id]
        ).to_pylist()
        return next((row["task"] for row in rows if row["update"] == update), None)


def find_trial(place: str) -> StoredTrial:
    """The trial that a path names.

    Args:
        place: `RESULTS/GRID/trials/ID`, or a checkpoint in it; a path or URI.

    Returns:
        The trial.

    Raises:
        UserError: There is none, or it was written by another version.
    """
    try:
        location = Location.of(place)
        match = _PLACE.fullmatch(location.root)
        if match is None:
            raise UserError(f"{place}: should be RESULTS/GRID/trials/ID, or a folder in its checkpoints/")
        results = Location(location.filesystem, match["results"] or "/")
        grid, trial_id = match["grid"], match["trial"]
        rows = read_table(results, grid, "trials", trials=[trial_id]).to_pylist()
        if not rows:
            raise UserError(_no_trial(results, grid, trial_id))
    except (LocationError, SchemaVersionError, OSError) as error:
        raise UserError(" ".join(str(error).split())) from error
    return StoredTrial(results, grid, _spec(rows[0]), match["checkpoint"])


def _spec(row: dict[str, Any]) -> TrialSpec:
    try:
        return TrialSpec.model_validate_json(row["config"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(
            f"trial {row['trial_id']} was written by another version: its configuration has "
            f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}; use the version that wrote it"
        ) from error


def _no_trial(results: Location, grid: str, trial_id: str) -> str:
    known = sorted({path.split("/")[0] for path in (results / grid).list("trials")})
    if not known:
        grids = sorted({path.split("/")[0] for path in results.list() if "/trials/" in path})
        return f"no trials of grid '{grid}' in {results}; grids with trials there: {', '.join(grids) or 'none'}"
    guess = nearest(trial_id, known)
    hint = f"did you mean '{guess}'? " if guess else ""
    some = ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
    return f"no trial '{trial_id}' of grid '{grid}' in {results}; {hint}known: {some}"


def read_observations(file: str) -> Observations:
    """The array `observations` of an .npz file.

    Raises:
        UserError: There is no such file or array, or it is none of finite numbers [N, ...].
    """
    try:
        content = Path(file).read_bytes()
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "not an .npz file of numbers"
        raise UserError(f"--observations {file}: {reason}") from error
    if "observations" not in arrays:
        raise UserError(f"--observations {file}: has no array 'observations'; it has: {', '.join(arrays) or 'none'}")
    values = arrays["observations"]
    if values.ndim < 2 or not values.size or values.dtype.kind not in "fiub":
        raise UserError(
            f"--observations {file}: should be numbers [N, ...] with N >= 1, not {values.dtype} {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise UserError(f"--observations {file}: holds NaN or infinity; remove those rows")
    digest = hashlib.sha256(content).hexdigest()[:16]
    numbers = values if values.dtype == np.uint8 else values.astype(np.float64)  # images stay as they were seen
    return Observations(f"{Path(file).name} {digest}", torch.from_numpy(numbers))
