"""MuJoCo on CPU threads: one model and one data a copy.

`mujoco.mj_step` releases the GIL, so plain Python threads scale. Each copy keeps its own `MjData` and
hence its own solver warm start: what a copy does never depends on the number of threads, and is what
gymnasium's environments do with theirs, including the body positions and contact forces that
`mj_rnePostConstraint` and the RK4 integrator leave one stage behind the state. MuJoCo's own batches
(`mujoco.rollout`, `mujoco.batch`) cannot give these contact forces.
"""

from __future__ import annotations

import copy
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from lop_ray.problems.physics import Actions, Floats

_log = logging.getLogger(__name__)
_INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION)  # holds the solver's warm start, too


class MujocoPhysics:
    """`lop_ray.problems.physics.Physics` on CPU threads.

    Args:
        xml_path: The model.
        num_copies: N.
        substeps: Physics steps a control step.
        body: The tracked body's name.
        contact_forces: Compute `cfrc_ext` after every step.
        num_threads: Threads that step the copies, the calling one included.

    Raises:
        ValueError: Fewer than one copy or thread.
    """

    def __init__(
        self,
        xml_path: str,
        num_copies: int,
        *,
        substeps: int,
        body: str,
        contact_forces: bool,
        num_threads: int = 1,
    ):
        if num_copies < 1 or num_threads < 1:
            raise ValueError(f"num_copies={num_copies} and num_threads={num_threads} must both be at least 1")
        _log_warnings_once()
        model = mujoco.MjModel.from_xml_path(xml_path)
        self.num_copies = num_copies
        self.control_s = model.opt.timestep * substeps
        self.ctrl_range: Floats = model.actuator_ctrlrange.copy()
        self.initial_qpos: Floats = model.qpos0.copy()
        self.initial_qvel: Floats = np.zeros(model.nv)
        self._substeps = substeps
        self._contact_forces = contact_forces
        self._models = [copy.copy(model) for _ in range(num_copies)]
        self._datas = [mujoco.MjData(m) for m in self._models]
        self._model_friction: Floats = model.geom_friction[:, 0].copy()
        self._frictions = [m.geom_friction[:, 0] for m in self._models]  # views
        controls = [data.ctrl for data in self._datas]  # MuJoCo never moves a field, so views of it last
        self._copies = list(zip(self._models, self._datas, controls, strict=True))

        # Every copy's fields, and the table that one call gathers them all into.
        body_id = model.body(body).id
        self._fields = [
            [data.qpos, data.qvel, *([data.cfrc_ext.reshape(-1)] if contact_forces else []), data.xpos[body_id]]
            for data in self._datas
        ]
        self._all_fields = list(itertools.chain.from_iterable(self._fields))
        table = np.zeros((num_copies, sum(field.size for field in self._fields[0])))
        self._flat_table = table.reshape(-1)
        self.readings: Floats = table[:, :-3]
        self.body_xpos: Floats = table[:, -3:]
        splits = [model.nq, model.nq + model.nv]
        self.qpos, self.qvel, self.cfrc_ext = np.split(self.readings, splits, axis=1)
        self._gather()
        num_threads = min(num_threads, num_copies)
        self._pool = _ThreadPool(num_threads) if num_threads > 1 else None

    @property
    def slide_friction(self) -> Floats:
        """[N, geoms], slide friction of every geom of every copy (a new array)."""
        return np.stack([model.geom_friction[:, 0] for model in self._models])

    def set_slide_friction(self, ids: Sequence[int], values: Floats) -> None:
        """Gives all geoms of copy `ids[i]` `values[i]` times their slide friction in the model.

        All geoms, because a contact has the larger friction of its two geoms.
        """
        for k, value in zip(ids, values, strict=True):
            np.multiply(self._model_friction, value, out=self._frictions[k])

    def step(self, actions: Actions) -> None:
        """Advances every copy by one control step under `actions: [N, nu]`."""
        if self._pool is None:
            for k in range(self.num_copies):
                self._step_copy(k, actions)
        else:
            self._pool.run(lambda k: self._step_copy(k, actions), self.num_copies)
        self._gather()

    def _step_copy(self, k: int, actions: Actions) -> None:
        model, data, control = self._copies[k]
        control[:] = actions[k]
        mujoco.mj_step(model, data, self._substeps)
        if self._contact_forces:
            mujoco.mj_rnePostConstraint(model, data)

    def _gather(self) -> None:
        np.concatenate(self._all_fields, out=self._flat_table)

    def reset(self, ids: Sequence[int], qpos: Floats, qvel: Floats) -> None:
        """Puts copy `ids[i]` into the state (`qpos[i]`, `qvel[i]`), with everything else as at the start."""
        for i, k in enumerate(ids):
            data = self._datas[k]
            mujoco.mj_resetData(self._models[k], data)
            data.qpos[:] = qpos[i]
            data.qvel[:] = qvel[i]
            mujoco.mj_forward(self._models[k], data)
        self._gather()

    def get_state(self) -> dict[str, Any]:
        """Integration state (warm start included), what lags behind it, and friction: arrays with a row a copy."""
        size = mujoco.mj_stateSize(self._models[0], _INTEGRATION)
        integration = np.empty((self.num_copies, size))
        for row, model, data in zip(integration, self._models, self._datas, strict=True):
            mujoco.mj_getState(model, data, row, _INTEGRATION)
        return {
            "integration": integration,
            "body_xpos": self.body_xpos.copy(),
            "cfrc_ext": self.cfrc_ext.copy(),
            "slide_friction": self.slide_friction,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `get_state` gave.

        Raises:
            ValueError: The state is of another number of copies, another model or another MuJoCo.
        """
        expected = {name: array.shape for name, array in self.get_state().items()}
        for name, shape in expected.items():
            if np.shape(state[name]) != shape:
                raise ValueError(
                    f"state '{name}' has shape {np.shape(state[name])}, this physics needs {shape}: "
                    "restore with the num_envs, the model and the MuJoCo version that it was saved with"
                )
        for k, (model, data) in enumerate(zip(self._models, self._datas, strict=True)):
            model.geom_friction[:, 0] = state["slide_friction"][k]
            mujoco.mj_resetData(model, data)
            mujoco.mj_setState(model, data, np.asarray(state["integration"][k]), _INTEGRATION)
            *_, xpos = self._fields[k]
            xpos[:] = state["body_xpos"][k]
            if self._contact_forces:
                data.cfrc_ext.reshape(-1)[:] = state["cfrc_ext"][k]
        self._gather()

    def close(self) -> None:
        """Ends the threads; may be called twice."""
        if self._pool is not None:
            self._pool.close()


class _ThreadPool:
    """Runs `work(0) ... work(count - 1)` on the calling thread and `num_threads - 1` helpers.

    Which thread takes which number is left to who is free first. The pool holds no reference to the work
    between runs, so whoever owns the pool can be collected.
    """

    def __init__(self, num_threads: int):
        self._work: Callable[[int], None] | None = None
        self._numbers: Iterator[int] = iter(())
        self._error: BaseException | None = None
        self._closed = False
        # Bare locks as signals: several microseconds faster than threading's semaphores and events.
        self._go = [threading.Lock() for _ in range(num_threads - 1)]
        self._done = [threading.Lock() for _ in range(num_threads - 1)]
        for lock in self._go + self._done:
            lock.acquire()
        self._threads = [
            threading.Thread(target=self._help, args=signals, name=f"physics-{i}", daemon=True)
            for i, signals in enumerate(zip(self._go, self._done, strict=True))
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Callable[[int], None], count: int) -> None:
        """Returns when all work is done, or raises an error that a thread met.

        Raises:
            RuntimeError: The pool was closed.
        """
        if self._closed:
            raise RuntimeError("the physics was closed and cannot step any more")
        self._work, self._numbers = work, iter(range(count))
        for go in self._go:
            go.release()
        try:
            self._take_work()
        finally:
            for done in self._done:
                done.acquire()
            self._work = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _take_work(self) -> None:
        work = self._work
        assert work is not None
        try:
            for number in self._numbers:  # one step of a range iterator is atomic under the GIL
                work(number)
        except BaseException as error:  # raised again by run, on the calling thread
            self._error = error

    def _help(self, go: threading.Lock, done: threading.Lock) -> None:
        while True:
            go.acquire()
            if self._closed:
                return
            self._take_work()
            done.release()

    def close(self) -> None:
        """Ends the helpers; may be called twice."""
        if not self._closed:
            self._closed = True
            for go in self._go:
                go.release()
            for thread in self._threads:
                thread.join()


_warned = itertools.count()


def _log_warnings_once() -> None:
    """Sends MuJoCo's warnings to logging: the process's first one as a warning, the others as debug messages.

    By default MuJoCo prints every warning and appends it to MUJOCO_LOG.TXT in the working directory. They say
    that a simulation became unstable and was put back to its initial state, which a diverging policy can bring
    about thousands of times. A handler that somebody else has installed stays.
    """
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_log_warning)


def _log_warning(message: str) -> None:
    level = logging.DEBUG if next(_warned) else logging.WARNING
    _log.log(level, "MuJoCo: %s (logged once a process)", message.strip())
