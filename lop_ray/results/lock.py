"""One writer at a time: a lock that its holder's death releases.

After a driver is killed, its trials may live on for seconds while the same command is given again; two
writers would double rows. The lock is the operating system's (`flock`), so a dead process never leaves one
behind. It holds between the processes that share a local disk, or a network disk that carries locks (NFS 4,
Lustre with `flock`). Object stores have no locks: there one driver a grid is the user's care.
"""

from __future__ import annotations

import fcntl
import os
import platform
import time
from pathlib import Path
from types import TracebackType

from lop_ray.results.filesystem import Location

_POLL_S = 0.1


class BusyError(RuntimeError):
    """Another process holds the lock."""


class Lock:
    """Exclusive use of what is named `path`; a context manager.

    Args:
        location: The grid's folder.
        path: The lock's file below it; it holds the process id and host of the latest holder.
        what: What is locked, for the message.
    """

    def __init__(self, location: Location, path: str, what: str):
        self._path = Path(location.root) / path if location.is_local else None
        self._what = what
        self._file: int | None = None

    def acquire(self, wait_s: float = 0.0) -> None:
        """Takes the lock, waiting at most `wait_s` seconds for its holder to end.

        Raises:
            BusyError: It is still held; the message names the holder.
        """
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
                    os.close(descriptor)
                    raise BusyError(f"{self._what} is in use by {holder}; wait until it has ended, or end it") from None
                time.sleep(_POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        self._file = descriptor

    def release(self) -> None:
        """Gives the lock back; without it, does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Lock:
        """Takes the lock at once, or raises."""
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives it back."""
        self.release()
