"""Whatever dies, whenever: what is on disk is a prefix of what was written, and a resume makes it whole."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from unittest.mock import patch

import pyarrow.dataset as ds
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lop_ray.results import Checkpoints, Store, read_table, writer
from lop_ray.results.filesystem import Location

LAYERS = 2
TABLES = ("updates", "layers")


class Killed(BaseException):
    """The process died here."""


class Fuse:
    """Kills the process at its n-th change to the disk from now: before it, in the middle of it, or after it."""

    def __init__(self):
        self.left, self.when, self.dead = None, "begin", False

    def burn(self, moment):
        if moment == "begin":
            if self.dead:
                raise Killed  # nothing happens after a death
            if self.left is not None:
                self.left -= 1
        if moment == self.when and self.left is not None and self.left < 0:
            self.left, self.dead = None, True
            raise Killed


class MortalLocation(Location):
    """A local folder whose changes a fuse may cut short."""

    def __init__(self, filesystem, root, fuse):
        super().__init__(filesystem, root)
        self.fuse = fuse

    def __truediv__(self, path):
        return MortalLocation(self.filesystem, self._full(path), self.fuse)

    @contextmanager
    def atomic_file(self, path):
        self.fuse.burn("begin")
        try:
            with super().atomic_file(path) as sink:
                yield sink
                self.fuse.burn("middle")
        except Killed:  # a dead process does not tidy up
            folder, _, name = self._full(path).rpartition("/")
            with open(f"{folder}/.{name}.{time.monotonic_ns()}.tmp", "wb") as torn:
                torn.write(b"PAR1 torn")
            raise
        self.fuse.burn("end")

    def delete(self, path):
        self.fuse.burn("begin")
        super().delete(path)
        self.fuse.burn("middle")
        self.fuse.burn("end")


class TrialOnDisk(RuleBasedStateMachine):
    """One trial with checkpoints, against lists in memory."""

    @initialize()
    def start(self):
        self.patches = [
            patch.object(os, "fsync", lambda descriptor: None),  # the page cache outlives these deaths
            patch.object(writer, "SMALL_PARTS", 3),
        ]
        for each in self.patches:
            each.start()
        self.folder = tempfile.TemporaryDirectory()
        self.local = Location.of(self.folder.name)
        self.rows = {table: [] for table in TABLES}  # all rows of this timeline, on disk or waiting
        self.durable = dict.fromkeys(TABLES, 0)  # how many of them are certainly on disk
        self.update = self.life = 0
        self.checkpoints = [0]
        self.fuse, self.trial = Fuse(), None
        self.resume()

    def teardown(self):
        if hasattr(self, "patches"):
            self.folder.cleanup()
            for each in self.patches:
                each.stop()

    def resume(self):
        """A new process goes on from the checkpoint; it may die doing so."""
        self.life += 1
        self.fuse.dead = False
        self.trial = None
        location = MortalLocation(self.local.filesystem, self.local.root, self.fuse)
        trial = Store(location, "grid").trial_writer("t1", rows_per_part=500)
        self.attempt_rewind(trial, self.checkpoints[-1])
        self.trial = trial

    def attempt_rewind(self, trial, update):
        for table in TABLES:  # from now on these rows may vanish, but not those before
            kept = [row for row in self.rows[table] if row[0] <= update]
            self.durable[table] = min(self.durable[table], len(kept))
        trial.rewind(update)
        for table in TABLES:
            self.rows[table] = [row for row in self.rows[table] if row[0] <= update]
        self.update = update

    @contextmanager
    def mortal(self):
        try:
            yield
        except Killed:
            self.trial = None

    alive = precondition(lambda self: self.trial is not None)

    @rule(left=st.integers(0, 12), when=st.sampled_from(["begin", "middle", "end"]))
    def light_the_fuse(self, left, when):
        self.fuse.left, self.fuse.when = left, when

    @alive
    @rule(count=st.one_of(st.integers(1, 5), st.integers(300, 600)))
    def train(self, count):
        with self.mortal():
            for update in range(self.update + 1, self.update + count + 1):
                for table, layer in [("updates", 0), *[("layers", layer) for layer in range(LAYERS)]]:
                    row = {"update": update, "env_steps": self.life}
                    self.rows[table].append((update, layer, self.life))
                    self.trial.append(table, row if table == "updates" else row | {"layer": layer})
                self.update = update

    @alive
    @rule(then_save=st.sampled_from([False, False, True]))
    def commit(self, then_save):
        with self.mortal():
            self.trial.commit()
            self.all_is_durable()
            if then_save:
                self.checkpoints.append(self.update)

    @alive
    @rule()
    def join(self):
        with self.mortal():
            self.trial.join()
            self.all_is_durable()
            assert all(len(self.names(table)) <= 1 for table in TABLES)

    @alive
    @rule()
    def restore_in_the_same_process(self):
        with self.mortal():
            self.attempt_rewind(self.trial, self.checkpoints[-1])

    @alive
    @rule()
    def kill(self):
        self.trial = None

    @precondition(lambda self: self.trial is None and len(self.checkpoints) > 1)
    @rule()
    def damage_the_newest_checkpoint(self):
        self.checkpoints.pop()

    @precondition(lambda self: self.trial is None)
    @rule()
    def give_the_command_again(self):
        with self.mortal():
            self.resume()
            for table in TABLES:
                assert self.on_disk(table) == self.rows[table]
                self.raw_readers_agree(table)

    @precondition(lambda self: self.trial is None)
    @rule()
    def repair(self):
        Store(self.local, "grid").repair()
        for table in TABLES:
            self.raw_readers_agree(table)
            assert not [name for name in self.names(table) if name.startswith(".")]

    @invariant()
    def the_disk_holds_a_prefix_with_all_that_is_durable(self):
        if not hasattr(self, "rows"):
            return
        for table in TABLES:
            found = self.on_disk(table)
            assert found == self.rows[table][: len(found)]
            assert len(found) >= self.durable[table]

    def all_is_durable(self):
        for table in TABLES:
            self.durable[table] = len(self.rows[table])
            assert self.on_disk(table) == self.rows[table]

    def on_disk(self, table):
        columns = ["update", "env_steps", *(["layer"] if table == "layers" else [])]
        rows = read_table(self.local, "grid", table, columns=columns)
        layers = rows["layer"].to_pylist() if table == "layers" else [0] * len(rows)
        return list(zip(rows["update"].to_pylist(), layers, rows["env_steps"].to_pylist(), strict=True))

    def names(self, table):
        return [path.split("/")[1] for path in self.local.list(f"grid/data/{table}")]

    def raw_readers_agree(self, table):
        if self.names(table):
            raw = ds.dataset(f"{self.local.root}/grid/data/{table}", partitioning="hive").to_table(columns=["update"])
            assert sorted(raw["update"].to_pylist()) == sorted(update for update, *_ in self.on_disk(table))


class LongerTrialOnDisk(TrialOnDisk):
    """The same, with more examples."""


TestTrialOnDisk = TrialOnDisk.TestCase
TestTrialOnDisk.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestLongerTrialOnDisk = pytest.mark.slow(LongerTrialOnDisk.TestCase)
TestLongerTrialOnDisk.settings = settings(TestTrialOnDisk.settings, max_examples=150)


@pytest.mark.parametrize("when", ["middle", pytest.param("begin", marks=pytest.mark.slow)])
def test_a_death_at_any_change_to_the_disk(when):
    # Parts of two updates each; the checkpoint is at update 2, so that resuming trims one part and deletes others.
    life = ["train", "save", "train", "commit", "join", "train", "commit", "train", "commit"]
    life += ["restore", "train", "commit", "train", "join"]
    for left in itertools.count():
        trial = TrialOnDisk()
        trial.start()
        trial.light_the_fuse(left, when)
        steps = {
            "train": lambda trial=trial: trial.train(2),
            "save": lambda trial=trial: trial.commit(True),
            "commit": lambda trial=trial: trial.commit(False),
            "join": trial.join,
            "restore": trial.restore_in_the_same_process,
        }
        for step in life:
            steps[step]()
            if trial.trial is None:
                trial.the_disk_holds_a_prefix_with_all_that_is_durable()
                if left % 2:
                    trial.repair()
                trial.give_the_command_again()
        assert trial.trial
        trial.all_is_durable()
        trial.teardown()
        if trial.fuse.left is not None:  # it outlived the whole life
            break
    assert left > 20


CHILD = """
import sys, time
from lop_ray.results import Checkpoints, Store

store = Store(sys.argv[1], "grid")
trial = store.trial_writer("t1", rows_per_part=500)
checkpoints = Checkpoints(store.location, "t1")
checkpoint, _ = checkpoints.newest_valid()
update = checkpoint.update if checkpoint else 0
trial.rewind(update)
trial.set_status("running", seed=int(sys.argv[2]))
while update < int(sys.argv[3]):
    update += 1
    trial.append("updates", {"update": update, "env_steps": int(sys.argv[2])})
    trial.append_many("layers", [{"update": update, "layer": layer} for layer in range(4)])
    if update % 7 == 0:
        trial.commit()
        checkpoints.save(update, 0, {"state": b"x" * 100_000}, {})
        print(update, flush=True)
trial.join()
trial.set_status("finished")
"""


@pytest.mark.slow
@pytest.mark.parametrize("pause_s", [0.0, 0.003, 0.011])
def test_a_writing_process_is_killed_three_times(tmp_path, pause_s):
    total, reached = 140, 0
    for life in range(1, 4):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, tmp_path, str(life), "1000000"], stdout=subprocess.PIPE
        ) as child:
            for _ in range(4):
                reached = int(child.stdout.readline())
            time.sleep(pause_s * life)
            os.kill(child.pid, signal.SIGKILL)
        rows = read_table(tmp_path, "grid", "updates")["update"].to_pylist()
        assert rows == list(range(1, len(rows) + 1))
        assert len(rows) >= reached
        checkpoint, _ = Checkpoints(Location.of(tmp_path) / "grid", "t1").newest_valid()
        assert reached <= checkpoint.update <= len(rows)
        total = checkpoint.update + 100
    subprocess.run([sys.executable, "-c", CHILD, tmp_path, "4", str(total)], check=True, stdout=subprocess.DEVNULL)
    assert read_table(tmp_path, "grid", "updates")["update"].to_pylist() == list(range(1, total + 1))
    layers = read_table(tmp_path, "grid", "layers")
    assert list(zip(layers["update"].to_pylist(), layers["layer"].to_pylist(), strict=True)) == list(
        itertools.product(range(1, total + 1), range(4))
    )
    lives = read_table(tmp_path, "grid", "updates")["env_steps"].to_pylist()
    assert lives == sorted(lives)
    assert set(lives) == {1, 2, 3, 4}
    assert Store(tmp_path, "grid").trials()["t1"]["status"] == "finished"
    left = sorted(name.rpartition("/")[2] for name in Location.of(tmp_path).list("grid/data/updates"))
    assert len(left) == 1
