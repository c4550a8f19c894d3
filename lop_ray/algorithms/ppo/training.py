"""PPO as a training that a trial can run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from ray.rllib.callbacks.utils import make_callback

from lop_ray.algorithms.ppo.algorithm import PlasticityPPOConfig
from lop_ray.algorithms.ppo.env_runner import ArrayEnvRunner, FinishedEpisode
from lop_ray.algorithms.ppo.learner import PlasticityLearner
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.training import Rows


class PPOTraining:
    """A `PlasticityPPO` algorithm, one update a call.

    Args:
        trial: What to train.
        callbacks: RLlib callback classes. One that leaves `diagnostic_rows` (rows by table) and
            `diagnose_s` on the algorithm in `on_train_result` has them written with the update.
    """

    def __init__(self, trial: TrialSpec, callbacks: list[type] | None = None):
        config = PlasticityPPOConfig.for_trial(trial, callbacks)
        self.algorithm = config.build_algo()
        self._copies: int = trial.problem_options["num_envs"]
        self._steps_an_update: int = config.train_batch_size_per_learner
        self.updates = 0

    @property
    def env_steps(self) -> int:
        """Environment steps so far, over all copies."""
        return self.updates * self._steps_an_update

    @property
    def learner(self) -> PlasticityLearner:
        """The learner, in this process."""
        return self.algorithm.learner_group._learner

    def update(self) -> Rows:
        """One iteration of the algorithm: sample, learn, diagnose."""
        algorithm = self.algorithm
        algorithm.diagnostic_rows, algorithm.diagnose_s = {}, 0.0
        before = self.env_steps
        algorithm.train()
        self.updates += 1
        sampled = algorithm.env_runner_group.foreach_env_runner(
            _what_was_sampled, local_env_runner=not self._has_remote_runners
        )
        episodes = [self._episode_row(before, episode) for finished, _, _ in sampled for episode in finished]
        returns = [row["episode_return"] for row in episodes]
        place = {"update": self.updates, "env_steps": self.env_steps, "task": sampled[0][2]}
        row = {
            **place,
            **self.learner.last_update,
            "episodes": len(episodes),
            "episode_return_mean": sum(returns) / len(returns) if returns else None,
            "sample_s": max(seconds for _, seconds, _ in sampled),
            "learn_s": self.learner.learn_s,
            "diagnose_s": algorithm.diagnose_s,
        }
        diagnosed = {
            table: [{**place, **row} for row in rows] for table, rows in algorithm.diagnostic_rows.items() if rows
        }
        return {"updates": [row], "episodes": episodes, **diagnosed}

    @property
    def _has_remote_runners(self) -> bool:
        return self.algorithm.env_runner_group.num_remote_workers() > 0

    def _episode_row(self, before: int, episode: FinishedEpisode) -> dict[str, Any]:
        return {
            "update": self.updates,
            "env_steps": before + (episode.step + 1) * self._copies,
            "task": episode.task,
            "episode_return": episode.episode_return,
            "length": episode.length,
            "terminated": episode.terminated,
        }

    def state(self) -> dict[str, bytes]:
        """`training.pt`: everything that continues bit for bit; `networks.pt`: plain state dicts, for analysis."""
        runners = self.algorithm.env_runner_group.foreach_env_runner(
            _runner_state, local_env_runner=not self._has_remote_runners
        )
        networks = {name: net.state_dict() for name, net in self.learner.actor_critic.networks().items()}
        training = {"updates": self.updates, "learner": self.learner.get_state(), "runners": dict(runners)}
        return {"training.pt": _to_bytes(training), "networks.pt": _to_bytes(networks)}

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Continues from `state()`; call it on a fresh training only."""
        state = torch.load(io.BytesIO(files["training.pt"]), weights_only=False)
        self.updates = state["updates"]
        self.algorithm._iteration = state["updates"]
        self.learner.set_state(state["learner"])
        group = self.algorithm.env_runner_group
        group.sync_weights(from_worker_or_learner_group=self.algorithm.learner_group, inference_only=True)
        runners = state["runners"]
        group.foreach_env_runner(
            lambda runner: runner.set_state(runners[runner.worker_index or 0]),
            local_env_runner=not self._has_remote_runners,
        )
        make_callback(
            "on_checkpoint_loaded",
            callbacks_objects=self.algorithm.callbacks,
            kwargs={"algorithm": self.algorithm},
        )

    def close(self) -> None:
        """Ends the algorithm's workers."""
        self.algorithm.stop()


def network_states(files: Mapping[str, bytes]) -> dict[str, dict[str, torch.Tensor]]:
    """The networks' state dicts out of a checkpoint's files, by network name, on the CPU."""
    return torch.load(io.BytesIO(files["networks.pt"]), weights_only=True, map_location="cpu")


def _what_was_sampled(runner: ArrayEnvRunner) -> tuple[list[FinishedEpisode], float, int]:
    return runner.take_finished_episodes(), runner.sample_s, runner.task


def _runner_state(runner: ArrayEnvRunner) -> tuple[int, dict[str, Any]]:
    state = runner.get_state(not_components=["rl_module"])
    return runner.worker_index or 0, state


def _to_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
