"""What the hardware allows on CoinRun: gym3 with the bare network's forward pass, and the bare PyTorch update.

    python -m benchmarks.procgen_floors

also sets our environment and network, without RLlib around them, beside them.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time

import numpy as np
import torch
from torch import nn

COPIES, ACTIONS, BATCH, MINIBATCH, EPOCHS, FRAMES = 8, 9, 1024, 64, 3, 2


def bare_network() -> nn.Module:
    """Convolutions of kernel 4, stride 2, padding 1, a Linear of 256, and nine logits and a value in one head."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 128)):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, ACTIONS + 1))


def as_input(images: torch.Tensor) -> torch.Tensor:
    """Bytes [B, 64, 64, 3] -> [B, 3, 64, 64] in [0, 1], in the order of memory that a CPU is fastest with."""
    return images.float().div_(255).permute(0, 3, 1, 2)


class SamplingFloor:
    """gym3's frames and one forward pass a step: no episodes' bookkeeping, no step limit, nothing stored.

    Args:
        copies: Copies of the game.
        threads: Threads that step them.
    """

    def __init__(self, copies: int = COPIES, threads: int = 1):
        with contextlib.redirect_stderr(io.StringIO()):
            from procgen import ProcgenGym3Env
        self._env = ProcgenGym3Env(
            num=copies,
            env_name="coinrun",
            distribution_mode="easy",
            num_levels=100,
            start_level=0,
            paint_vel_info=True,
            rand_seed=0,
            num_threads=0 if threads == 1 else threads,
        )
        self._network = bare_network()
        self._copies = copies

    @torch.inference_mode()
    def seconds(self, steps: int = BATCH, *, forward: bool = True) -> float:
        """Seconds for `steps` env steps over all copies, two frames each; without `forward`, of gym3 alone."""
        images = torch.from_numpy(self._env.observe()[1]["rgb"])
        actions = np.random.default_rng(0).integers(0, ACTIONS, self._copies).astype(np.int32)
        start = time.perf_counter()
        for _ in range(steps // self._copies):
            if forward:
                logits = self._network(as_input(images))[:, :ACTIONS]
                noise = torch.rand_like(logits).log_().neg_().log_()  # the argmax of logits - noise is a draw
                actions = (logits - noise).argmax(1).int().numpy()
            for _ in range(FRAMES):
                self._env.act(actions)
                images = torch.from_numpy(self._env.observe()[1]["rgb"])
        return time.perf_counter() - start


class UpdateFloor:
    """PPO's epochs x minibatches in plain PyTorch: clipped loss, value, entropy, gradient clip, fused AdamW."""

    def __init__(self) -> None:
        self._network = bare_network()
        self._parameters = list(self._network.parameters())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=5e-4, fused=True)
        self._obs = torch.randint(0, 256, (BATCH, 64, 64, 3), dtype=torch.uint8)
        self._actions = torch.randint(0, ACTIONS, (BATCH, 1))
        self._advantages, self._returns = torch.randn(BATCH), torch.randn(BATCH)
        self._logp = torch.full((BATCH, 1), -np.log(ACTIONS))

    def seconds(self) -> float:
        """Seconds for one update: 3 epochs of 16 minibatches of 64."""
        start = time.perf_counter()
        for _ in range(EPOCHS):
            for rows in torch.randperm(BATCH).split(MINIBATCH):
                outputs = self._network(as_input(self._obs[rows]))
                logp = outputs[:, :ACTIONS].log_softmax(1)
                ratio = (logp.gather(1, self._actions[rows]) - self._logp[rows]).exp().squeeze(1)
                advantages = self._advantages[rows]
                surrogate = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
                value_loss = (outputs[:, ACTIONS] - self._returns[rows]).square().mean()
                entropy = -(logp.exp() * logp).sum(1).mean()
                self._optimizer.zero_grad()
                (0.5 * value_loss - surrogate - 0.02 * entropy).backward()
                torch.nn.utils.clip_grad_norm_(self._parameters, 0.5)
                self._optimizer.step()
        return time.perf_counter() - start


class BareSampling:
    """Our environment and network in the same loop, without RLlib, to see what they add to the floor."""

    def __init__(self, copies: int = COPIES, threads: int = 1):
        from lop_ray.networks.conv import ConvNet, ConvOptions
        from lop_ray.problems.procgen import ProcgenOptions, VectorProcgen

        self._env = VectorProcgen(ProcgenOptions(num_envs=copies), num_threads=threads)
        self._network = ConvNet((64, 64, 3), {"policy": ACTIONS, "value": 1}, ConvOptions(), seed=0)
        self._copies = copies
        self._images = self._env.reset(seed=0)[0]

    @torch.inference_mode()
    def seconds(self, steps: int = BATCH, *, forward: bool = True) -> float:
        """Seconds for `steps` env steps over all copies; without `forward`, of the environment alone."""
        actions = np.random.default_rng(0).integers(0, ACTIONS, self._copies)
        start = time.perf_counter()
        for _ in range(steps // self._copies):
            if forward:
                logits = self._network(torch.from_numpy(self._images))[:, :ACTIONS]
                noise = torch.rand_like(logits).log_().neg_().log_()
                actions = (logits - noise).argmax(1).numpy()
            self._images = self._env.step(actions)[0]
        return time.perf_counter() - start


def main() -> None:
    """Prints seconds for 256 steps: medians over rounds in which everything takes its turn; and for one update."""
    torch.set_num_threads(1)
    steps, floor, ours = 256, SamplingFloor(), BareSampling()
    rounds = []
    for i in range(6):
        took = {
            "gym3": floor.seconds(steps, forward=False),
            "our environment": ours.seconds(steps, forward=False),
            "gym3 and forward": floor.seconds(steps),
            "our environment and network": ours.seconds(steps),
        }
        if i:  # the first warms up
            rounds.append(took)
    for name in rounds[0]:
        values = [took[name] for took in rounds]
        print(f"{name:30} {statistics.median(values):.3f} s  ({min(values):.3f} - {max(values):.3f})")
    print(f"{'update of 1,024':30} {UpdateFloor().seconds():.3f} s")
    ratio = [took["gym3 and forward"] / took["our environment and network"] for took in rounds]
    print(f"{'of the floor':30} {statistics.median(ratio):.3f}    ({min(ratio):.3f} - {max(ratio):.3f})")


if __name__ == "__main__":
    main()
