"""Fixtures that several folders share."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401  the hook below loads no more than `tests`

SHAPED = ["batched", "curvature", "features", "gradients", "input_curvature", "kfac", "losses", "probe"]
SHAPED += ["ranks", "unit_gradients", "units", "weights"]

# One thread a process: tests run side by side, and results must not depend on how many cores there are.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine starts Ray slowly

# Shapes in the signatures of diagnostics are checked in tests, and only there. Before anything imports them.
install_import_hook([f"lop_ray.diagnostics.{name}" for name in SHAPED], "tests.typechecker.check")

# Timings vary on busy machines, and a test run leaves no files behind.
settings.register_profile("lop_ray", deadline=None, database=None, max_examples=50)
settings.load_profile("lop_ray")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first: of two processes, one would end with it alone."""
    items.sort(key=lambda item: item.path.name != "test_reliability.py")


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory):
    """A small Ray in this process, with a bounded object store and a temporary folder of its own."""
    import tempfile

    import ray

    # Sockets below this folder have a path limit of about 100 characters, which pytest's own folders exceed.
    with tempfile.TemporaryDirectory(prefix="lopray-") as folder:
        ray.init(
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=100 * 1024**2,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
        )
        yield
        ray.shutdown()
