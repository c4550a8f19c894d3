"""An env runner that fills fixed arrays: no Python object a step, no connectors."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import SAMPLE_TIMER, WEIGHTS_SEQ_NO
from torch.nn.utils import parametrize

from lop_ray.algorithms.ppo.fragment import Fragment
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.seeding import derive_seed, torch_generator


class FinishedEpisode(NamedTuple):
    """An episode that ended while a fragment was filled.

    Attributes:
        step: The fragment's step (0-based) at which it ended.
        task: Task that its last step was made in.
        episode_return: Undiscounted sum of rewards.
        length: Steps.
        terminated: Whether in a terminal state rather than at the time limit.
    """

    step: int
    task: int
    episode_return: float
    length: int
    terminated: bool


class ArrayEnvRunner(SingleAgentEnvRunner):
    """Collects a `Fragment` a call from a vector env that resets its copies in the same step.

    Making env and module, weight synchronisation, spaces and callbacks are inherited. The env must offer
    `get_state`/`set_state`, `tasks` [N], the task of each copy's next step, which is another array whenever a task
    has changed, and give `final_obs` [N, observation] in its infos whenever a copy's episode ends.
    """

    def __init__(self, *, config: Any, **kwargs: Any):
        super().__init__(config=config, **kwargs)
        self.finished_episodes: list[FinishedEpisode] = []
        self.observation_buffer: Any = None  # set and filled by a callback, saved with the runner
        self.sample_s = 0.0  # seconds that the latest `sample()` took
        self.task = 0  # latest task of its last step, over the copies
        self.next_task = 0  # latest task of the step that follows it
        self._needs_initial_reset: bool = True
        self._trial: TrialSpec = config.trial
        self._generator = torch_generator(self._trial.seed, "actions", self.worker_index or 0)
        self._obs: np.ndarray | None = None
        if self.env is not None:
            self._vector_env = self.env.unwrapped  # RLlib's wrapper turns infos into lists

    @override(EnvRunner)
    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Fragment]:
        """Collects steps from all copies.

        Args:
            num_timesteps: Env steps over all copies, rounded up to whole steps; default: the configured fragment.
            num_episodes: Not offered: whole episodes are for evaluation, which runs on its own.
            explore: Draw actions (default, as configured) or take the most likely ones.
            random_actions: Uniform actions from the action space (with the env's own generator).
            force_reset: Begin new episodes first.

        Returns:
            A list of one fragment.

        Raises:
            ValueError: `num_episodes` was given.
        """
        if num_episodes is not None:
            raise ValueError("ArrayEnvRunner collects steps, not episodes: ask for num_timesteps")
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, window=1)
        steps = (
            self.config.get_rollout_fragment_length(self.worker_index)
            if num_timesteps is None
            else -(-num_timesteps // self.num_envs)
        )
        if force_reset or self._obs is None:
            self._reset()
        start = time.perf_counter()
        with self.metrics.log_time(SAMPLE_TIMER):
            fragment = self._collect(steps, self.config.explore if explore is None else explore, random_actions)
        self.sample_s = time.perf_counter() - start
        self.task = int(fragment.tasks[-1].max())
        self.next_task = int(fragment.task.max())
        make_callback(
            "on_sample_end",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_sample_end,
            kwargs={"env_runner": self, "metrics_logger": self.metrics, "samples": [fragment]},
        )
        return [fragment]

    def _reset(self) -> None:
        seed = None
        if self._needs_initial_reset:
            seed = derive_seed(self._trial.seed, "env_runner", self.worker_index or 0)
        self._obs = self._vector_env.reset(seed=seed)[0].copy()
        self._needs_initial_reset = False
        self._episode_return = np.zeros(self.num_envs)
        self._episode_length = np.zeros(self.num_envs, np.int64)

    @torch.inference_mode()
    def _collect(self, steps: int, explore: bool, random_actions: bool) -> Fragment:
        env, module, copies = self._vector_env, self.module, self.num_envs
        assert module is not None
        module.eval()
        distribution = module.action_dist_cls
        # One row more than the fragment holds: the observation after the last step.
        obs = np.empty((steps + 1, copies, *env.single_observation_space.shape), env.single_observation_space.dtype)
        actions = np.empty((steps, copies, *env.single_action_space.shape), env.single_action_space.dtype)
        rewards = np.empty((steps, copies), np.float32)
        terminateds = np.zeros((steps, copies), bool)
        truncateds = np.zeros((steps, copies), bool)
        tasks = np.empty((steps, copies), np.int32)
        current, since = env.tasks, 0  # the tasks of the steps from `since` on
        noise = module.draw_noise((steps, copies), self._generator) if explore else None
        policies: list[Any] = []
        values: list[torch.Tensor] = []
        struck: list[tuple[int, int]] = []
        final_obs: list[np.ndarray] = []
        obs[0] = self._obs
        with parametrize.cached():  # weights stand still while sampling
            for t in range(steps):
                if random_actions:
                    actions[t] = env.action_space.sample()
                else:
                    policy, value = module.act(self._on_device(obs[t]))
                    policies.append(policy)
                    if value is not None:
                        values.append(value)
                    actions[t] = policies[t].act(None if noise is None else noise[t]).cpu().numpy()
                obs[t + 1], rewards[t], terminated, truncated, infos = env.step(actions[t])
                self._episode_return += rewards[t]
                self._episode_length += 1
                if infos:  # some episode ended
                    terminateds[t], truncateds[t] = terminated, truncated
                    for n in np.flatnonzero(terminated | truncated):
                        self._finish_episode(t, int(n), int(current[n]), bool(terminated[n]))
                        if not terminated[n]:
                            struck.append((t, int(n)))
                            final_obs.append(infos["final_obs"][n].copy())
                if env.tasks is not current:
                    tasks[since : t + 1] = current
                    current, since = env.tasks, t + 1
        tasks[since:] = current
        self._obs = obs[steps]
        if random_actions:
            logp = np.full((steps, copies), np.nan, np.float32)
        else:
            actions_tensor = torch.from_numpy(actions).to(self._device)
            logp = distribution.stack(policies).logp(actions_tensor).cpu().numpy()
        self._increase_sampled_metrics(steps * copies, 0)
        self.num_env_steps_sampled_lifetime += steps * copies
        return Fragment(
            obs=obs[:steps],
            actions=actions,
            logp=logp,
            rewards=rewards,
            terminateds=terminateds,
            truncateds=truncateds,
            final_values_at=np.array(struck, np.int64).reshape(-1, 2),
            final_obs=np.array(final_obs, obs.dtype).reshape(-1, *obs.shape[2:]),
            last_obs=obs[steps],
            tasks=tasks,
            task=np.array(current),
            values=torch.stack(values).cpu().numpy() if values else None,
        )

    def _on_device(self, obs: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(obs).to(self._device)

    def _finish_episode(self, step: int, copy: int, task: int, terminated: bool) -> None:
        self.finished_episodes.append(
            FinishedEpisode(
                step=step,
                task=task,
                episode_return=float(self._episode_return[copy]),
                length=int(self._episode_length[copy]),
                terminated=terminated,
            )
        )
        self._episode_return[copy] = 0.0
        self._episode_length[copy] = 0

    def take_finished_episodes(self) -> list[FinishedEpisode]:
        """The episodes that ended since the last call."""
        finished, self.finished_episodes = self.finished_episodes, []
        return finished

    @override(EnvRunner)
    def get_metrics(self) -> Any:
        """RLlib's own counters and timers; episodes are rows of ours."""
        return self.metrics.reduce()

    @override(SingleAgentEnvRunner)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, and in component "sampler" what it leaves out: env, generators, open episodes, buffer."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component("sampler", components, not_components) and self._obs is not None:
            state["sampler"] = {
                "env": self._vector_env.get_state(),
                "obs": self._obs.copy(),
                "episode_return": self._episode_return.copy(),
                "episode_length": self._episode_length.copy(),
                "generator": self._generator.get_state(),
                "observation_buffer": self.observation_buffer,
            }
        return state

    @override(SingleAgentEnvRunner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Takes back what `get_state` gave; the next `sample()` continues bit for bit."""
        super().set_state(state)
        sampler = state.get("sampler")
        if sampler is None or self.env is None:
            return
        self._reset()
        self._vector_env.set_state(sampler["env"])
        self._obs = sampler["obs"].copy()
        self._episode_return = sampler["episode_return"].copy()
        self._episode_length = sampler["episode_length"].copy()
        self._generator.set_state(sampler["generator"])
        self.observation_buffer = sampler["observation_buffer"]
