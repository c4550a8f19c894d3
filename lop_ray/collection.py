"""Observations gathered with a stored policy on what its trial held out from training.

The spectrum of a feature matrix [N, D] needs N well above D: kai666-song/rl-plasticity-specnorm asks for N >= 10 D,
2,560 images for 256 features (`analyze_features.py`), and takes them from held-out levels. So does this; but there the
actions are drawn uniformly, here the policy draws them by default, so that the images are those it would come to see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.errors import UserError
from lop_ray.networks import hidden_layers, trainable_weight
from lop_ray.problems import find_problem
from lop_ray.seeding import derive_seed, torch_generator

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

Actor = Literal["policy", "random"]

SAMPLES_PER_FEATURE = 10

DIAGNOSTICS = (
    "margins",
    "dormant",
    "features",
    "ranks",
    "signal",
    "gradients",
    "weights",
    "weight_spectrum",
    "spectral_norm_error",
)
"""What is measured on collected observations by default; the others take minutes to hours on images."""

RANKS = ("stable_rank", "effective_rank", "centred_effective_rank", "feature_rank", "pca_rank")
"""Ranks of collected observations by default."""

Tables = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def features_of_last_layer(network: nn.Module) -> int:
    """D: how many numbers the heads read."""
    return int(trainable_weight(hidden_layers(network)[-1].readers[0]).shape[1])


def holds_out(trial: TrialSpec) -> bool:
    """Whether the trial's problem has held-out data to act on, and the trial a policy that `collect` can follow."""
    problem = find_problem(trial.problem)
    return problem.kind == "env" and problem.holds_out


def collect(trial: TrialSpec, policy: nn.Module, count: int, *, task: int, update: int, actor: Actor) -> Tensor:
    """Acts on held-out data of one task, in as many copies as the trial trained with.

    Levels and actions come from streams of the trial's seed and the update's number, which training has no part in.
    Copies begin with a new episode each, and the steps of all are kept, so N is `count` rounded up to whole steps and
    then cut.

    Args:
        trial: What was trained.
        policy: The network whose first outputs are the logits of the actions; it is put in evaluation mode.
        count: How many observations, N.
        task: Which task of the problem.
        update: Updates of the trial when the policy was stored.
        actor: policy: draw actions from its distribution. random: draw them uniformly (the source's analysis).

    Returns:
        [N, ...], time-major: the first observation of every copy, then the second, ...

    Raises:
        UserError: The problem's actions are not one of a number.
        ValueError: It holds nothing out.
    """
    problem = find_problem(trial.problem)
    options = problem.Options(**trial.problem_options)
    env = problem.make_held_out(options, task=task, task_seed=trial.seed)
    try:
        return _act(env, policy.eval(), count, trial.seed, update, actor)
    finally:
        env.close()


@torch.no_grad()
def _act(env: VectorEnv, policy: nn.Module, count: int, seed: int, update: int, actor: Actor) -> Tensor:
    actions = getattr(env.single_action_space, "n", None)
    if actions is None:
        raise UserError("--collect: acts where an action is one of a number of choices, which this problem's are not")
    generator = torch_generator(seed, "collection", "actions", update)
    observations, _ = env.reset(seed=derive_seed(seed, "collection", "env", update))
    kept = []
    for _ in range(-(-count // env.num_envs)):
        kept.append(observations.copy())
        if actor == "policy":
            shares = policy(torch.from_numpy(observations))[:, : int(actions)].softmax(1)
        else:
            shares = torch.ones(env.num_envs, int(actions))
        chosen = torch.multinomial(shares, 1, generator=generator).squeeze(1)
        observations = env.step(chosen.numpy())[0]
    return torch.from_numpy(np.concatenate(kept)[:count])


def last_layer_summary(found: Tables) -> dict[str, dict[str, str]]:
    """The numbers of the source's analyses, for each network: of its last hidden layer, and down and up its layers.

    Args:
        found: Rows by diagnostic and table, as they are written.

    Returns:
        By number, by network; only what was measured.
    """
    summary: dict[str, dict[str, str]] = {}
    for diagnostic, column, title, share in _OF_LAST_LAYER:
        for network, rows in _by_network(found, diagnostic).items():
            value, units = rows[-1].get(column), rows[-1]["units"]
            if value is not None:
                of_units = f"{value} of {units} ({value / units:.2%})" if share == "of units" else ""
                summary.setdefault(title, {})[network] = of_units or (f"{value:.2%}" if share else f"{value:.4g}")
    for diagnostic, column, title in _ALONG_LAYERS:
        for network, rows in _by_network(found, diagnostic).items():
            norms = [row[column] for row in rows]
            decay = f" (last / first {norms[-1] / norms[0]:.3g})" if norms[0] else ""
            summary.setdefault(title, {})[network] = " ".join(f"{norm:.3g}" for norm in norms) + decay
    errors: dict[str, list[float]] = {}
    for row in found.get("spectral_norm_error", {}).get("probes", ()):
        if row["probe"] == "spectral_norm_error" and row["metric"] != "failed":
            errors.setdefault(row["network"], []).append(abs(row["value"]))
    for network, values in errors.items():
        text = f"{max(values):.2%} at most, of {len(values)} weights"
        summary.setdefault("power iteration below SVD", {})[network] = text
    return summary


_OF_LAST_LAYER = (
    ("features", "never_active", "never active", "of units"),
    ("dormant", "activation_rate", "activation rate", "share"),
    ("features", "sparsity", "activations that are 0", "share"),
    ("ranks", "effective_rank", "effective rank", ""),
    ("ranks", "centred_effective_rank", "effective rank, centred", ""),
    ("ranks", "stable_rank", "stable rank", ""),
)
_ALONG_LAYERS = (
    ("signal", "pre_activation_norm", "norm of pre-activations, by layer"),
    ("signal", "activation_norm", "norm of activations, by layer"),
    ("gradients", "gradient_norm", "norm of gradients, by layer"),
)


def _by_network(found: Tables, diagnostic: str) -> dict[str, list[Mapping[str, Any]]]:
    networks: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(found.get(diagnostic, {}).get("layers", ()), key=lambda row: row["layer"]):
        networks.setdefault(row["network"], []).append(row)
    return networks
