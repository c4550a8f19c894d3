import os
import subprocess
import sys

import pytest

from lop_ray.results import BusyError, Location, Lock

HOLD = """
import sys, time
from lop_ray.results import Location, Lock
Lock(Location.of(sys.argv[1]), "a/lock", "trial x").acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_and_told_by_whom(tmp_path, holder):
    with pytest.raises(BusyError, match=f"trial x is in use by process {holder.pid} on ") as caught:
        Lock(Location.of(tmp_path), "a/lock", "trial x").acquire()
    assert "\n" not in str(caught.value)


def test_the_holders_death_releases_it(tmp_path, holder):
    lock = Lock(Location.of(tmp_path), "a/lock", "trial x")
    holder.kill()
    lock.acquire(wait_s=10)
    lock.release()


def test_it_can_be_given_back_and_taken_again(tmp_path):
    lock = Lock(Location.of(tmp_path), "a/lock", "trial x")
    for _ in range(2):
        with lock, pytest.raises(BusyError):
            Lock(Location.of(tmp_path), "a/lock", "trial x").acquire()
    lock.release()
    assert (tmp_path / "a/lock").read_text().startswith(f"process {os.getpid()} on ")


def test_what_cannot_be_locked_is_left_to_the_user():
    Lock(Location.of("mock:///grids"), "a/lock", "trial x").acquire()
