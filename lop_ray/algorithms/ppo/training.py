"""PPO as a training that a trial can run."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from typing import Any

import ray
import torch
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE

from lop_ray.algorithms.ppo.algorithm import PlasticityPPOConfig
from lop_ray.algorithms.ppo.env_runner import ArrayEnvRunner, FinishedEpisode
from lop_ray.algorithms.ppo.evaluation import Evaluation
from lop_ray.algorithms.ppo.learner import PlasticityLearner
from lop_ray.algorithms.ppo.options import PPOOptions
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.stored import to_bytes
from lop_ray.algorithms.training import Rows


class PPOTraining:
    """A `PlasticityPPO` algorithm, one update a call.

    Args:
        trial: What to train.
        callbacks: RLlib callback classes. One that leaves `diagnostic_rows` (rows by table) and
            `diagnose_s` on the algorithm in `on_train_result` has them written with the update. One that leaves
            `diagnostics` there in `on_algorithm_init` has them prepared before every update and their state saved.

    Rows carry the latest task of the batch's last step. When the env copies have moved on to a later task, the
    interventions are told at the end of the update: after the gradient steps on what the old weights sampled, and
    before the next sampling, which is done with the weights that they leave.
    """

    def __init__(self, trial: TrialSpec, callbacks: list[type] | None = None):
        config = PlasticityPPOConfig.for_trial(trial, callbacks)
        self.algorithm = config.build_algo()
        evaluation = PPOOptions(**trial.algorithm_options).evaluation
        self._evaluation = None if evaluation is None else Evaluation(trial, evaluation)
        self._copies: int = trial.problem_options["num_envs"]
        self._steps_an_update: int = config.train_batch_size_per_learner
        self.updates = 0
        self.task = 0  # the latest that the interventions know of

    @property
    def env_steps(self) -> int:
        """Environment steps so far, over all copies."""
        return self.updates * self._steps_an_update

    @property
    def learner(self) -> PlasticityLearner:
        """The learner, in this process."""
        return self.algorithm.learner

    def update(self) -> Rows:
        """One iteration of the algorithm: sample, learn, diagnose."""
        algorithm = self.algorithm
        algorithm.diagnostic_rows, algorithm.diagnose_s = {}, 0.0
        if algorithm.diagnostics is not None:  # not in a callback after the last update: tasks change after those
            start = time.perf_counter()
            algorithm.diagnostics.prepare(self.updates + 1, algorithm.diagnosis)
            algorithm.diagnose_s = time.perf_counter() - start
        before = self.env_steps
        algorithm.train()
        self.updates += 1
        sampled = algorithm.env_runner_group.foreach_env_runner(
            _what_was_sampled, local_env_runner=not self._has_remote_runners
        )
        episodes = [self._episode_row(before, episode) for finished, *_ in sampled for episode in finished]
        returns = [row["episode_return"] for row in episodes]
        place = {
            "update": self.updates,
            "env_steps": self.env_steps,
            "task": max(task for _, _, task, _ in sampled),
        }
        row = {
            **place,
            **self.learner.last_update,
            "episodes": len(episodes),
            "episode_return_mean": sum(returns) / len(returns) if returns else None,
            "sample_s": max(seconds for _, seconds, *_ in sampled),
            "learn_s": self.learner.learn_s,
            "diagnose_s": algorithm.diagnose_s,
        }
        diagnosed = {
            table: [{**place, **row} for row in rows] for table, rows in algorithm.diagnostic_rows.items() if rows
        }
        rows: Rows = {"updates": [row], "episodes": episodes, **diagnosed}
        if self._evaluation is not None and self._evaluation.due(self.updates):
            result = self._evaluation.run(self.learner.actor_critic, self.updates, place["task"])
            rows["evaluations"] = [{**place, **result}]
        self._enter_task(max(next_task for *_, next_task in sampled))
        return rows

    def _enter_task(self, task: int) -> None:
        """Tells the interventions of every task that has begun, and the env runners of the weights that are left."""
        if task == self.task:
            return
        for each in range(self.task + 1, task + 1):
            self.learner.interventions.at_task_change(each)
        self.task = task
        self._send_weights()

    def _send_weights(self) -> None:
        """Gives all env runners the learner's weights, before they do anything else.

        RLlib's `sync_weights` is for weights of a new update: it skips a runner whose weights are of this update
        already, and one that has not yet answered to an earlier synchronisation.
        """
        weights = self.learner.module.get_state(inference_only=True)
        if self._has_remote_runners:
            weights = ray.put(weights)
        self.algorithm.env_runner_group.foreach_env_runner(
            lambda runner: runner.set_state({COMPONENT_RL_MODULE: weights}),
            local_env_runner=not self._has_remote_runners,
        )

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
        training = {
            "updates": self.updates,
            "task": self.task,
            "observation_shape": tuple(self.learner.actor_critic.observation_space.shape),
            "actions": self.learner.actor_critic.actions,
            "learner": self.learner.get_state(),
            "runners": dict(runners),
            "diagnostics": {} if self.algorithm.diagnostics is None else self.algorithm.diagnostics.state_dict(),
        }
        return {"training.pt": to_bytes(training), "networks.pt": to_bytes(networks)}

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Continues from `state()`; call it on a fresh training only."""
        state = torch.load(io.BytesIO(files["training.pt"]), weights_only=False)
        self.updates = state["updates"]
        self.task = state.get("task", 0)  # not in checkpoints from before there were tasks
        self.algorithm._iteration = state["updates"]
        self.learner.set_state(state["learner"])
        self._send_weights()
        if self.algorithm.diagnostics is not None:
            self.algorithm.diagnostics.load_state_dict(
                state.get("diagnostics", {}), self.learner.actor_critic.networks()
            )
        runners = state["runners"]
        self.algorithm.env_runner_group.foreach_env_runner(
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
        if self._evaluation is not None:
            self._evaluation.close()
        self.algorithm.stop()


def network_states(files: Mapping[str, bytes]) -> dict[str, dict[str, torch.Tensor]]:
    """The networks' state dicts out of a checkpoint's files, by network name, on the CPU."""
    return torch.load(io.BytesIO(files["networks.pt"]), weights_only=True, map_location="cpu")


def _what_was_sampled(runner: ArrayEnvRunner) -> tuple[list[FinishedEpisode], float, int, int]:
    return runner.take_finished_episodes(), runner.sample_s, runner.task, runner.next_task


def _runner_state(runner: ArrayEnvRunner) -> tuple[int, dict[str, Any]]:
    state = runner.get_state(not_components=["rl_module"])
    return runner.worker_index or 0, state
