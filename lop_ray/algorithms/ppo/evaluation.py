"""Evaluation on what training never sees: held-out levels, with env copies and generators of its own."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch.nn.utils import parametrize

from lop_ray.algorithms.ppo.module import ActorCritic
from lop_ray.algorithms.ppo.options import EvaluationOptions
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.networks import evaluation_mode
from lop_ray.problems import find_problem
from lop_ray.seeding import derive_seed, torch_generator


class Evaluation:
    """Plays whole episodes on held-out data of the current task every so many updates.

    Nothing that training depends on is read or moved but the weights: env copies, levels and action noise come from
    the trial's seed and the update's number alone, so an evaluation is the same after a restart.

    Args:
        trial: What is trained.
        options: When, and how many episodes.
    """

    def __init__(self, trial: TrialSpec, options: EvaluationOptions):
        self._trial, self._options = trial, options
        self._env: VectorEnv | None = None
        self._task = -1

    def due(self, update: int) -> bool:
        """Whether this update is followed by an evaluation."""
        return update % self._options.every_updates == 0

    def run(self, module: ActorCritic, update: int, task: int) -> dict[str, Any]:
        """Plays the episodes.

        Every copy plays the same number of whole episodes, so short ones do not count more often than long ones.

        Args:
            module: Policy in training; mode and weights stay.
            update: Updates so far; picks levels and noise.
            task: The problem's.

        Returns:
            A row of table `evaluations`, without its place.
        """
        start = time.perf_counter()
        env = self._env_of(task)
        generator = torch_generator(self._trial.seed, "evaluation", "actions", update)
        seed = derive_seed(self._trial.seed, "evaluation", "env", update)
        rounds = -(-self._options.episodes // env.num_envs)
        with evaluation_mode(module):
            returns, lengths = play(module, env, rounds, seed, generator if self._options.explore else None)
        return {
            "split": "test",
            "episodes": len(returns),
            "episode_return_mean": float(returns.mean()),
            "episode_return_std": float(returns.std(ddof=1)) if len(returns) > 1 else None,
            "length_mean": float(lengths.mean()),
            "returns": returns.astype(np.float32).tolist(),
            "evaluate_s": time.perf_counter() - start,
        }

    def _env_of(self, task: int) -> VectorEnv:
        if self._env is None or task != self._task:
            self.close()
            trial = self._trial
            problem = find_problem(trial.problem)
            options = problem.Options(**trial.problem_options)
            threads = trial.resources.cpus
            self._env = problem.make_held_out(options, task=task, num_threads=threads, task_seed=trial.seed)
            self._task = task
        return self._env

    def close(self) -> None:
        """Ends the env copies."""
        if self._env is not None:
            self._env.close()
            self._env = None


@torch.inference_mode()
def play(
    module: ActorCritic, env: VectorEnv, rounds: int, seed: int, generator: torch.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Plays `rounds` whole episodes in every copy.

    Args:
        module: In evaluation mode.
        env: N copies that reset in the same step.
        rounds: Episodes a copy.
        seed: Of the env.
        generator: Source of the actions' noise, on the CPU; None: the most likely actions.

    Returns:
        Undiscounted returns and lengths [N rounds], copy by copy.
    """
    copies = env.num_envs
    returns, lengths = np.zeros((copies, rounds)), np.zeros((copies, rounds), np.int64)
    finished = np.zeros(copies, np.int64)
    device = next(module.parameters()).device
    observations, _ = env.reset(seed=seed)
    with parametrize.cached():
        while (finished < rounds).any():
            policy, _ = module.act(torch.from_numpy(observations).to(device))
            noise = None if generator is None else module.draw_noise((copies,), generator).to(device)
            observations, rewards, terminated, truncated, _ = env.step(policy.act(noise).cpu().numpy())
            playing = np.flatnonzero(finished < rounds)
            returns[playing, finished[playing]] += rewards[playing]
            lengths[playing, finished[playing]] += 1
            finished += terminated | truncated
    return returns.ravel(), lengths.ravel()
