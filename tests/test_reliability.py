"""Nothing is lost or doubled: real commands, killed for real."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lop_ray.results import Checkpoints, Store, read_table
from tests.algorithms.small import TIMES, assert_same_weights

pytestmark = pytest.mark.slow

UPDATES, BATCH = 40, 256
SMALL = ["ant.num_envs=4", f"ppo.batch_size={BATCH}", "ppo.minibatch_size=64", "ppo.num_epochs=2"]
SMALL += ["checkpoints.every_steps=1024", "diagnostics.margins.samples=500", "diagnostics.margins.neurons_every=3"]
LIMIT_S = 240
STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _nothing_outlives_a_test():
    yield
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    STARTED.clear()


class Command:
    """`python -m lop_ray.tune ant_grid`, small, in a process group of its own."""

    def __init__(self, results: Path, *more: str, updates: int = UPDATES):
        self.results = results
        self.output = results / "output.txt"
        settings = [part for setting in SMALL for part in ("--set", setting)]
        arguments = ["--variants", "std,cbp", "--seeds", "0", "--total-steps", str(updates * BATCH)]
        self.argv = [sys.executable, "-m", "lop_ray.tune", "ant_grid", *arguments, *settings]
        self.argv += ["--results", str(results), *more]

    def start(self) -> subprocess.Popen:
        # Into a file: Ray's daemons inherit a pipe, and outlive a killed driver for a while.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.output.open("w") as output:
            process = subprocess.Popen(
                self.argv, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        STARTED.append(process)
        return process

    def end(self, process: subprocess.Popen) -> tuple[int, str]:
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the command did not end within {LIMIT_S} s:\n{self.output.read_text()}")
        return process.returncode, self.output.read_text()

    def run(self) -> tuple[int, str]:
        return self.end(self.start())

    def updates_on_disk(self) -> int:
        """The furthest checkpoint of any trial."""
        folders = self.results.glob("ant_grid/trials/*/checkpoints/*/complete.json")
        return max((int(folder.parent.name.rpartition("-")[2]) for folder in folders), default=0)

    def wait_for_update(self, update: int, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + LIMIT_S
        while self.updates_on_disk() < update:
            assert process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, f"update {update} was not reached"
            time.sleep(0.05)


def rows_of(results: Path) -> dict[str, list[dict]]:
    tables = {}
    for table in ("updates", "episodes", "layers", "neurons"):
        rows = [
            {key: value for key, value in row.items() if key not in TIMES}
            for row in read_table(results, "ant_grid", table).to_pylist()
        ]
        tables[table] = sorted(map(repr, rows))
    return tables


def assert_complete(results: Path, updates: int = UPDATES) -> None:
    store = Store(results, "ant_grid")
    manifest = store.read_manifest()
    trials = store.trials()
    assert set(trials) == set(manifest["trials"])
    assert {row["status"] for row in trials.values()} == {"finished"}
    rows = read_table(results, "ant_grid", "updates").to_pylist()
    for trial in trials:
        assert sorted(row["update"] for row in rows if row["trial_id"] == trial) == list(range(1, updates + 1))
    keys = [
        (row["trial_id"], row["update"], row["network"], row["layer"])
        for row in read_table(results, "ant_grid", "layers").to_pylist()
    ]
    assert len(keys) == len(set(keys)) == len(trials) * updates * 4


def assert_same_outcome(one: Path, other: Path) -> None:
    assert rows_of(one) == rows_of(other)
    for trial in Store(one, "ant_grid").trials():
        states = []
        for results in (one, other):
            checkpoint, passed_over = Checkpoints(Store(results, "ant_grid").location, trial).newest_valid()
            assert checkpoint is not None
            assert not passed_over
            states.append({name: checkpoint.read(name) for name in checkpoint.files})
        assert_same_weights(*states)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    results = tmp_path_factory.mktemp("uninterrupted")
    code, out = Command(results).run()
    assert code == 0, out
    assert_complete(results)
    return results


def test_a_driver_killed_three_times_loses_and_doubles_nothing(uninterrupted, tmp_path):
    rng = random.Random(0)
    command = Command(tmp_path)
    for least in (4, 12, 20):
        process = command.start()
        command.wait_for_update(least, process)
        time.sleep(rng.random())
        os.kill(process.pid, signal.SIGKILL)  # the driver alone: its trials must end by themselves
        command.end(process)
    code, out = command.run()
    assert code == 0, out
    assert "continues from update" in out
    assert_complete(tmp_path)
    assert_same_outcome(uninterrupted, tmp_path)


def test_a_killed_trial_goes_on_by_itself(uninterrupted, tmp_path):
    command = Command(tmp_path)
    process = command.start()
    command.wait_for_update(8, process)
    lock = next(tmp_path.glob("ant_grid/trials/*/lock"))
    os.kill(int(re.match(r"process (\d+)", lock.read_text())[1]), signal.SIGKILL)
    code, out = command.end(process)
    assert code == 0, out
    assert "is tried again" in out
    assert_complete(tmp_path)
    assert_same_outcome(uninterrupted, tmp_path)


def test_an_interrupt_commits_everything_and_a_damaged_checkpoint_is_passed_over(uninterrupted, tmp_path):
    command = Command(tmp_path)
    process = command.start()
    command.wait_for_update(8, process)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    code, out = command.end(process)
    assert code == 130, out
    assert "run the same command to continue" in out
    assert {row["status"] for row in Store(tmp_path, "ant_grid").trials().values()} == {"stopped"}

    trial = sorted(tmp_path.glob("ant_grid/trials/*/checkpoints"))[0]
    newest, older = sorted(trial.iterdir(), reverse=True)[:2]
    file = newest / "training.pt"
    file.write_bytes(file.read_bytes()[:-100])
    code, out = command.run()
    assert code == 0, out
    assert f"{newest} was passed over" in out
    assert f"continues from update {int(older.name.rpartition('-')[2])}" in out
    assert_complete(tmp_path)
    assert_same_outcome(uninterrupted, tmp_path)


def test_finished_trials_are_left_alone_and_a_grid_may_grow(uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*.parquet")}
    code, out = Command(uninterrupted).run()
    assert code == 0
    assert "2 finished" in out
    after = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*.parquet")}
    assert before == after


def test_divergence_is_a_result(tmp_path):
    code, out = Command(tmp_path, "--set", "ppo.lr=1e30", updates=4).run()
    assert code == 0, out
    trials = Store(tmp_path, "ant_grid").trials().values()
    assert [row["status"] for row in trials] == ["diverged"] * 2
    assert all(re.match(r"update 1: .+ is not finite at gradient step \d+", row["reason"]) for row in trials)
    assert out.count("diverged: update 1: ") >= 2


def test_an_interrupt_waits_for_an_update_that_takes_longer_than_tunes_own_patience(tmp_path):
    # 10 s are Tune's; an update of 10,000 gradient steps takes longer.
    slow = ["--set", "ppo.num_epochs=2500", "--variants", "std"]
    command = Command(tmp_path, *slow)
    process = command.start()
    deadline = time.monotonic() + LIMIT_S
    while "1 running" not in command.output.read_text():
        assert time.monotonic() < deadline, command.output.read_text()
        time.sleep(0.2)
    time.sleep(3)
    start = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    code, out = command.end(process)
    assert code == 130, out
    assert time.monotonic() - start > 10
    (trial,) = Store(tmp_path, "ant_grid").trials().values()
    assert (trial["status"], trial["updates"]) == ("stopped", 1)
    assert command.updates_on_disk() == 1
