"""Where numbers come from: commit of the code, versions of the packages, and the machine."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("lop-ray", "torch", "ray", "numpy", "mujoco", "gymnasium", "pyarrow")
SOURCES = ("lop_ray", "callbacks")
"""Folders of the repository that hold the code."""

_TIMEOUT_S = 10


def provenance(source: Path | None = None) -> dict[str, Any]:
    """The columns of `trials` that say what made the rows, for `TrialWriter.set_status`.

    Args:
        source: The package's folder; the one that this file was imported from by default.

    Returns:
        git_commit, git_dirty, versions (JSON), hardware.
    """
    commit, dirty = git_state(source)
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": json.dumps(versions()),
        "hardware": hardware(),
    }


def git_state(source: Path | None = None) -> tuple[str | None, bool | None]:
    """The commit of the code, and whether the code differs from it.

    Args:
        source: The package's folder; the one that this file was imported from by default.

    Returns:
        The commit's hash, and true if a file of the code (SOURCES) was changed, added or deleted since.
        (None, None) if the code is not under git: there is no repository, or one that doesn't track it,
        as when the package is installed into an environment inside a repository.
    """
    source = Path(__file__).parents[1] if source is None else source
    commit = _run("git", "-C", str(source), "rev-parse", "HEAD")
    tracked = _run("git", "-C", str(source), "ls-files", "--error-unmatch", "--", "__init__.py")
    if commit is None or tracked is None:
        return None, None
    changes = _run("git", "-C", str(source.parent), "status", "--porcelain", "--", *SOURCES)
    return commit, None if changes is None else bool(changes)


def versions() -> dict[str, str]:
    """Versions of Python and of the PACKAGES that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package.replace("-", "_")] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def hardware() -> str:
    """Processor, usable cores and GPUs, such as "Xeon Gold 6430, 16 cores; 2 x NVIDIA H200"."""
    text = f"{_cpu_model()}, {_cores()} cores"
    names = _gpus()
    counted = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return "; ".join([text, *counted])


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(models), "") or platform.processor() or platform.machine()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use; asked of the driver, because torch would occupy them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1"}:
        return []
    chosen = ["-i", visible] if visible else []
    answer = _run("nvidia-smi", *chosen, "--query-gpu=name", "--format=csv,noheader")
    return [line.strip() for line in (answer or "").splitlines() if line.strip()]


def _run(*command: str) -> str | None:
    """What a command prints; None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
