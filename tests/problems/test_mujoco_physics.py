import itertools
import logging
import threading
from importlib.resources import files

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lop_ray.problems import mujoco_physics
from lop_ray.problems.mujoco_physics import MujocoPhysics, _ThreadPool

ANT_XML = str(files("gymnasium") / "envs" / "mujoco" / "assets" / "ant.xml")


def ant_physics(num_copies=1, **kwargs):
    return MujocoPhysics(ANT_XML, num_copies, **{"substeps": 5, "body": "torso", "contact_forces": True, **kwargs})


def physics_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("physics-")]


def test_less_friction_slides_further():
    physics = ant_physics(2)
    physics.set_slide_friction([0, 1], np.array([0.02, 2.0]))
    qpos, qvel = np.tile(physics.initial_qpos, (2, 1)), np.tile(physics.initial_qvel, (2, 1))
    qvel[:, 0] = 3.0  # thrown along +x, then left alone
    physics.reset([0, 1], qpos, qvel)
    for _ in range(60):
        physics.step(np.zeros((2, 8)))
    slippery, sticky = physics.qpos[:, 0]
    assert slippery > 1.5 * sticky > 0


def test_readings_are_positions_velocities_and_forces_side_by_side():
    physics = ant_physics(2)
    for _ in range(20):
        physics.step(np.full((2, 8), 0.5))
    assert physics.readings.shape == (2, 15 + 14 + 14 * 6)
    assert_array_equal(physics.readings, np.hstack([physics.qpos, physics.qvel, physics.cfrc_ext]))
    assert physics.cfrc_ext.any()
    assert_array_equal(physics.cfrc_ext[:, :6], 0)  # on the world
    assert physics.control_s == 0.05
    assert_array_equal(physics.ctrl_range, [[-1, 1]] * 8)


def test_without_contact_forces_the_motion_is_the_same():
    with_forces, without = ant_physics(), ant_physics(contact_forces=False)
    for _ in range(30):
        for physics in with_forces, without:
            physics.step(np.full((1, 8), 0.5))
    assert without.cfrc_ext.shape == (1, 0)
    assert_array_equal(without.readings, with_forces.readings[:, :29])


def test_reset_leaves_other_copies_alone():
    physics = ant_physics(3)
    for _ in range(20):
        physics.step(np.full((3, 8), 0.5))
    before, xpos = physics.readings.copy(), physics.body_xpos.copy()
    physics.reset([1], physics.initial_qpos[None], physics.initial_qvel[None])
    assert_array_equal(physics.readings[[0, 2]], before[[0, 2]])
    assert_array_equal(physics.body_xpos[[0, 2]], xpos[[0, 2]])
    assert_array_equal(physics.qpos[1], physics.initial_qpos)
    assert_array_equal(physics.cfrc_ext[1], 0)


def test_reset_right_after_set_state_keeps_what_lags_behind_the_state():
    physics, restored = ant_physics(2), ant_physics(2)
    for _ in range(20):
        physics.step(np.full((2, 8), 0.5))
    restored.set_state(physics.get_state())
    for p in physics, restored:
        p.reset([1], p.initial_qpos[None], p.initial_qvel[None])
    assert_array_equal(restored.readings, physics.readings)
    assert_array_equal(restored.body_xpos, physics.body_xpos)


def test_threads_end_with_close():
    physics = ant_physics(4, num_threads=3)
    physics.step(np.zeros((4, 8)))
    assert len(physics_threads()) == 2  # and the calling one
    physics.close()
    physics.close()
    assert physics_threads() == []
    with pytest.raises(RuntimeError, match="closed"):
        physics.step(np.zeros((4, 8)))


def test_one_copy_or_one_thread_needs_no_other_threads():
    pair = ant_physics(1, num_threads=4), ant_physics(4, num_threads=1)
    for physics in pair:
        physics.step(np.zeros((physics.num_copies, 8)))
    assert physics_threads() == []


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0)])
def test_no_copies_or_no_threads_are_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        ant_physics(sizes[0], num_threads=sizes[1])


def test_instability_in_threads_is_logged_once_and_leaves_no_file(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)  # where MuJoCo would write MUJOCO_LOG.TXT
    monkeypatch.setattr(mujoco_physics, "_warned", itertools.count())
    physics = ant_physics(4, num_threads=2)
    for _ in range(3):
        qvel = np.tile(np.full(14, 1e9), (4, 1))
        physics.reset(range(4), np.tile(physics.initial_qpos, (4, 1)), qvel)
        physics.step(np.zeros((4, 8)))
        assert_array_equal(physics.readings, np.tile(physics.readings[0], (4, 1)))
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "unstable" in warnings[0].getMessage()
    assert list(tmp_path.iterdir()) == []
    physics.close()


def test_the_pool_does_all_work_once():
    pool = _ThreadPool(3)
    done = []
    for _ in range(50):
        pool.run(done.append, 20)
        assert sorted(done) == list(range(20))
        done.clear()
    pool.close()


def test_an_error_in_a_thread_is_raised_by_run_and_the_pool_lives_on():
    pool = _ThreadPool(2)

    def fail(number):
        if number == 5:
            raise ArithmeticError("five")

    with pytest.raises(ArithmeticError, match="five"):
        pool.run(fail, 10)
    done = []
    pool.run(done.append, 4)
    assert sorted(done) == [0, 1, 2, 3]
    pool.close()
