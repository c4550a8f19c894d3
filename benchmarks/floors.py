"""What the hardware allows: bare MuJoCo stepping, and the bare PyTorch update."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import gymnasium as gym
import mujoco
import numpy as np
import torch
from torch import nn

OBSERVATIONS, ACTIONS, BATCH, MINIBATCH, EPOCHS = 111, 8, 2048, 128, 10
SUBSTEPS = 5


def fastest(seconds: Callable[[], float], cpus: int) -> float:
    """The least of what something takes on 1 to `cpus` of PyTorch's threads; afterwards there is one again."""
    by_threads = []
    for threads in range(1, cpus + 1):
        torch.set_num_threads(threads)
        by_threads.append(seconds())
    torch.set_num_threads(1)
    time.sleep(0.3)  # OpenMP's idle threads spin for 0.2 s, and would take the next measurement's cores
    return min(by_threads)


class PhysicsFloor:
    """The Ant's physics alone: `mj_step` and the contact forces, split evenly over threads, resets included.

    Args:
        copies: How many ants.
        threads: Threads that share them.
    """

    def __init__(self, copies: int, threads: int):
        xml = f"{gym.__path__[0]}/envs/mujoco/assets/ant.xml"
        self._ants = []
        for k in range(copies):
            model = mujoco.MjModel.from_xml_path(xml)
            self._ants.append((model, mujoco.MjData(model), np.random.default_rng(k)))
        self._threads = threads

    def seconds(self, steps: int) -> float:
        """Seconds for `steps` env steps over all copies, with actions as an untrained policy draws them."""
        each = steps // len(self._ants)
        actions = np.random.default_rng(0).standard_normal((each, ACTIONS))
        start = time.perf_counter()
        groups = [self._ants[i :: self._threads] for i in range(self._threads)]
        helpers = [threading.Thread(target=_step, args=(group, actions)) for group in groups[1:]]
        for helper in helpers:
            helper.start()
        _step(groups[0], actions)
        for helper in helpers:
            helper.join()
        return time.perf_counter() - start


def _step(ants: list, actions: np.ndarray) -> None:
    for action in actions:
        for model, data, rng in ants:
            data.ctrl[:] = action
            mujoco.mj_step(model, data, SUBSTEPS)
            mujoco.mj_rnePostConstraint(model, data)
            if not 0.2 <= data.qpos[2] <= 1.0:
                mujoco.mj_resetData(model, data)
                data.qpos[:] += rng.uniform(-0.1, 0.1, model.nq)
                mujoco.mj_forward(model, data)


class UpdateFloor:
    """PPO's epochs x minibatches in plain PyTorch: two networks, the clipped loss, fused Adam, nothing else.

    Args:
        width: Of both hidden layers of both networks.
    """

    def __init__(self, width: int = 256) -> None:
        def network(outputs: int) -> nn.Sequential:
            first, second = nn.Linear(OBSERVATIONS, width), nn.Linear(width, width)
            return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(width, outputs))

        torch.manual_seed(0)
        self._policy, self._value = network(ACTIONS), network(1)
        self._log_std = nn.Parameter(torch.zeros(ACTIONS))
        parameters = [*self._policy.parameters(), *self._value.parameters(), self._log_std]
        self._optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)
        self._obs = torch.randn(BATCH, OBSERVATIONS)
        self._actions = torch.randn(BATCH, ACTIONS)
        self._advantages = torch.randn(BATCH)
        self._returns = torch.randn(BATCH)
        with torch.no_grad():
            self._logp = self._logp_of(self._obs, self._actions)

    def _logp_of(self, obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Normal(self._policy(obs), self._log_std.exp()).log_prob(actions).sum(-1)

    def seconds(self) -> float:
        """Seconds for one update: 10 epochs of 16 minibatches of 128."""
        start = time.perf_counter()
        for _ in range(EPOCHS):
            for rows in torch.randperm(BATCH).split(MINIBATCH):
                ratio = (self._logp_of(self._obs[rows], self._actions[rows]) - self._logp[rows]).exp()
                advantages = self._advantages[rows]
                policy_loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
                value_loss = (self._value(self._obs[rows]).squeeze(-1) - self._returns[rows]).pow(2).mean()
                self._optimizer.zero_grad()
                (policy_loss + value_loss).backward()
                self._optimizer.step()
        return time.perf_counter() - start
