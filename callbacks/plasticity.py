"""The RLlib callback that looks inside the networks on every update."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback

from lop_ray.diagnostics import DiagnosticSuite


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

    The buffer is part of the runner's state, so it survives a restart. The rows are left on the algorithm
    (`diagnostic_rows`, `diagnose_s`), from where the trial writes them. Nothing here changes training.
    """

    def __init__(self) -> None:
        super().__init__()
        self._suite: DiagnosticSuite | None = None

    def _suite_of(self, config: Any) -> DiagnosticSuite:
        if self._suite is None:
            self._suite = DiagnosticSuite(config.trial.diagnostics, seed=config.trial.seed)
        return self._suite

    def on_algorithm_init(self, *, algorithm: Any, **kwargs: Any) -> None:
        """Remembers the initial weights, if the first update needs them."""
        self._remember(algorithm)

    def on_checkpoint_loaded(self, *, algorithm: Any, **kwargs: Any) -> None:
        """Remembers the weights that training goes on from."""
        self._remember(algorithm)

    def on_sample_end(self, *, env_runner: Any, samples: list[Any], **kwargs: Any) -> None:
        """Adds the fragments' observations, time-major, to the runner's buffer."""
        size = self._suite_of(env_runner.config).samples
        for fragment in samples if size else ():
            observations = fragment.obs.reshape(-1, *fragment.obs.shape[2:])
            env_runner.observation_buffer = latest_observations(env_runner.observation_buffer, observations, size)

    def on_train_result(self, *, algorithm: Any, result: dict, **kwargs: Any) -> None:
        """Runs what is due after this update."""
        start = time.perf_counter()
        suite = self._suite_of(algorithm.config)
        update = algorithm.iteration
        if suite.due(update):
            rows = suite.measure(
                update=update,
                networks=_learner(algorithm).actor_critic.networks(),
                observations=self._observations(algorithm, suite.samples),
            )
            algorithm.diagnostic_rows = rows.tables()
        self._remember(algorithm)
        algorithm.diagnose_s = time.perf_counter() - start

    def _remember(self, algorithm: Any) -> None:
        suite = self._suite_of(algorithm.config)
        suite.remember(algorithm.iteration + 1, _learner(algorithm).actor_critic.networks())

    def _observations(self, algorithm: Any, size: int) -> torch.Tensor:
        group = algorithm.env_runner_group
        buffers = group.foreach_env_runner(_buffer, local_env_runner=group.num_remote_workers() == 0)
        kept = [buffer for buffer in buffers if buffer is not None]
        if not kept:
            return torch.empty(0)
        # With several runners each gives its share, so that the set keeps its size and stays recent.
        share = -(-size // len(kept))
        return torch.from_numpy(np.concatenate([buffer[-share:] for buffer in kept])).to(_learner(algorithm).device)


def _learner(algorithm: Any) -> Any:
    return algorithm.learner_group._learner


def _buffer(runner: Any) -> np.ndarray | None:
    return runner.observation_buffer
