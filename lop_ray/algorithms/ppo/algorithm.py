"""PPO for plasticity experiments: RLlib's PPO, its training step unchanged, on the seams beside this file."""

from __future__ import annotations

import tempfile
from functools import cached_property
from typing import Any

import gymnasium as gym
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override
from ray.tune.registry import register_env

from lop_ray.algorithms.ppo.diagnosis import PPODiagnosis
from lop_ray.algorithms.ppo.env_runner import ArrayEnvRunner
from lop_ray.algorithms.ppo.learner import PlasticityLearner
from lop_ray.algorithms.ppo.module import ActorCritic
from lop_ray.algorithms.ppo.options import PPOOptions
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.training import Rows
from lop_ray.diagnostics import DiagnosticSuite
from lop_ray.problems import make_problem

_ENV = "lop_ray_problem"


def _make_env(context: dict[str, Any]) -> gym.vector.VectorEnv:
    trial: TrialSpec = context["trial"]
    options = {**trial.problem_options, "num_envs": context["num_envs"]}
    return make_problem(
        trial.problem,
        options,
        num_threads=context["threads"],
        task_seed=trial.seed,
        trial_copies=trial.problem_options["num_envs"],
    )


class PlasticityPPOConfig(PPOConfig):
    """RLlib's configuration of one trial; build it with `for_trial`."""

    trial: TrialSpec

    @classmethod
    def for_trial(cls, trial: TrialSpec, callbacks: list[type] | None = None) -> PlasticityPPOConfig:
        """The configuration of `trial`.

        Args:
            trial: Its specification.
            callbacks: RLlib callback classes.

        Returns:
            A configuration ready for `build_algo()`.

        Raises:
            ValueError: Env copies cannot be shared out over runners, or do not divide the batch.
        """
        options = PPOOptions(**trial.algorithm_options)
        runners = trial.resources.env_runners
        copies = trial.problem_options["num_envs"]
        if copies % max(1, runners):
            raise ValueError(f"{copies} env copies cannot be shared out over {runners} env runners; choose a multiple")
        if options.batch_size % copies:
            raise ValueError(f"num_envs {copies} does not divide ppo.batch_size {options.batch_size}; choose a divisor")
        register_env(_ENV, _make_env)
        config = cls(algo_class=PlasticityPPO)
        config.trial = trial
        config.environment(_ENV, env_config={"trial": trial, "threads": 1 if runners else trial.resources.cpus})
        config.env_runners(
            env_runner_cls=ArrayEnvRunner,
            gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
            num_env_runners=runners,
            num_envs_per_env_runner=copies // max(1, runners),
            rollout_fragment_length="auto",
        )
        config.learners(
            num_learners=0,
            num_gpus_per_learner=trial.resources.gpus,
            add_default_connectors_to_learner_pipeline=False,
        )
        config.framework("torch", torch_skip_nan_gradients=True)  # the learner checks for itself
        config.training(
            lr=options.lr,
            gamma=options.gamma,
            lambda_=options.gae_lambda,
            clip_param=options.clip_param,
            train_batch_size_per_learner=options.batch_size,
            minibatch_size=options.minibatch_size,
            num_epochs=options.num_epochs,
            use_kl_loss=False,
        )
        config.rl_module(model_config={"trial": trial})
        config.debugging(log_level="ERROR", seed=None)
        config.callbacks(callbacks or [])
        config._dont_auto_sync_env_runner_states = True  # there are no stateful connectors
        return config

    @override(PPOConfig)
    def get_default_learner_class(self) -> type[PlasticityLearner]:
        """Our learner."""
        return PlasticityLearner

    @override(PPOConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Our module."""
        return RLModuleSpec(module_class=ActorCritic)


class PlasticityPPO(PPO):
    """RLlib's PPO with our env runner, module and learner.

    `diagnostics` is set by the callback that runs them (None where none does), as are the rows and seconds of the
    latest update.
    """

    diagnostics: DiagnosticSuite | None = None
    diagnostic_rows: Rows = {}  # noqa: RUF012  replaced, never changed
    diagnose_s = 0.0

    @classmethod
    @override(PPO)
    def get_default_config(cls) -> AlgorithmConfig:
        """An empty configuration; `PlasticityPPOConfig.for_trial` fills one."""
        return PlasticityPPOConfig()

    @override(PPO)
    def setup(self, config: AlgorithmConfig) -> None:
        """Bounds torch to one thread first: spinning OpenMP workers would compete with the physics threads."""
        torch.set_num_threads(1)
        super().setup(config)

    @property
    def learner(self) -> PlasticityLearner:
        """The learner, in this process."""
        return self.learner_group._learner

    @cached_property
    def diagnosis(self) -> PPODiagnosis:
        """What callbacks may ask of its training."""
        return PPODiagnosis(self.learner)

    @override(PPO)
    def _setup_logdir(self, *args: Any, **kwargs: Any) -> None:
        # RLlib would make an empty folder below the home directory, for logs that nothing writes.
        self._logdir = tempfile.gettempdir()
