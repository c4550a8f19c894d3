"""A place for files: a local folder, or a folder of any file system that pyarrow knows.

A file appears whole or not at all. On a local disk (and a mounted network disk) it is written under
a temporary name, flushed to the device, and renamed; object stores (S3, GCS, Azure) publish an
object when its upload ends. Names of temporary files begin with a dot, so that pyarrow.dataset and
globs for `*.parquet` pass them over.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import fs

_COPY_BYTES = 8 * 2**20
_WITHOUT_FOLDERS = {"s3", "gcs", "abfs"}
_CANT_SYNC_FOLDERS = {errno.EINVAL, errno.ENOTSUP}


class LocationError(OSError):
    """A results location that can't be reached or written; the message is one line."""


class Location:
    """A folder, and the operations on the files below it; paths are relative to it.

    Args:
        filesystem: Where the folder is.
        root: The folder, as that file system writes it.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str):
        self.filesystem = filesystem
        self.root = root.rstrip("/") or "/"
        self._local = isinstance(filesystem, fs.LocalFileSystem)

    @classmethod
    def of(cls, where: str | Path | Location) -> Location:
        """The location that a path or a URI names.

        Args:
            where: A local path (made absolute here, because Tune changes the working directory), or a
                URI that pyarrow knows: `file://`, `s3://`, `gs://`, `abfs://`, `fsspec+NAME://`.

        Returns:
            The location; nothing is created.

        Raises:
            LocationError: The URI is of an unknown kind, or its service can't be reached.
        """
        if isinstance(where, Location):
            return where
        if "://" not in str(where):
            return cls(fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(where)))
        try:
            filesystem, root = fs.FileSystem.from_uri(str(where))
        except (pa.ArrowException, OSError, ImportError, ValueError) as error:
            raise LocationError(
                f"results location {where}: {_one_line(error)}; "
                "give a local path, or a URI such as file://, s3://, gs:// or abfs://"
            ) from error
        return cls(filesystem, root)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder that this machine mounts."""
        return self._local

    def __truediv__(self, path: str) -> Location:
        return type(self)(self.filesystem, self._full(path))

    def __str__(self) -> str:
        return self.root if self._local else f"{self.filesystem.type_name}:{self.root}"

    def _full(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def read_bytes(self, path: str) -> bytes:
        """The content of a file; FileNotFoundError if it isn't there."""
        with self.open(path) as source:
            return source.read()

    def open(self, path: str) -> Any:
        """A file for random reading (`pyarrow.NativeFile`); FileNotFoundError if it isn't there."""
        return self.filesystem.open_input_file(self._full(path))

    def write_atomic(self, path: str, content: bytes) -> None:
        """Writes a file that appears whole or not at all, replacing one of that name."""
        with self.atomic_file(path) as sink:
            sink.write(content)

    @contextmanager
    def atomic_file(self, path: str) -> Iterator[IO[bytes]]:
        """A file to write to, which appears at `path`, whole, when the block ends without an error.

        Args:
            path: Where it will be; folders are made as needed, a file of that name is replaced.

        Yields:
            A binary file on a local disk.
        """
        full = self._full(path)
        if not self._local:
            # An error inside the block must not publish half an object, so it is spooled first.
            with tempfile.TemporaryFile() as spool:
                yield spool
                spool.seek(0)
                if self.filesystem.type_name not in _WITHOUT_FOLDERS:
                    self.filesystem.create_dir(os.path.dirname(full), recursive=True)
                with self.filesystem.open_output_stream(full) as sink:
                    shutil.copyfileobj(spool, sink, _COPY_BYTES)
            return
        folder, name = os.path.split(full)
        _make_folders(folder)
        temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with open(temporary, "wb") as sink:
                yield sink
                sink.flush()
                os.fsync(sink.fileno())
            os.replace(temporary, full)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(folder)

    def list(self, path: str = "") -> list[str]:
        """All files below a folder, at any depth, temporary ones too: paths relative to it, sorted."""
        prefix = self._full(path)
        found = self.filesystem.get_file_info(fs.FileSelector(prefix, recursive=True, allow_not_found=True))
        skip = len(prefix.lstrip("/")) + 1
        return sorted(info.path.lstrip("/")[skip:] for info in found if info.type == fs.FileType.File)

    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder at `path`."""
        return self.filesystem.get_file_info(self._full(path)).type != fs.FileType.NotFound

    def delete(self, path: str) -> None:
        """Deletes a file; nothing happens if it isn't there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self._full(path))

    def delete_tree(self, path: str) -> None:
        """Deletes a folder with all that is in it; nothing happens if it isn't there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_dir(self._full(path))

    def check_writable(self) -> None:
        """Writes and deletes a file, and leaves nothing behind.

        On a local disk the file is put in the nearest folder above that exists, so that no folder is made.

        Raises:
            LocationError: The place can't be written; one line with the cause.
        """
        try:
            if self._local:
                nearest = self.root
                while not os.path.lexists(nearest):
                    nearest = os.path.dirname(nearest)
                with tempfile.TemporaryFile(dir=nearest, prefix=".writable-"):
                    pass
            else:
                probe = f".writable-{uuid.uuid4().hex[:8]}"
                self.write_atomic(probe, b"")
                self.delete(probe)
        except (pa.ArrowException, OSError) as error:
            raise LocationError(
                f"results location {self} can't be written: {_one_line(error)}; choose another with --results"
            ) from error


def is_temporary(name: str) -> bool:
    """Whether a file is one that `Location.atomic_file` has not finished, or never will."""
    return name.startswith(".") and name.endswith(".tmp")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _make_folders(folder: str) -> None:
    """Makes a folder and those above it, and flushes the entry of each new one to the device."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make_folders(above)
    with suppress(FileExistsError):
        os.mkdir(folder)
    _sync_folder(above)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems have no such operation
        if error.errno not in _CANT_SYNC_FOLDERS:
            raise
    finally:
        os.close(descriptor)
