"""The commit is that of the code, or nothing; never that of a repository that merely surrounds it."""

import json
import os
import subprocess
from importlib import metadata

import pytest

from lop_ray.results import provenance as record
from lop_ray.results import schema_of
from lop_ray.results.provenance import git_state, hardware, versions

MACHINE = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
WHO = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]


def git(folder, *arguments):
    command = ["git", "-C", str(folder), *WHO, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=MACHINE).stdout.strip()


@pytest.fixture
def package(tmp_path):
    """A repository with a package, its callbacks, and a notebook."""
    for name in ("lop_ray/__init__.py", "callbacks/margins.py", "notebooks/ant.ipynb"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path / "lop_ray"


def test_a_clean_tree_has_its_commit(package):
    assert git_state(package) == (git(package, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize(
    ("name", "dirty"),
    [
        ("lop_ray/__init__.py", True),
        ("lop_ray/new.py", True),
        ("callbacks/margins.py", True),
        ("notebooks/ant.ipynb", False),
    ],
)
def test_dirty_means_that_the_code_differs_from_the_commit(package, name, dirty):
    (package.parent / name).write_text("changed")
    assert git_state(package) == (git(package, "rev-parse", "HEAD"), dirty)


def test_code_without_a_commit_of_its_own_has_none(package, tmp_path_factory):
    installed = package.parent / ".venv" / "lop_ray"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert git_state(installed) == (None, None)
    alone = tmp_path_factory.mktemp("no_repository")
    (alone / "__init__.py").write_text("")
    assert git_state(alone) == (None, None)


def test_without_git_there_is_none(package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_state(package) == (None, None)


def test_versions_and_hardware():
    found = versions()
    assert found["torch"] == metadata.version("torch")
    assert set(found) >= {"python", "lop_ray", "ray", "numpy", "mujoco", "gymnasium", "pyarrow"}
    assert f"{len(os.sched_getaffinity(0))} cores" in hardware()


def test_gpus_are_counted_by_name(monkeypatch, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text('#!/bin/sh\necho H200\necho H200\ncase "$*" in *"-i 0,1"*) ;; *) echo A100 ;; esac\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for visible, expected in ((None, "; 2 x H200; 1 x A100"), ("0,1", "; 2 x H200"), ("", " cores")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert hardware.__wrapped__().endswith(expected)


def test_the_record_fits_the_columns_of_trials():
    columns = record()
    assert set(columns) == {"git_commit", "git_dirty", "versions", "hardware"} <= set(schema_of("trials").names)
    assert json.loads(columns["versions"]) == versions()
