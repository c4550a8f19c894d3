"""A grid on a Ray cluster that is there already."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lop_ray.results import Store

pytestmark = pytest.mark.slow

SMALL = ["ant.num_envs=4", "ppo.batch_size=256", "ppo.minibatch_size=64", "ppo.num_epochs=1"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_raylet_start_wait_time_s": "120"}


@pytest.fixture
def cluster(tmp_path):
    """`ray start --head` with one core, as a person starts it; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
    command += ["--num-cpus=1", "--include-dashboard=false", "--object-store-memory=100000000"]
    command += ["--disable-usage-stats", f"--temp-dir=/tmp/lop_ray-test-{port}"]  # sockets need a short path
    with (tmp_path / "head.txt").open("w") as output:
        head = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 150
        while "Ray runtime started" not in (tmp_path / "head.txt").read_text():
            assert head.poll() is None, (tmp_path / "head.txt").read_text()
            assert time.monotonic() < deadline, "the head node did not start in time"
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        subprocess.run(["rm", "-rf", f"/tmp/lop_ray-test-{port}"], check=False)


def run(*arguments: str) -> subprocess.CompletedProcess:
    settings = [part for setting in SMALL for part in ("--set", setting)]
    command = [sys.executable, "-m", "lop_ray.tune", "ant_grid", "--variants", "std", "--total-steps", "512", *settings]
    return subprocess.run(
        [*command, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=180, check=False
    )


def test_trials_run_on_the_cluster_and_one_that_it_cannot_hold_is_refused(cluster, tmp_path):
    results = tmp_path / "results"
    done = run("--seeds", "0,1", "--address", cluster, "--results", str(results))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["status"] for row in Store(results, "ant_grid").trials().values()] == ["finished", "finished"]

    nowhere = tmp_path / "nowhere"
    refused = run("--seeds", "0", "--address", cluster, "--cpus-per-trial", "2", "--results", str(nowhere))
    assert refused.returncode == 2
    assert "a trial needs 2 CPUs and 0 GPUs, the cluster has 1 and 0; lower --cpus-per-trial" in refused.stderr
    assert not nowhere.exists()
