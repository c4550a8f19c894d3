"""C-CHAIN: the penalty against its formula, the coefficient against the published rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lop_ray.interventions import CChain, Interventions, LossStep, Training
from lop_ray.networks import MLP, NetworkOptions
from tests.cases import NETWORKS
from tests.interventions import tiny

INPUTS = torch.randn(20, 3, generator=torch.Generator().manual_seed(3))


def _net(seed: int, outputs: int = 2) -> MLP:
    return MLP(3, outputs, NetworkOptions(hidden=(4,)), seed=seed)


def _attached(chain: CChain, **networks: MLP) -> CChain:
    networks = networks or {"policy": _net(0), "value": _net(1, 1)}
    optimizer = torch.optim.Adam([p for net in networks.values() for p in net.parameters()])
    chain.attach(Training(networks, optimizer, torch.Generator().manual_seed(7)))
    return chain


def _loss_step(policy: float = 1.0, value: float = 1.0) -> LossStep:
    return LossStep(INPUTS, INPUTS[:5], {"policy": torch.tensor(policy), "value": torch.tensor(value)}, {})


@torch.no_grad()
def _move(net: MLP, by: float = 0.1) -> None:
    for parameter in net.parameters():
        parameter.add_(by)


def _references(count: int) -> list[Tensor]:
    """The reference batches of the first minibatches."""
    generator = torch.Generator().manual_seed(7)
    return [INPUTS[torch.randperm(20, generator=generator)[:5]] for _ in range(count)]


def test_the_penalty_is_the_change_since_the_last_step_on_an_independent_batch() -> None:
    chain = _attached(CChain(coefficient=3.0, target=None))
    policy = chain.training.networks["policy"]
    assert chain.loss_term(_loss_step()) is None
    _move(policy)
    before = copy.deepcopy(policy)  # the weights that the second minibatch sees
    assert chain.loss_term(_loss_step()) is None
    _move(policy, 0.3)
    term = chain.loss_term(_loss_step())
    reference = _references(3)[2]
    expected = 3.0 * (policy(reference) - before(reference).detach()).square().sum() / (5 * 2)
    torch.testing.assert_close(term, expected)
    # The gradient is that of the present weights alone.
    gradients = torch.autograd.grad(term, list(policy.parameters()))
    for found, right in zip(gradients, torch.autograd.grad(expected, list(policy.parameters())), strict=True):
        torch.testing.assert_close(found, right)


def test_without_a_step_there_is_no_churn() -> None:
    chain = _attached(CChain())
    terms = [chain.loss_term(_loss_step()) for _ in range(4)]
    assert terms[:2] == [None, None]
    assert [term.item() for term in terms[2:]] == [0.0, 0.0]


def test_the_distance_of_discrete_actions_is_the_cross_entropy() -> None:
    chain = _attached(CChain(coefficient=1.0, target=None, distance="cross_entropy", networks=("policy", "value")))
    policy = chain.training.networks["policy"]
    for _ in range(2):
        chain.loss_term(_loss_step())
    before = copy.deepcopy(policy)
    _move(policy, 0.5)
    term = chain.loss_term(_loss_step())
    reference = _references(3)[2]
    old, new = (torch.softmax(net(reference), 1).tolist() for net in (before, policy))
    expected = -sum(
        p * torch.tensor(q).log().item() for a, b in zip(old, new, strict=True) for p, q in zip(a, b, strict=True)
    )
    assert term.item() == pytest.approx(expected / 5, rel=1e-5)  # the value network has not moved


def test_value_and_policy_are_penalised_each_with_its_own_coefficient() -> None:
    chain = _attached(CChain(coefficient=2.0, target=0.5, warm_up=1, networks=("policy", "value")))
    policy, value = chain.training.networks.values()
    for _ in range(2):
        chain.loss_term(_loss_step())
    before = {name: copy.deepcopy(net) for name, net in chain.training.networks.items()}
    _move(policy), _move(value, 0.2)
    term = chain.loss_term(_loss_step(policy=-4.0, value=10.0))
    reference = _references(3)[2]
    churn = {
        name: (net(reference) - before[name](reference)).square().mean().item()
        for name, net in chain.training.networks.items()
    }
    assert term.item() == pytest.approx(2.0 * sum(churn.values()), rel=1e-5)
    chain.after_update(tiny.step())
    assert chain.coefficients == pytest.approx(
        {"policy": 0.5 * 4 / (churn["policy"] + 1e-8), "value": 0.5 * 10 / (churn["value"] + 1e-8)}, rel=1e-5
    )


class _Known(CChain):
    """The distance is given, so that only the rule of the coefficient is left."""

    def __init__(self, distances: list[float], **options: Any):
        super().__init__(**options)
        self._given = iter(distances)

    def _distance(self, name: str, chained: Any, reference: Tensor) -> Tensor:
        return torch.tensor(next(self._given))


def _coefficients(chain: CChain, updates: list[list[float]]) -> list[float]:
    """The policy's after every update; each update is a list of losses, one a minibatch."""
    found = []
    for losses in updates:
        for loss in losses:
            chain.loss_term(_loss_step(policy=loss))
        chain.after_update(tiny.step())
        found.append(chain.coefficients["policy"])
    return found


def test_the_coefficient_keeps_the_ratio_of_the_last_minibatches_over_a_window() -> None:
    chain = _attached(_Known([0.5, 1.0, 2.0, 4.0], target=0.05, warm_up=3, window=2))
    found = _coefficients(chain, [[9.0, 9.0, 9.0, -1.0], [3.0], [5.0]])
    # D of the last minibatches: 1, 2, 4 (the first two have none); |L|: 1, 3, 5; the latest two count.
    assert found == pytest.approx([100.0, 100.0, 0.05 * ((3 + 5) / 2) / ((2 + 4) / 2 + 1e-8)])


def test_the_mean_over_minibatches_is_taken_before_the_absolute_value() -> None:
    chain = _attached(_Known([0.5, 1.5], target=1e4, warm_up=1, sample="mean", least=1.0))
    found = _coefficients(chain, [[0.0, 0.0, 1.0, -3.0]])
    assert found == pytest.approx([1e4 * abs((1 - 3) / 2) / (1.0 + 1e-8)])


def test_the_coefficient_has_a_least_value() -> None:
    chain = _attached(_Known([1.0], target=0.05, warm_up=1, least=1.0))
    assert _coefficients(chain, [[0.0, 0.0, 2.0]]) == [1.0]


@pytest.mark.parametrize(("rule", "after"), [("restart", 100.0), ("keep", 0.2)])
def test_a_new_task_starts_the_coefficient_again_or_not(rule: str, after: float) -> None:
    chain = _attached(_Known([0.5] * 9, target=0.05, warm_up=1, at_task_change=rule))
    assert _coefficients(chain, [[2.0, 2.0, 2.0]])[0] == pytest.approx(0.2)
    chain.at_task_change(1)
    assert chain.coefficients["policy"] == pytest.approx(after)
    assert _coefficients(chain, [[4.0]])[0] == pytest.approx(0.4 if rule == "restart" else 0.3)


def test_a_fixed_coefficient_stays() -> None:
    chain = _attached(_Known([0.5] * 9, coefficient=7.0, target=None, warm_up=1))
    assert _coefficients(chain, [[2.0] * 4, [3.0]]) == [7.0, 7.0]


def test_the_defaults_are_those_of_the_runs_on_mujoco_tasks() -> None:
    # crl_run_ppo_c_chain_dmc.py: cur_reg_coef 100, target_rel_loss_scale 0.05, iteration >= 50, [-100:], last minibatch
    options = CChain().options
    assert (options.coefficient, options.target, options.warm_up, options.window) == (100.0, 0.05, 50, 100)
    assert (options.networks, options.sample, options.distance, options.least) == (("policy",), "last", "squared", 0.0)


def test_its_passes_are_not_taken_for_that_of_the_loss() -> None:
    chain, watcher, net = CChain(networks=("net",)), tiny.Watcher(), _net(0)
    interventions = Interventions({"c_chain": chain, "watcher": watcher})
    interventions.attach(Training({"net": net}, torch.optim.Adam(net.parameters()), torch.Generator()))
    minibatch = INPUTS[:5]
    for _ in range(3):
        outputs = net(minibatch)
        interventions.loss_term(LossStep(INPUTS, minibatch, {"net": outputs.sum()}, {"net": outputs}))
    interventions.after_gradient_step(3, INPUTS)
    expected = (minibatch @ net.body.linear_0.weight.T + net.body.linear_0.bias).clamp(min=0)
    torch.testing.assert_close(watcher.seen["net"][0], expected)
    assert net.training


def test_one_head_of_a_network_with_several_can_be_kept() -> None:
    chain, net = CChain(networks=("value",), coefficient=1.0, target=None), NETWORKS["conv_net"].make(0)
    images, _ = NETWORKS["conv_net"].batch(torch.Generator().manual_seed(0))
    chain.attach(Training({"shared": net}, torch.optim.Adam(net.parameters()), torch.Generator().manual_seed(7)))
    step = LossStep(images, images, {"policy": torch.tensor(1.0), "value": torch.tensor(1.0)}, {})
    for _ in range(2):
        chain.loss_term(step)
    with torch.no_grad():
        net.heads["policy"].bias.add_(5.0)
        assert chain.loss_term(step).item() == 0.0
        net.heads["value"].bias.add_(torch.tensor([1.0, 3.0]))
        assert chain.loss_term(step).item() == pytest.approx((1 + 9) / 2, rel=1e-5)


def test_a_network_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no network or head 'actor'; this training has policy, value"):
        _attached(CChain(networks=("actor",)))
    with pytest.raises(ValidationError):
        CChain(networks=())
