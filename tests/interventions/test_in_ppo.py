"""Interventions inside RLlib's PPO, on real Ant, small: resumption, and copies of the networks that follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lop_ray.algorithms import make_training
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.networks import hidden_layers
from tests.algorithms.small import assert_same_weights, small_trial, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

TOGETHER: dict[str, dict[str, dict[str, Any]]] = {
    "kill": {
        "kill_units": {"percent": 25, "at_update": 2},
        "effective_rank": {"period": 4},
        "shrink_perturb": {"when": "gradient_step", "shrink": 0.999, "perturb": 1e-3},
        "l2_init": {"form": "norm"},
    },
    "reset": {
        "spectral_norm": {},
        "reset": {"when": "update", "every": 2},
        "weight_clipping": {},
        "parseval": {},
        "activation_clamping": {},
    },
    "walk": {
        "random_walk": {},
        "weight_projection": {},
        "spectral_regularisation": {"start": "running", "power_iterations": 1},
        "bias_clipping": {},
        "resurrection": {},
    },
}


def _trial(spec: dict[str, dict[str, Any]]) -> TrialSpec:
    return small_trial("ns").model_copy(update={"interventions": spec})


@pytest.mark.parametrize("name", TOGETHER)
def test_half_and_half_equals_straight_bit_for_bit(name: str) -> None:
    trial = _trial(TOGETHER[name])
    straight, end = train(trial, 5)
    first, middle = train(trial, 2)
    second, resumed_end = train(trial, 3, state=middle)
    assert repr(straight) == repr(first + second)
    assert_same_weights(end, resumed_end)


def test_killed_units_are_dead_in_the_policy_that_acts_and_in_the_rows() -> None:
    training = make_training(_trial({"kill_units": {"percent": 25, "at_update": 1}}), [])
    training.update()
    training.update()
    learner = training.learner.actor_critic.policy
    acting = training.algorithm.env_runner.module.policy
    for mine, theirs in zip(hidden_layers(learner), hidden_layers(acting), strict=True):
        assert mine.activation.killed.sum() == 64
        assert torch.equal(mine.activation.killed, theirs.activation.killed)
    training.close()
    rows, _ = train(_trial({"kill_units": {"percent": 25, "at_update": 1}}), 2)
    assert all(row["dead"] >= 64 for row in rows[1]["layers"])


def test_the_oracle_resets_log_std_and_all_moments() -> None:
    training = make_training(_trial({"reset": {"when": "update", "every": 2}}), [])
    training.update()
    optimizer = training.learner.get_optimizer("default_policy")
    log_std = training.learner.actor_critic.log_std
    before = training.learner.actor_critic.policy.head.weight.detach().clone()
    assert log_std.abs().max() > 0
    assert len(optimizer.state) == 2 * 6 + 1
    training.update()
    assert (log_std == 0).all()
    assert not optimizer.state
    assert not torch.allclose(before, training.learner.actor_critic.policy.head.weight, atol=0.01)
    training.close()
