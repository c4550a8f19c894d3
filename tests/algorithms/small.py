"""The trials of `ant_grid`, small enough for a test."""

from __future__ import annotations

import torch

from lop_ray.algorithms import make_training
from lop_ray.algorithms.ppo.training import network_states
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.config.grid import load_grid, parse_assignment
from lop_ray.sweep import make_trials

SMALL = ("ant.num_envs=4", "ppo.batch_size=256", "ppo.minibatch_size=64", "ppo.num_epochs=2", "total_steps=2048")
EAGER = {  # interventions that act within a few gradient steps
    "cbp": {"cbp": {"maturity_threshold": 3, "replacement_rate": 0.01}},
    "redo": {"redo": {"threshold": 0.5, "period": 3}},
    "injection": {"plasticity_injection": {"when": "update", "every": 2}},
    "c_chain": {"c_chain": {"warm_up": 2, "networks": ["policy", "value"]}},
}
TIMES = ("sample_s", "learn_s", "diagnose_s", "evaluate_s", "wall_s")


def small_trial(variant: str = "std", seed: int = 0, flags: tuple[str, ...] = ()) -> TrialSpec:
    grid = load_grid("ant_grid", [parse_assignment(flag) for flag in (f"grid.variant=[{variant}]", *SMALL, *flags)])
    trial = make_trials(grid, [variant], [seed])[0]
    return trial.model_copy(update={"interventions": EAGER[variant]}) if variant in EAGER else trial


def train(trial: TrialSpec, updates: int, state: dict[str, bytes] | None = None):
    """Rows of some updates, and the state after them."""
    from callbacks.plasticity import PlasticityCallback

    training = make_training(trial, [PlasticityCallback])
    if state is not None:
        training.restore(state)
    rows = [without_times(training.update()) for _ in range(updates)]
    after = training.state()
    training.close()
    return rows, after


def without_times(rows):
    return {
        table: [{key: value for key, value in row.items() if key not in TIMES} for row in some]
        for table, some in rows.items()
    }


def assert_same_weights(a: dict[str, bytes], b: dict[str, bytes]) -> None:
    """The networks of two states are the same bit for bit."""
    first, second = network_states(a), network_states(b)
    assert first.keys() == second.keys()
    for network, weights in first.items():
        assert weights.keys() == second[network].keys()
        for name, tensor in weights.items():
            assert torch.equal(tensor, second[network][name]), f"{network}.{name}"
