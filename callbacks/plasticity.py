"""The RLlib callback that looks inside the networks on every update."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback

from lop_ray.diagnostics import Diagnosable, DiagnosticSuite


def latest_observations(kept: np.ndarray | None, new: np.ndarray, size: int) -> np.ndarray:
    """The last `size` observations of `kept` followed by `new`.

    Args:
        kept: [K, ...], or None before the first.
        new: [M, ...], oldest first.
        size: How many to keep.

    Returns:
        [min(K + M, size), ...], oldest first.
    """
    if len(new) >= size or kept is None:
        return new[-size:].copy()
    return np.concatenate([kept[max(0, len(kept) + len(new) - size) :], new])


class PlasticityCallback(RLlibCallback):
    """Keeps the latest observations beside each env runner, and measures the networks on them after an update.

    It serves every algorithm that has a `diagnosis`, which is `Diagnosable`, and prepares its `diagnostics` before
    every update. The buffer is part of the runner's state, so it survives a restart. The rows are left on the
    algorithm (`diagnostic_rows`, `diagnose_s`), from where the trial writes them. Nothing here changes training.
    """

    def __init__(self) -> None:
        super().__init__()
        self._suite: DiagnosticSuite | None = None

    def _suite_of(self, config: Any) -> DiagnosticSuite:
        if self._suite is None:
            self._suite = DiagnosticSuite(config.trial.diagnostics, seed=config.trial.seed)
        return self._suite

    def on_algorithm_init(self, *, algorithm: Any, **kwargs: Any) -> None:
        """Hands over the diagnostics, so that what trains prepares them and saves their state."""
        algorithm.diagnostics = self._suite_of(algorithm.config)

    def on_sample_end(self, *, env_runner: Any, samples: list[Any], **kwargs: Any) -> None:
        """Adds the fragments' observations, time-major, to the runner's buffer."""
        size = self._suite_of(env_runner.config).samples
        for fragment in samples if size else ():
            observations = fragment.obs.reshape(-1, *fragment.obs.shape[2:])
            env_runner.observation_buffer = latest_observations(env_runner.observation_buffer, observations, size)

    def on_train_result(self, *, algorithm: Any, result: dict, **kwargs: Any) -> None:
        """Runs what is due after this update."""
        start = time.perf_counter()
        suite, update = self._suite_of(algorithm.config), algorithm.iteration
        if suite.due(update):
            training = algorithm.diagnosis
            seen = _observations(algorithm, suite.samples) if suite.observes(update) else torch.empty(0)
            algorithm.diagnostic_rows = suite.diagnose(update, training, seen.to(_device(training))).tables()
        algorithm.diagnose_s += time.perf_counter() - start


def _observations(algorithm: Any, size: int) -> torch.Tensor:
    """The latest `size` observations over all env runners, on the CPU."""
    group = algorithm.env_runner_group
    buffers = group.foreach_env_runner(_buffer, local_env_runner=group.num_remote_workers() == 0)
    kept = [buffer for buffer in buffers if buffer is not None]
    if not kept:
        return torch.empty(0)
    # With several runners each gives its share and they take turns, so that any number of the last rows is recent.
    share = min(-(-size // len(kept)), *map(len, kept))
    return torch.from_numpy(np.stack([buffer[-share:] for buffer in kept], 1).reshape(-1, *kept[0].shape[1:]))


def _device(training: Diagnosable) -> torch.device:
    """Where its networks are."""
    return next(parameter.device for network in training.networks().values() for parameter in network.parameters())


def _buffer(runner: Any) -> np.ndarray | None:
    return runner.observation_buffer
