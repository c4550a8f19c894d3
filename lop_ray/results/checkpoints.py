"""Checkpoints of a trial: folders of files, each valid only once its marker is there.

    trials/<trial_id>/checkpoints/000004-update-1220/{state.pt, ..., complete.json}

The marker is written last and holds size and SHA-256 of every file, so a checkpoint that a death cut
short, or a disk damaged, is known for what it is, and its predecessor is used. Folders are numbered:
the highest number is the newest, even if a trial passes the same update twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lop_ray.results.filesystem import Location
from lop_ray.results.parts import check_trial_id

CHECKPOINT_VERSION = 1
MARKER = "complete.json"

_FOLDER = re.compile(r"(\d{6})-update-\d+")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class CheckpointVersionError(ValueError):
    """A checkpoint was written in another format."""


class DamagedCheckpointError(OSError):
    """A file of a checkpoint is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        location: Its folder.
        update: Updates of the trial when it was saved.
        env_steps: Environment steps of the trial when it was saved.
        versions: What wrote it, by package.
        files: Size and SHA-256 of each file, by name.
    """

    location: Location
    update: int
    env_steps: int
    versions: Mapping[str, str]
    files: Mapping[str, tuple[int, str]]

    def read(self, name: str) -> bytes:
        """The content of a file.

        Args:
            name: Its name, one of `files`.

        Returns:
            What was saved under that name.

        Raises:
            KeyError: The checkpoint has no such file.
            DamagedCheckpointError: The file is missing, or not what was saved.
        """
        if name not in self.files:
            raise KeyError(f"checkpoint {self.location} has no file {name!r}; it has {', '.join(self.files)}")
        size, sha256 = self.files[name]
        try:
            content = self.location.read_bytes(name)
        except (OSError, pa.ArrowException) as error:
            cause = "is missing" if isinstance(error, FileNotFoundError) else "can't be read"
            raise DamagedCheckpointError(f"{name} {cause}") from error
        if len(content) != size:
            raise DamagedCheckpointError(f"{name} has {len(content)} bytes, {size} were written")
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DamagedCheckpointError(f"{name} is not what was written: its SHA-256 differs")
        return content


class Checkpoints:
    """The checkpoints of one trial. One process at a time may save.

    Args:
        grid: The grid's folder.
        trial_id: The trial.
        keep: How many of the newest are kept; at least two, so that a damaged newest has a predecessor.
    """

    def __init__(self, grid: Location, trial_id: str, keep: int = 2):
        if keep < 2:
            raise ValueError(f"keep is {keep}; at least 2 are kept, so that a damaged checkpoint has a predecessor")
        self.location = grid / f"trials/{check_trial_id(trial_id)}/checkpoints"
        self._keep = keep
        self._damaged: set[str] = set()

    def save(self, update: int, env_steps: int, files: Mapping[str, bytes], versions: Mapping[str, str]) -> Checkpoint:
        """Writes a checkpoint, then deletes those that are no longer kept.

        Commit the trial's rows first: rows up to `update` must be on disk before a trial can go on from here.

        Args:
            update: Updates of the trial so far.
            env_steps: Environment steps of the trial so far.
            files: Contents by file name.
            versions: What writes it, by package; for the message when a later version can't read it.

        Returns:
            The checkpoint.

        Raises:
            ValueError: A file's name is not a plain one.
        """
        for name in files:
            if not _FILE.fullmatch(name) or name == MARKER:
                raise ValueError(f"a checkpoint's file can't be named {name!r}: give letters, digits, '_', '.' and '-'")
        folders = self._folders()
        number = max((int(folder[:6]) for folder in folders), default=0) + 1
        folder = f"{number:06d}-update-{update}"
        sums = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
        for name, content in files.items():
            self.location.write_atomic(f"{folder}/{name}", content)
        marker = {
            "format": CHECKPOINT_VERSION,
            "update": update,
            "env_steps": env_steps,
            "versions": dict(versions),
            "files": {name: {"size": size, "sha256": sha256} for name, (size, sha256) in sums.items()},
        }
        self.location.write_atomic(f"{folder}/{MARKER}", json.dumps(marker, indent=1).encode())
        self._prune(folders)
        return Checkpoint(self.location / folder, update, env_steps, dict(versions), sums)

    def newest_valid(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint whose files are all as they were written.

        Returns:
            The checkpoint, or None; and for each newer one that was passed over a sentence saying why.

        Raises:
            CheckpointVersionError: The newest that is complete is of another format.
        """
        passed_over: list[str] = []
        for folder in sorted(self._folders(), reverse=True):
            try:
                return self._verified(folder), passed_over
            except DamagedCheckpointError as error:
                self._damaged.add(folder)
                passed_over.append(f"Checkpoint {self.location / folder} was passed over: {error}.")
        return None, passed_over

    def valid(self) -> tuple[list[Checkpoint], list[str]]:
        """All checkpoints whose files are as they were written, for reading; a trial may be writing meanwhile.

        Returns:
            The checkpoints, oldest first; and for each that was passed over a sentence saying why.

        Raises:
            CheckpointVersionError: One of them is of another format.
        """
        found: list[Checkpoint] = []
        passed_over: list[str] = []
        for folder in sorted(self._folders()):
            try:
                found.append(self._verified(folder))
            except DamagedCheckpointError as error:
                passed_over.append(f"Checkpoint {self.location / folder} was passed over: {error}.")
        return found, passed_over

    def give_up_after(self, update: int) -> None:
        """Deletes the checkpoints of later updates: the rows that they stand on are about to be removed."""
        for folder in sorted(self._folders(), reverse=True):
            if int(folder.rpartition("-")[2]) > update:
                self.location.delete(f"{folder}/{MARKER}")
                self.location.delete_tree(folder)

    def _verified(self, folder: str) -> Checkpoint:
        location = self.location / folder
        marker = self._marker(folder)
        if marker.get("format") != CHECKPOINT_VERSION:
            writer = ", ".join(f"{name} {version}" for name, version in dict(marker.get("versions", {})).items())
            raise CheckpointVersionError(
                f"checkpoint {location / MARKER} has format {marker.get('format')}, this lop_ray reads "
                f"{CHECKPOINT_VERSION}: use the versions that wrote it ({writer or 'not recorded'}), "
                "or start the grid in an empty place"
            )
        try:
            files = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in marker["files"].items()}
            checkpoint = Checkpoint(
                location, int(marker["update"]), int(marker["env_steps"]), dict(marker["versions"]), files
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedCheckpointError(f"its marker {MARKER} lacks {error}") from error
        for name in files:
            checkpoint.read(name)
        return checkpoint

    def _marker(self, folder: str) -> dict[str, Any]:
        try:
            marker = json.loads(self.location.read_bytes(f"{folder}/{MARKER}"))
        except FileNotFoundError as error:
            raise DamagedCheckpointError(f"it has no marker {MARKER}, its writer died before it was whole") from error
        except (ValueError, OSError, pa.ArrowException) as error:
            raise DamagedCheckpointError(f"its marker {MARKER} can't be read") from error
        if not isinstance(marker, dict):
            raise DamagedCheckpointError(f"its marker {MARKER} can't be read")
        return marker

    def _folders(self) -> dict[str, bool]:
        """Folders of all checkpoints, whole or not; true for those with a marker."""
        folders: dict[str, bool] = {}
        for path in self.location.list():
            folder, _, name = path.partition("/")
            if _FOLDER.fullmatch(folder):
                folders[folder] = folders.get(folder, False) or name == MARKER
        return folders

    def _prune(self, before: Mapping[str, bool]) -> None:
        """Deletes all but the newest, after a new one was written; damaged ones are not worth keeping.

        Args:
            before: The folders that were there before it.
        """
        worth = sorted((folder for folder, marked in before.items() if marked and folder not in self._damaged))
        for folder in sorted(set(before) - set(worth[-(self._keep - 1) :])):
            self.location.delete(f"{folder}/{MARKER}")
            self.location.delete_tree(folder)
