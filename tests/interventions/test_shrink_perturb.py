"""Shrink and perturb: theta <- shrink theta + perturb noise, form by form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lop_ray.interventions import ShrinkPerturb, SpectralNorm, exact_spectral_norm
from lop_ray.networks import MLP, NetworkOptions
from tests.interventions import tiny


def _net(**options: Any) -> MLP:
    """Width 8, LayerNorm, orthogonal weights; then biases 1, scales 3, shifts 4."""
    net = MLP(8, 8, NetworkOptions(hidden=(8,), normalisation="layernorm", init="orthogonal", **options), seed=0)
    with torch.no_grad():
        for bias in (net.body.linear_0.bias, net.head.bias):
            bias.fill_(1.0)
        net.body.norm_0.weight.fill_(3.0)
        net.body.norm_0.bias.fill_(4.0)
    return net


def _shaken(net: MLP, **options: Any) -> dict[str, torch.Tensor]:
    """Weights before."""
    shaker = ShrinkPerturb(**options)
    tiny.attached(shaker, net)
    before = tiny.snapshot(net)
    shaker.act(None)
    return before


def test_defaults_are_sp_5_5() -> None:
    assert ShrinkPerturb().options.model_dump() == {
        "when": "task_change",
        "every": 1,
        "shrink": 0.5,
        "perturb": 0.5,
        "noise": "fresh",
        "parameters": "all",
        "optimizer": "keep",
    }


def test_half_of_the_old_and_half_of_a_new_network() -> None:
    net = _net()
    before = _shaken(net)
    # New: weights orthogonal with gain sqrt(2), of the head with gain 1; biases 0, scales 1, shifts 0.
    for layer, name, gain in ((net.body.linear_0, "body.linear_0", 2.0), (net.head, "head", 1.0)):
        new = 2 * (layer.weight - 0.5 * before[f"{name}.weight"])
        torch.testing.assert_close(new @ new.T, gain * torch.eye(8), atol=1e-4, rtol=0)
        assert (layer.bias == 0.5).all()
    assert (net.body.norm_0.weight == 0.5 * 3 + 0.5 * 1).all()
    assert (net.body.norm_0.bias == 0.5 * 4).all()


def test_shrinking_alone_and_perturbing_alone() -> None:
    net = tiny.network()
    _shaken(net, shrink=0.25, perturb=0.0)
    assert net.body.linear_0.weight.tolist() == [[0.25, 0.0], [0.0, 0.5]]
    net = _net()
    before = _shaken(net, shrink=1.0, perturb=2.0)
    new = (net.head.weight - before["head.weight"]) / 2
    torch.testing.assert_close(new @ new.T, torch.eye(8), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("parameters", "moved"),
    [("all", {"linear", "bias", "norm"}), ("layers", {"linear", "bias"}), ("weights", {"linear"})],
)
def test_which_parameters(parameters: str, moved: set[str]) -> None:
    net = _net()
    before = _shaken(net, parameters=parameters, perturb=0.0)
    for name, value in net.state_dict().items():
        kind = "norm" if "norm" in name else "bias" if "bias" in name else "linear"
        expected = 0.5 * before[name] if kind in moved else before[name]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def test_gaussian_noise_has_standard_deviation_sigma() -> None:
    net = MLP(300, 300, NetworkOptions(hidden=(300,)), seed=0)
    before = _shaken(net, noise="gaussian", shrink=1.0, perturb=0.02, parameters="layers")
    for name, value in net.state_dict().items():
        noise = (value - before[name]).flatten()
        assert noise.std().item() == pytest.approx(0.02, rel=0.02 if name.endswith("weight") else 0.15)
        assert abs(noise.mean()) < 4 * 0.02 / len(noise) ** 0.5
        kurtosis = (noise / 0.02).pow(4).mean()
        assert not name.endswith("weight") or kurtosis == pytest.approx(3.0, rel=0.1)


@pytest.mark.parametrize("noise", ["fresh", "gaussian"])
def test_noise_is_new_each_time(noise: str) -> None:
    net = tiny.network()
    shaker = ShrinkPerturb(shrink=0.0, perturb=1.0, noise=noise)
    tiny.attached(shaker, net)
    seen = []
    for _ in range(2):
        shaker.act(None)
        seen.append(net.head.weight.detach().clone())
    assert not torch.equal(*seen)


def test_soft_acts_at_every_gradient_step_and_only_there() -> None:
    net = tiny.network()
    soft = ShrinkPerturb(when="gradient_step", shrink=1 - 1e-6, perturb=1e-6)
    tiny.attached(soft, net.double())
    soft.at_task_change(1)
    soft.after_update(tiny.step())
    assert net.head.weight.tolist() == tiny.OUTGOING
    for count in (1, 2, 3):
        soft.after_gradient_step(tiny.step(count))
    old = torch.tensor(tiny.OUTGOING, dtype=torch.float64)
    moved = (net.head.weight - (1 - 1e-6) ** 3 * old).abs()
    assert moved.max() <= 3e-6 * (3 / 2) ** 0.5  # three networks of LeCun uniform weights
    assert moved.min() > 0


def test_every_other_update() -> None:
    net = tiny.network()
    shaker = ShrinkPerturb(when="update", every=2, perturb=0.0)
    tiny.attached(shaker, net)
    sizes = []
    for _ in range(4):
        shaker.after_update(tiny.step())
        sizes.append(net.head.weight[0, 0].item())
    assert sizes == [3.0, 1.5, 1.5, 0.75]


@pytest.mark.parametrize(("optimizer", "left"), [("keep", 4), ("reset", 0)])
def test_the_optimisers_state(optimizer: str, left: int) -> None:
    net = tiny.network()
    adam = tiny.adam_with_moments(net)
    shaker = ShrinkPerturb(optimizer=optimizer)
    tiny.attached(shaker, net, adam)
    shaker.at_task_change(1)
    assert len(adam.state) == left


def test_a_spectral_norm_holds_right_after_it() -> None:
    net = MLP(30, 2, NetworkOptions(hidden=(40,)), seed=0)
    norm, shaker = SpectralNorm(), ShrinkPerturb(shrink=0.1, perturb=0.9)
    norm.build({"net": net}, torch.Generator().manual_seed(0))
    for each in (norm, shaker):
        tiny.attached(each, net)
    shaker.at_task_change(1)
    assert exact_spectral_norm(net.body.linear_0.weight).item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrink": 1.0, "perturb": 0.0}, "changes nothing"),
        ({"when": "gradient_step", "optimizer": "reset"}, "leaves no moments at all"),
        ({"shrink": 1.5}, "less than or equal to 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ShrinkPerturb(**options)
