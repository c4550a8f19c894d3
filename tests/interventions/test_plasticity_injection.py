"""Plasticity injection: what the function, its gradients, the optimiser and copies of the network see of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lop_ray.interventions import Interventions, PlasticityInjection, Training, make_interventions
from lop_ray.interventions.optimizer_state import forget
from lop_ray.networks import MLP, NetworkOptions, hidden_layers
from tests.cases import NETWORKS
from tests.interventions import tiny

INPUTS = torch.randn(12, 3, generator=torch.Generator().manual_seed(3))
TARGETS = torch.randn(12, 2, generator=torch.Generator().manual_seed(4))


def _net(seed: int = 0, **options: Any) -> MLP:
    return MLP(3, 2, NetworkOptions(hidden=(6, 4), **options), seed=seed)


class Run:
    """A network in training by gradient descent, with an intervention."""

    def __init__(self, net: nn.Module | None = None, optimizer: str = "SGD", **options: Any):
        self.net = net or _net()
        self.intervention = PlasticityInjection(**options)
        self.interventions = Interventions({"injection": self.intervention})
        generator = torch.Generator().manual_seed(1)
        self.interventions.build({"net": self.net}, generator)
        self.optimizer = getattr(torch.optim, optimizer)(self.net.parameters(), lr=0.05)
        self.interventions.attach(Training({"net": self.net}, self.optimizer, generator))

    def step(self, times: int = 1) -> Run:
        for _ in range(times):
            self.optimizer.zero_grad()
            (self.net(INPUTS) - TARGETS).square().mean().backward()
            self.optimizer.step()
        return self

    def inject(self) -> Run:
        self.interventions.at_task_change(1)
        return self


def _head(net: MLP, features: Tensor) -> Tensor:
    """h_theta of two layers, written out."""
    first, last = net.body.linear_1, net.head
    return (features @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias


def _features(net: MLP) -> Tensor:
    return (INPUTS @ net.body.linear_0.weight.T + net.body.linear_0.bias).clamp(min=0)


@pytest.mark.parametrize("head", [1, 2, 3])
def test_an_injection_changes_no_output_and_draws_the_head_anew(head: int) -> None:
    run = Run(head=head).step(3)
    before, weights = run.net(INPUTS), tiny.snapshot(run.net)
    run.inject()
    assert torch.equal(run.net(INPUTS), before)
    changed = [name for name, value in run.net.named_parameters() if not torch.equal(value, weights[name])]
    layers = ["body.linear_0", "body.linear_1", "head"][3 - head :]
    assert changed == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    # lecun_uniform: U(+-sqrt(3 / fan_in)), bias 0
    fresh = run.net.head
    assert 0.5 * (3 / 4) ** 0.5 < fresh.weight.abs().max() <= (3 / 4) ** 0.5
    assert not fresh.bias.any()


def test_afterwards_the_output_is_expression_1() -> None:
    run = Run().step(3)
    original = copy.deepcopy(run.net)
    run.inject()
    copied = copy.deepcopy(run.net)
    run.step(4)
    phi = _features(run.net)
    expected = _head(original, phi) + _head(run.net, phi) - _head(copied, phi)
    torch.testing.assert_close(run.net(INPUTS), expected)
    assert not torch.allclose(run.net(INPUTS), original(INPUTS))


def test_a_second_injection_freezes_what_has_learned_and_adds_a_pair() -> None:
    run = Run().step(3)
    heads = [copy.deepcopy(run.net)]
    for _ in range(2):
        run.inject()
        heads.append(copy.deepcopy(run.net))  # theta'_2
        run.step(3)
        heads.append(copy.deepcopy(run.net))  # theta'_1 as it has become
    before = run.net(INPUTS)
    phi = _features(run.net)
    first = _head(heads[0], phi) + _head(heads[2], phi) - _head(heads[1], phi)
    torch.testing.assert_close(before, first + _head(heads[4], phi) - _head(heads[3], phi))
    run.inject()
    assert torch.equal(run.net(INPUTS), before)
    assert run.intervention.injections == 3


@pytest.mark.parametrize(("copy_gradient", "signs"), [(True, (1, 1, -1)), (False, (1, 1, 0))])
def test_only_the_new_head_learns_and_the_encoder_through_which_parts(
    copy_gradient: bool, signs: tuple[int, ...]
) -> None:
    run = Run(copy_gradient=copy_gradient).step(2)
    original = copy.deepcopy(run.net)
    run.inject()
    copied = copy.deepcopy(run.net)
    run.step(2)
    assert {id(p) for group in run.optimizer.param_groups for p in group["params"]} == {
        id(p) for p in run.net.parameters()
    }
    phi = _features(run.net).detach().requires_grad_(True)
    seed = torch.ones(12, 2)
    parts = [torch.autograd.grad(_head(net, phi), phi, seed)[0] for net in (original, run.net, copied)]
    weight = run.net.body.linear_0.weight
    found = torch.autograd.grad(run.net(INPUTS), weight, seed)[0]
    alive = (phi > 0).float()
    expected = (sum(s * part for s, part in zip(signs, parts, strict=True)) * alive).T @ INPUTS
    torch.testing.assert_close(found, expected)


def test_a_linear_head_whose_original_is_frozen_has_the_gradient_of_the_plain_head() -> None:
    """With Adam, such an injection is a reset of the head's moments and of nothing else."""
    injected, plain = Run(head=1, optimizer="Adam").step(3), Run(head=1, optimizer="Adam").step(3)
    injected.inject()
    forget(plain.optimizer, plain.net.head.parameters())
    injected.step(4), plain.step(4)
    torch.testing.assert_close(injected.net(INPUTS), plain.net(INPUTS), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(injected.net.body.linear_0.weight, plain.net.body.linear_0.weight, rtol=1e-4, atol=1e-5)


class Injector(nn.Module):
    """Juliani & Ash's head, written out: all of original and new learn, the copy's output is detached."""

    def __init__(self, weight: Tensor, bias: Tensor, fresh: nn.Linear):
        super().__init__()
        self.original = nn.Linear(4, 2)
        self.original.load_state_dict({"weight": weight.detach().clone(), "bias": bias.detach().clone()})
        self.new, self.copied = copy.deepcopy(fresh), copy.deepcopy(fresh)

    def forward(self, features: Tensor) -> Tensor:
        return self.original(features) + self.new(features) - self.copied(features).detach()

    def folded(self) -> tuple[Tensor, Tensor]:
        def total(name: str) -> Tensor:
            return getattr(self.original, name) + getattr(self.new, name) - getattr(self.copied, name)

        return total("weight"), total("bias")


def test_the_form_of_juliani_and_ash() -> None:
    run = Run(head=1, original="trained", copy_gradient=False).step(2)
    body = copy.deepcopy(run.net.body)
    weight, bias = run.net.head.weight, run.net.head.bias
    for _ in range(2):
        weight, bias = weight.detach().clone(), bias.detach().clone()
        run.inject()
        theirs = Injector(weight, bias, nn.Linear(4, 2))
        theirs.new.load_state_dict(run.net.head.state_dict())
        theirs.copied.load_state_dict(run.net.head.state_dict())
        optimizer = torch.optim.SGD([*body.parameters(), *theirs.parameters()], lr=0.05)
        run.step(3)
        for _ in range(3):
            optimizer.zero_grad()
            (theirs(body(INPUTS)) - TARGETS).square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(run.net(INPUTS), theirs(body(INPUTS)))
        weight, bias = theirs.folded()
    assert len(run.net.injection.copies) == 1  # earlier ones are added up


def test_before_its_injection_a_trained_original_does_not_learn() -> None:
    run, plain = Run(head=1, original="trained", optimizer="Adam").step(4), Run(head=1, optimizer="Adam").step(4)
    assert torch.equal(run.net(INPUTS), plain.net(INPUTS))
    assert all(not p.any() for p in run.net.injection.parameters())


@pytest.mark.parametrize("head", [1, 2])
def test_new_weights_start_with_new_moments(head: int) -> None:
    run = Run(head=head, optimizer="Adam").step(3).inject()
    known = {id(p) for p in run.optimizer.state}
    net = run.net
    assert id(net.head.weight) not in known
    assert (id(net.body.linear_1.weight) in known) == (head == 1)
    assert id(net.body.linear_0.weight) in known


def test_it_acts_at_a_set_update_as_often_as_asked() -> None:
    run = Run(when="update", every=3, times=1)
    seen = []
    for update in range(1, 8):
        run.step()
        run.interventions.after_update(update, INPUTS)
        run.interventions.at_task_change(update)
        seen.append(run.intervention.injections)
    assert seen == [0, 0, 1, 1, 1, 1, 1]
    assert len(run.net.injection.copies) == 1


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"head": 1}, {"head": 1, "original": "trained"}])
def test_every_network_keeps_its_function_and_copies_follow_by_state(name: str, options: dict[str, Any]) -> None:
    case = NETWORKS[name]
    inputs, targets = case.batch(torch.Generator().manual_seed(0))
    run, other = Run(case.make(0), **options), Run(case.make(5), **options)
    for _ in range(2):
        before = run.net(inputs)
        run.inject()
        torch.testing.assert_close(run.net(inputs), before)
        (run.net(inputs) - targets).square().mean().backward()
        run.optimizer.step()
    other.net.load_state_dict(run.net.state_dict())
    assert torch.equal(other.net(inputs), run.net(inputs))
    twin = copy.deepcopy(run.net)
    assert torch.equal(twin(inputs), run.net(inputs))
    with torch.no_grad():
        hidden_layers(run.net)[0].incoming.weight.mul_(2)
    assert torch.equal(twin(inputs), other.net(inputs))
    assert not torch.equal(twin(inputs), run.net(inputs))
    fewer = Run(case.make(0), **options)
    run.net.load_state_dict(fewer.net.state_dict())  # back to before any injection
    assert torch.equal(run.net(inputs), fewer.net(inputs))


def test_normalised_and_spectrally_normed_heads_are_frozen_as_they_work() -> None:
    net = _net(normalisation="layernorm")
    interventions = make_interventions({"spectral_norm": {"heads": True}, "plasticity_injection": {}})
    generator = torch.Generator().manual_seed(1)
    interventions.build({"net": net}, generator)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    interventions.attach(Training({"net": net}, optimizer, generator))
    for count in range(1, 5):
        optimizer.zero_grad()
        (net(INPUTS) - TARGETS).square().mean().backward()
        optimizer.step()
        interventions.after_gradient_step(count, INPUTS)
    before = net(INPUTS)
    interventions.at_task_change(1)
    torch.testing.assert_close(net(INPUTS), before)
    assert torch.linalg.matrix_norm(net.head.weight, 2).item() == pytest.approx(1.0, rel=0.05)
    assert net.body.norm_1.weight.tolist() == [1.0] * 4


def test_killed_units_stay_dead_in_the_frozen_head() -> None:
    net = _net()
    interventions = make_interventions({"kill_units": {"percent": 50}, "plasticity_injection": {}})
    generator = torch.Generator().manual_seed(1)
    interventions.build({"net": net}, generator)
    interventions.attach(Training({"net": net}, torch.optim.SGD(net.parameters(), lr=0.1), generator))
    interventions.members["kill_units"].kill()
    before = net(INPUTS)
    interventions.at_task_change(1)
    assert torch.equal(net(INPUTS), before)


def test_taps_hear_the_head_that_learns() -> None:
    run, watcher = Run(), tiny.Watcher()
    interventions = Interventions({"injection": run.intervention, "watcher": watcher})
    interventions.attach(Training({"net": run.net}, run.optimizer, torch.Generator().manual_seed(1)))
    interventions.at_task_change(1)
    run.net(INPUTS)
    interventions.after_gradient_step(1, INPUTS)
    expected = _features(run.net) @ run.net.body.linear_1.weight.T + run.net.body.linear_1.bias
    torch.testing.assert_close(watcher.seen["net"][1], expected.clamp(min=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": 2, "original": "trained"}, "original: trained adds up weights of a linear head, not of head: 2"),
        ({"head": 0}, "head"),
        ({"times": 0}, "times"),
        ({"when": "gradient_step"}, "when"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PlasticityInjection(**options)


def test_a_head_that_the_network_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"network 'net': head: 4 is more than the network's 3 layers; use fewer"):
        Run(head=4)
    with pytest.raises(
        ValueError, match="the last 3 layers are not a chain of fully connected ones; give head a smaller"
    ):
        Run(NETWORKS["conv"].make(0), head=3)


def test_order_and_moments_of_use_are_checked() -> None:
    run = Run()
    with pytest.raises(ValueError, match="network 'net' can be injected into already"):
        run.intervention.build({"net": run.net}, torch.Generator())
    with pytest.raises(ValueError, match="no place for an injection; call build before"):
        tiny.attached(PlasticityInjection(), _net())
    interventions = make_interventions({"plasticity_injection": {}, "activation_clamping": {}})
    net = _net()
    interventions.build({"net": net}, torch.Generator())
    with pytest.raises(ValueError, match="list it after activation_clamping"):
        interventions.attach(Training({"net": net}, torch.optim.Adam(net.parameters()), torch.Generator()))
