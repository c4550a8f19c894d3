"""Activations by name: gains, and those that hand on two numbers a unit, in networks, measures and methods."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import integrate, special, stats
from torch import nn

from lop_ray.diagnostics import DiagnosticSuite
from lop_ray.interventions import Training, make_interventions
from lop_ray.networks import (
    MLP,
    HiddenLayer,
    Initialiser,
    NetworkOptions,
    by_unit,
    features_of,
    hidden_layers,
    outgoing_columns,
    projections_of,
    record,
)
from lop_ray.networks.activations import ActivationName, gain_of, make_activation, outputs_of, units_of

PAIRED = ("crelu", "crelu_wide", "fourier")
FORMULAS: dict[str, Callable[[float], float]] = {
    "relu": lambda z: max(z, 0),
    "leaky_relu": lambda z: max(z, 0.01 * z),
    "gelu": lambda z: z * stats.norm.cdf(z),
    "elu": lambda z: z if z > 0 else math.expm1(z),
    "selu": lambda z: 1.0507009873554805 * (z if z > 0 else 1.6732632423543772 * math.expm1(z)),
    "mish": lambda z: z * math.tanh(np.logaddexp(0, z)),
    "silu": lambda z: z * special.expit(z),
}


def crelu_net(*hidden: int, inputs: int = 2, outputs: int = 1, **options: object) -> MLP:
    return MLP(inputs, outputs, NetworkOptions(hidden=hidden, activation="crelu", **options), seed=0)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_gain_keeps_the_second_moment_of_a_standard_normal(name: ActivationName) -> None:
    phi = FORMULAS[name]
    moment = sum(integrate.quad(lambda z: phi(z) ** 2 * stats.norm.pdf(z), *span)[0] for span in ((-12, 0), (0, 12)))
    assert gain_of(name) == pytest.approx(1 / math.sqrt(moment), rel=1e-9)
    grid = torch.linspace(-4, 4, 9, dtype=torch.float64)
    expected = torch.tensor([phi(z) for z in grid.tolist()], dtype=torch.float64)
    torch.testing.assert_close(make_activation(name)(grid), expected)


@pytest.mark.parametrize("name", PAIRED)
def test_the_gain_of_pairs_is_over_both_numbers_of_a_unit(name: ActivationName) -> None:
    z = torch.from_numpy(stats.norm.ppf((np.arange(20000) + 0.5) / 20000)).unsqueeze(1)
    moment = make_activation(name)(z).square().mean()
    assert gain_of(name) == pytest.approx(1 / math.sqrt(moment), rel=1e-3)


def test_tanh_has_the_gain_of_torch() -> None:
    assert gain_of("tanh") == nn.init.calculate_gain("tanh")


def test_two_numbers_of_a_unit_stand_side_by_side() -> None:
    z = torch.tensor([[2.0, -3.0]])
    assert make_activation("crelu")(z).tolist() == [[2.0, 0.0, 0.0, 3.0]]
    fourier = [math.sin(2), math.cos(2), math.sin(-3), math.cos(-3)]
    torch.testing.assert_close(make_activation("fourier")(z), torch.tensor([fourier]))
    steps_and_copies = make_activation("crelu")(z.expand(5, 3, 2))
    assert steps_and_copies.shape == (5, 3, 4)
    assert (steps_and_copies == torch.tensor([2.0, 0.0, 0.0, 3.0])).all()


def test_an_images_units_are_its_channels() -> None:
    z = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    h = make_activation("crelu")(z)
    assert h.shape == (2, 6, 4, 5)
    assert torch.equal(h[:, 0::2], z.clamp(min=0))
    assert torch.equal(h[:, 1::2], (-z).clamp(min=0))


@pytest.mark.parametrize(
    ("name", "units", "handed_on"), [("relu", 6, 6), ("crelu", 3, 6), ("crelu_wide", 6, 12), ("fourier", 3, 6)]
)
def test_width_is_what_a_layer_hands_on(name: ActivationName, units: int, handed_on: int) -> None:
    assert units_of(name, 6) == units
    assert units * outputs_of(make_activation(name)) == handed_on
    net = MLP(4, 2, NetworkOptions(hidden=(6, 8), activation=name), seed=0)
    first, second = hidden_layers(net)
    assert (first.units, first.incoming.in_features) == (units, 4)
    assert (second.units, second.incoming.in_features) == (units_of(name, 8), handed_on)
    assert net(torch.ones(5, 4)).shape == (5, 2)


@pytest.mark.parametrize("name", ["crelu", "fourier"])
def test_an_odd_width_cannot_be_halved(name: ActivationName) -> None:
    with pytest.raises(ValidationError, match=f"a layer of width 5 cannot be halved for {name}"):
        NetworkOptions(hidden=(6, 5), activation=name)


def test_crelu_computes_its_formula_and_readers_read_both_halves() -> None:
    net = crelu_net(4)
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
    z = x @ net.body.linear_0.weight.T + net.body.linear_0.bias
    columns = outgoing_columns(net.head, 2)
    assert columns.shape == (1, 2, 2)
    expected = z.clamp(min=0) @ columns[..., 0].T + (-z).clamp(min=0) @ columns[..., 1].T + net.head.bias
    torch.testing.assert_close(net(x), expected)
    columns[:, 1] = 0.0
    torch.testing.assert_close(net(x), net(x * 0) + MLPOfUnit(net)(x))


class MLPOfUnit(nn.Module):
    """What unit 0 alone adds."""

    def __init__(self, net: MLP):
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x @ self.net.body.linear_0.weight[0]
        return (z.clamp(min=0) * self.net.head.weight[0, 0] + (-z).clamp(min=0) * self.net.head.weight[0, 1])[:, None]


def test_initial_weights_are_those_of_any_layer_of_that_shape() -> None:
    crelu, plain = crelu_net(8, 6), MLP(2, 1, NetworkOptions(hidden=(4,)), seed=0)
    assert torch.equal(crelu.body.linear_0.weight, plain.body.linear_0.weight)
    bound = math.sqrt(3 / 8)  # fan-in: what the layer before hands on
    assert 0.7 * bound < crelu.body.linear_1.weight.abs().max() <= bound


def test_the_view_shows_a_unit_as_its_two_numbers() -> None:
    net, x = crelu_net(4), torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    layer = hidden_layers(net)[0]
    assert layer.outputs == 2
    z = x @ net.body.linear_0.weight.T
    seen = record(net, x)
    torch.testing.assert_close(seen.pre_activations[0], torch.stack((z, -z), 2))
    torch.testing.assert_close(seen.activations[0], torch.stack((z, -z), 2).clamp(min=0))
    torch.testing.assert_close(projections_of(layer, seen.pre_activations[0]), z)
    assert by_unit(seen.activations[0]).shape == (10, 2)
    features = features_of(layer, seen.activations[0])
    torch.testing.assert_close(features @ net.head.weight.T, net(x))


def test_a_view_with_the_whole_activation_is_the_same() -> None:
    whole = make_activation("fourier")
    layer = HiddenLayer("a", nn.Linear(2, 3), whole, (nn.Linear(6, 1),), Initialiser("lecun_uniform"))
    assert layer.activation is whole.inner
    assert layer.outputs == 2
    z = torch.randn(4, 3)
    torch.testing.assert_close(features_of(layer, layer.activation(z)), whole(z))
    assert projections_of(layer, z) is z


def measured(net: MLP, x: torch.Tensor) -> dict[str, object]:
    suite = DiagnosticSuite(
        {
            "margins": {},
            "dormant": {"tau": 0.1},
            "features": {},
            "ranks": {"kinds": ["effective_rank", "numerical_rank", "covariance_rank"]},
        }
    )
    return suite.measure(update=0, networks={"net": net}, observations=x).layers[0]


def test_a_crelu_unit_that_is_negative_on_every_sample_is_not_dead() -> None:
    net, x = crelu_net(4), torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 1.0]])
    with torch.no_grad():
        net.body.linear_0.weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 0.0]]))  # always negative; always 0
    row = measured(net, x)
    assert (row["units"], row["dead"], row["at_risk"]) == (2, 0, 1)
    assert row["mean_margin"] == pytest.approx(4 / 2)  # the largest |z| of each unit
    assert (row["dormant"], row["never_active"]) == (1, 1)
    assert row["activity"] == pytest.approx((10 / 8 + 0) / 2)  # over both numbers of four samples
    assert row["sparsity"] == pytest.approx(12 / 16)


def test_ranks_are_of_all_numbers_that_a_layer_hands_on() -> None:
    net = crelu_net(8, inputs=3)
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    row = measured(net, x)
    z = (x @ net.body.linear_0.weight.T).detach().double().numpy()
    h = np.concatenate([z.clip(min=0), (-z).clip(min=0)], 1)
    sigma = np.linalg.svd(h, compute_uv=False)
    p = sigma / sigma.sum()
    assert row["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
    assert row["numerical_rank"] == np.linalg.matrix_rank(h, tol=1e-5)
    eigenvalues = np.linalg.eigvalsh(np.cov(z.T))  # of z itself, not of z and -z
    q = eigenvalues[eigenvalues > 1e-12] / eigenvalues.sum()
    assert row["covariance_rank"] == pytest.approx(np.exp(-(q * np.log(q)).sum()), rel=1e-5)


def test_redo_recycles_a_crelu_unit_whose_both_halves_sleep() -> None:
    net, x = crelu_net(6), torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    with torch.no_grad():
        net.body.linear_0.weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
    redo = make_interventions({"redo": {"threshold": 0.1, "period": 1}})
    optimizer = torch.optim.Adam(net.parameters())
    redo.attach(Training({"net": net}, optimizer, torch.Generator().manual_seed(0)))
    before = net.body.linear_0.weight.clone()
    net(x)
    redo.after_gradient_step(1, x)
    assert torch.equal(net.body.linear_0.weight[[0, 2]], before[[0, 2]])  # unit 0 is negative, and awake
    assert net.body.linear_0.weight[1].any()
    assert net.head.weight[0].eq(0).tolist() == [False, False, True, True, False, False]


def test_continual_backprop_scores_a_crelu_unit_by_all_that_it_hands_on() -> None:
    net, x = crelu_net(4), torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    with torch.no_grad():
        net.body.linear_0.weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
        net.head.weight.copy_(torch.tensor([[0.5, -1.0, 0.25, 0.5]]))
    cbp = make_interventions({"cbp": {"decay_rate": 0.9, "maturity_threshold": 100}})
    cbp.attach(Training({"net": net}, torch.optim.Adam(net.parameters()), torch.Generator().manual_seed(0)))
    net(x)
    cbp.after_gradient_step(1, x)
    utility = cbp.members["cbp"].state_dict()["layers"]["net/hidden_0"]["utility"]
    # mean |h| over samples and halves, (1 + 3) / 4 and (2 + 1) / 4, times mean |w_out|, 0.75 and 0.375
    torch.testing.assert_close(utility, 0.1 * torch.tensor([1.0 * 0.75, 0.75 * 0.375]))


@pytest.mark.parametrize("name", get_args(ActivationName))
def test_every_name_makes_modules_of_their_own(name: ActivationName) -> None:
    first, second = make_activation(name), make_activation(name)
    assert first is not second
    assert type(first) is type(second)
