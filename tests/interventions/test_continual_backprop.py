"""Continual backprop against numbers worked out by hand, and against a plain loop over units."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lop_ray.interventions import ContinualBackprop, SpectralNorm, Training
from lop_ray.networks import MLP, NetworkOptions, hidden_layers, trainable_weight
from tests.cases import SmallConvNet
from tests.interventions import tiny

# Of the tiny network: E|h| = (2, 1) = E h; E|h - E h| = (1, 1).
# |w_out|: mean (2, 1/2), sum (4, 1).  |w_in|: mean (1/2, 1), sum (1, 2).
WORTH = {
    ("contribution", "mean"): (4.0, 0.5),
    ("contribution", "sum"): (8.0, 1.0),
    ("weight", "mean"): (2.0, 0.5),
    ("weight", "sum"): (4.0, 1.0),
    ("adaptation", "mean"): (2.0, 1.0),
    ("adaptation", "sum"): (1.0, 0.5),
    ("zero_contribution", "mean"): (2.0, 0.5),
    ("zero_contribution", "sum"): (4.0, 1.0),
    ("adaptable_contribution", "mean"): (4.0, 0.5),
    ("adaptable_contribution", "sum"): (4.0, 0.5),
    ("feature_by_input", "mean"): (2.0, 1.0),
    ("feature_by_input", "sum"): (1.0, 0.5),
}


def _layer_state(cbp: ContinualBackprop, name: str = "net/hidden_0") -> dict[str, Any]:
    return cbp.state_dict()["layers"][name]


def _with_state(cbp: ContinualBackprop, utility: list[float], age: list[int], mean: list[float] | None = None) -> None:
    state = cbp.state_dict()
    layer = state["layers"]["net/hidden_0"]
    layer["utility"] = torch.tensor(utility)
    layer["age"] = torch.tensor(age)
    layer["mean_activation"] = torch.tensor(mean or [0.0] * len(age))
    cbp.load_state_dict(state)


def test_defaults_are_those_of_the_ant_grid() -> None:
    assert ContinualBackprop().options.model_dump() == {
        "replacement_rate": 1e-4,
        "maturity_threshold": 10_000,
        "decay_rate": 0.99,
        "utility": "contribution",
        "replacement": "bernoulli",
        "magnitude": "mean",
        "correct_next_bias": False,
        "reset_moments": False,
    }


@pytest.mark.parametrize(("kind", "magnitude"), WORTH)
def test_utility_is_a_running_average_of_its_formula(kind: str, magnitude: str) -> None:
    cbp = ContinualBackprop(utility=kind, magnitude=magnitude, decay_rate=0.75)
    tiny.attached(cbp, tiny.network())
    expected = torch.tensor(WORTH[kind, magnitude])
    cbp.after_gradient_step(tiny.step())
    torch.testing.assert_close(_layer_state(cbp)["utility"], 0.25 * expected)
    cbp.after_gradient_step(tiny.step())
    torch.testing.assert_close(_layer_state(cbp)["utility"], 0.25 * expected * (0.75 + 1))
    assert _layer_state(cbp)["age"].tolist() == [2, 2]


def test_mean_corrected_utility_uses_the_bias_corrected_running_mean() -> None:
    # Batches with unit 0 constant at 4, then at 1: m = 1/2 * 4 = 2, then 1/2 * 2 + 1/2 * 1 = 3/2;
    # m^ = 2 / (1/2) = 4, then (3/2) / (3/4) = 2; so |h - m^| = 0, then 1. |w_out| = 2.
    cbp = ContinualBackprop(utility="zero_contribution", decay_rate=0.5)
    tiny.attached(cbp, tiny.network())
    cbp.after_gradient_step(tiny.step(1, torch.tensor([[4.0, 0.0], [4.0, 0.0]])))
    assert _layer_state(cbp)["utility"].tolist() == [0.0, 0.0]
    cbp.after_gradient_step(tiny.step(2, torch.tensor([[1.0, 0.0], [1.0, 0.0]])))
    assert _layer_state(cbp)["mean_activation"].tolist() == [1.5, 0.0]
    assert _layer_state(cbp)["utility"].tolist() == [1.0, 0.0]


def test_a_unit_is_renewed_only_once_older_than_the_maturity_threshold() -> None:
    net = tiny.network()
    cbp = ContinualBackprop(maturity_threshold=3, replacement_rate=1.0)
    tiny.attached(cbp, net)
    before = tiny.snapshot(net)
    for count in (1, 2, 3):
        cbp.after_gradient_step(tiny.step(count))
        assert tiny.rows_changed(net, before) == []
    cbp.after_gradient_step(tiny.step(4))
    assert tiny.rows_changed(net, before) == [0, 1]
    assert _layer_state(cbp)["age"].tolist() == [0, 0]
    assert cbp.replaced == 2


def test_renewal_of_the_least_useful_unit() -> None:
    net = tiny.network()
    with torch.no_grad():
        net.body.linear_0.bias.fill_(0.5)
        net.head.bias.copy_(torch.tensor([0.25, -0.25]))
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=0.5)  # 0.5 * 2 units: exactly one a step
    tiny.attached(cbp, net)
    cbp.after_gradient_step(tiny.step())

    incoming = net.body.linear_0.weight
    assert incoming[0].tolist() == [1.0, 0.0]
    assert (incoming[1] != torch.tensor([0.0, 2.0])).all()
    assert incoming[1].abs().max() <= (3 / 2) ** 0.5  # LeCun-uniform, fan-in 2
    assert net.body.linear_0.bias.tolist() == [0.5, 0.0]
    assert net.head.weight.tolist() == [[3.0, 0.0], [1.0, 0.0]]
    assert net.head.bias.tolist() == [0.25, -0.25]
    state = _layer_state(cbp)
    torch.testing.assert_close(state["utility"], torch.tensor([0.04, 0.0]))
    assert state["age"].tolist() == [1, 0]


def test_units_are_ranked_by_bias_corrected_utility() -> None:
    # After this step the ages are 101 and 22, and 1 - 0.99^age = 0.638 and 0.198. The utilities 0.99 and 0.396
    # become 1.55 and 2.00 once corrected: the first is least, though its running average is the greater.
    net = tiny.network()
    cbp = ContinualBackprop(maturity_threshold=20, replacement_rate=0.5)
    tiny.attached(cbp, net)
    _with_state(cbp, utility=[1.0, 0.4], age=[100, 21])
    before = tiny.snapshot(net)
    cbp.after_gradient_step(tiny.step(1, torch.zeros(2, 2)))
    assert tiny.rows_changed(net, before) == [0]


def test_without_memory_utility_is_that_of_the_latest_batch() -> None:
    cbp = ContinualBackprop(decay_rate=0.0)
    tiny.attached(cbp, tiny.network())
    cbp.after_gradient_step(tiny.step(1, 100 * tiny.ACTIVATIONS))
    cbp.after_gradient_step(tiny.step())
    assert _layer_state(cbp)["utility"].tolist() == [4.0, 0.5]


def test_bernoulli_replaces_one_unit_with_probability_rate_times_eligible() -> None:
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=0.1)  # two units: 0.2 a step
    tiny.attached(cbp, tiny.network())
    per_step = []
    for count in range(3000):
        before = cbp.replaced
        cbp.after_gradient_step(tiny.step(count))
        per_step.append(cbp.replaced - before)
    assert set(per_step) == {0, 1}
    assert sum(per_step) == pytest.approx(600, abs=4 * (3000 * 0.2 * 0.8) ** 0.5)


def test_bernoulli_replaces_the_integer_part_from_one_on() -> None:
    net = MLP(2, 2, NetworkOptions(hidden=(5,)), seed=0)
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=0.5)  # 2.5
    tiny.attached(cbp, net)
    for count in range(1, 21):
        cbp.after_gradient_step(tiny.step(count, torch.rand(3, 5)))
        assert cbp.replaced == 2 * count


def test_accumulate_replaces_when_the_sum_reaches_one() -> None:
    net = tiny.network()
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=0.1875, replacement="accumulate")  # 0.375 a step
    tiny.attached(cbp, net)
    replaced = []
    for count in range(8):
        cbp.after_gradient_step(tiny.step(count))
        replaced.append(cbp.replaced)
    assert replaced == [0, 0, 1, 1, 1, 2, 2, 3]  # sums .375 .75 1.125 .5 .875 1.25 .625 1.0
    assert _layer_state(cbp)["accumulated"] == 0.0


def test_random_utility_ignores_what_units_do() -> None:
    net = tiny.network()
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=0.5, utility="random")
    tiny.attached(cbp, net)
    renewed = []
    for count in range(40):
        before = tiny.snapshot(net)
        cbp.after_gradient_step(tiny.step(count))
        renewed += tiny.rows_changed(net, before)
    assert 10 <= renewed.count(0) <= 30  # the contribution of unit 0 is always the greater
    assert len(renewed) == 40


@pytest.mark.parametrize(("correct", "head_bias"), [(False, [0.0, 0.0]), (True, [-1.0, 0.0])])
def test_correcting_the_next_bias_adds_the_lost_mean(correct: bool, head_bias: list[float]) -> None:
    # Unit 1 is renewed; w_out = (-1, 0), and its bias-corrected mean activation is 1.
    net = tiny.network()
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=0.5, correct_next_bias=correct)
    tiny.attached(cbp, net)
    mean_before = net(tiny.INPUTS).mean(dim=0)
    cbp.after_gradient_step(tiny.step())
    torch.testing.assert_close(net.head.bias, torch.tensor(head_bias))
    if correct:
        torch.testing.assert_close(net(tiny.INPUTS).mean(dim=0), mean_before)


def test_the_next_bias_is_corrected_by_the_effective_weight() -> None:
    net = tiny.network()
    SpectralNorm(heads=True).build({"net": net}, torch.Generator().manual_seed(0))
    effective = net.head.weight.detach().clone()
    assert not torch.allclose(effective, trainable_weight(net.head))
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=0.5, correct_next_bias=True)
    tiny.attached(cbp, net)
    cbp.after_gradient_step(tiny.step())
    torch.testing.assert_close(net.head.bias, effective[:, 1])  # unit 1 has the mean activation 1
    assert (net.head.weight[:, 1] == 0).all()


def test_a_renewed_unit_starts_with_no_memory() -> None:
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=0.5, utility="zero_contribution")
    tiny.attached(cbp, tiny.network())
    cbp.after_gradient_step(tiny.step())  # the means are (2, 1), the running means 0.01 times that
    state = _layer_state(cbp)
    torch.testing.assert_close(state["mean_activation"], torch.tensor([0.02, 0.0]))
    torch.testing.assert_close(state["utility"], torch.tensor([0.02, 0.0]))
    assert state["age"].tolist() == [1, 0]


def test_correcting_the_next_bias_needs_one() -> None:
    net = tiny.network()
    net.head.bias = None
    with pytest.raises(ValueError, match="what reads net/hidden_0 has none"):
        tiny.attached(ContinualBackprop(correct_next_bias=True), net)
    tiny.attached(ContinualBackprop(), net)


@pytest.mark.parametrize("reset", [False, True])
def test_moments_of_renewed_weights_are_zeroed_on_request(reset: bool) -> None:
    net = tiny.network(normalisation="layernorm")
    optimizer = tiny.adam_with_moments(net)
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=0.5, reset_moments=reset)
    tiny.attached(cbp, net, optimizer)
    cbp.after_gradient_step(tiny.step())
    one_unit = [False, reset]
    assert tiny.zero_moments(optimizer, net.body.linear_0.weight).tolist() == [[False] * 2, [reset] * 2]
    assert tiny.zero_moments(optimizer, net.head.weight).tolist() == [one_unit, one_unit]
    for per_unit in (net.body.linear_0.bias, net.body.norm_0.weight, net.body.norm_0.bias):
        assert tiny.zero_moments(optimizer, per_unit).tolist() == one_unit
    assert not tiny.zero_moments(optimizer, net.head.bias).any()
    assert all(state["step"] == 7 for state in optimizer.state.values())


def test_renewed_unit_gets_the_scale_and_shift_of_a_new_normalisation() -> None:
    net = tiny.network(normalisation="layernorm")
    with torch.no_grad():
        net.body.norm_0.weight.fill_(5.0)
        net.body.norm_0.bias.fill_(-3.0)
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=0.5)
    tiny.attached(cbp, net)
    cbp.after_gradient_step(tiny.step())
    assert net.body.norm_0.weight.tolist() == [5.0, 1.0]
    assert net.body.norm_0.bias.tolist() == [-3.0, 0.0]


def test_channels_are_units_and_every_tap_of_a_reader_counts() -> None:
    net = SmallConvNet(0)
    cbp = ContinualBackprop(
        maturity_threshold=0, replacement_rate=0.25, decay_rate=0.0, correct_next_bias=True, replacement="accumulate"
    )
    tiny.attached(cbp, net)
    generator = torch.Generator().manual_seed(1)
    shapes = ((7, 3, 5, 5), (7, 4, 2, 2), (7, 6))
    activations = [torch.rand(*shape, generator=generator) for shape in shapes]
    readers = (net.conv_1, net.linear, net.head)
    expected = [
        activations[0].abs().mean(dim=(0, 2, 3)) * net.conv_1.weight.detach().abs().mean(dim=(0, 2, 3)),
        activations[1].abs().mean(dim=(0, 2, 3)) * net.linear.weight.detach().abs().view(6, 4, 4).mean(dim=(0, 2)),
        activations[2].abs().mean(dim=0) * net.head.weight.detach().abs().mean(dim=0),
    ]
    linear_weight, linear_bias = net.linear.weight.detach().clone(), net.linear.bias.detach().clone()
    cbp.after_gradient_step(tiny.step(1, *activations))  # expected 0.75, 1 and 1.5 units: one channel and one unit

    unit = int(expected[1].argmin())
    assert cbp.state_dict()["layers"]["net/conv_0"]["age"].tolist() == [1, 1, 1]
    torch.testing.assert_close(cbp.state_dict()["layers"]["net/conv_0"]["utility"], expected[0])
    taps = slice(4 * unit, 4 * unit + 4)
    other = torch.ones(16, dtype=torch.bool)
    other[taps] = False
    renewed_row = int(expected[2].argmin())
    kept_rows = [row for row in range(6) if row != renewed_row]
    assert (net.linear.weight[kept_rows][:, taps] == 0).all()
    assert torch.equal(net.linear.weight[kept_rows][:, other], linear_weight[kept_rows][:, other])
    mean = activations[1].mean(dim=(0, 2, 3))[unit]
    torch.testing.assert_close(
        net.linear.bias[kept_rows], (linear_bias + linear_weight[:, taps].sum(dim=1) * mean)[kept_rows]
    )
    assert (readers[2].weight[:, renewed_row] == 0).all()


def test_fresh_weights_of_the_second_layer_overwrite_the_zeros_of_the_first() -> None:
    net = MLP(2, 2, NetworkOptions(hidden=(2, 2)), seed=0)
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=1.0)
    tiny.attached(cbp, net)
    cbp.after_gradient_step(tiny.step(1, tiny.ACTIVATIONS, tiny.ACTIVATIONS))
    assert (net.body.linear_1.weight != 0).all()
    assert (net.head.weight == 0).all()


def _looped_cbp(net: MLP, steps: int, training: Training, rate: float, maturity: int, eta: float) -> int:
    """Continual backprop on an MLP, unit by unit in Python numbers; trains `net` and counts replacements."""
    linears = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    data = torch.Generator().manual_seed(3)
    utility = [[0.0] * layer.out_features for layer in linears[:-1]]
    age = [[0] * layer.out_features for layer in linears[:-1]]
    replaced = 0
    for _ in range(steps):
        inputs = torch.randn(8, 3, generator=data, dtype=torch.float64)
        hidden = [torch.relu(linears[0](inputs))]
        hidden.append(torch.relu(linears[1](hidden[0])))
        loss = (linears[2](hidden[1]) - inputs[:, :2]).square().mean()
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()
        for layer, h in enumerate(hidden):
            for unit in range(h.shape[1]):
                age[layer][unit] += 1
                size = sum(abs(x) for x in h[:, unit].tolist()) / len(h)
                column = linears[layer + 1].weight[:, unit].tolist()
                outgoing = sum(abs(w) for w in column) / len(column)
                utility[layer][unit] = eta * utility[layer][unit] + (1 - eta) * size * outgoing
        old = [[unit for unit, a in enumerate(ages) if a > maturity] for ages in age]
        if not any(old):
            continue
        draws = torch.rand(2, generator=training.generator, dtype=torch.float64).tolist()
        for layer, (units, draw) in enumerate(zip(old, draws, strict=True)):
            if draw >= rate * len(units):
                continue
            unit = min(units, key=lambda k: utility[layer][k] / (1 - eta ** age[layer][k]))
            with torch.no_grad():
                fan_in = linears[layer].in_features
                bound = (3 / fan_in) ** 0.5
                fresh = torch.empty(1, fan_in, dtype=torch.float64).uniform_(
                    -bound, bound, generator=training.generator
                )
                linears[layer].weight[unit] = fresh[0]
                linears[layer].bias[unit] = 0
                linears[layer + 1].weight[:, unit] = 0
            utility[layer][unit], age[layer][unit] = 0.0, 0
            replaced += 1
    return replaced


def _network(**options: Any) -> MLP:
    return MLP(3, 2, NetworkOptions(hidden=(6, 5), **options), seed=4).to(torch.float64)


def _train(net: MLP, cbp: ContinualBackprop, steps: int, optimizer: torch.optim.Optimizer) -> None:
    data = torch.Generator().manual_seed(3)
    for count in range(1, steps + 1):
        inputs = torch.randn(8, 3, generator=data, dtype=torch.float64)
        h0 = net.body[1](net.body[0](inputs))
        h1 = net.body[3](net.body[2](h0))
        optimizer.zero_grad()
        (net.head(h1) - inputs[:, :2]).square().mean().backward()
        optimizer.step()
        cbp.after_gradient_step(tiny.step(count, h0.detach(), h1.detach()))


def test_equals_a_loop_over_units() -> None:
    looped, vectorised = _network(), _network()
    options = {"replacement_rate": 0.02, "maturity_threshold": 15, "decay_rate": 0.9}
    adam = torch.optim.Adam(looped.parameters(), lr=1e-2, betas=(0.99, 0.99), weight_decay=1e-4)
    replaced = _looped_cbp(looped, 300, Training({}, adam, torch.Generator().manual_seed(7)), 0.02, 15, 0.9)
    cbp = ContinualBackprop(**options)
    adam = torch.optim.Adam(vectorised.parameters(), lr=1e-2, betas=(0.99, 0.99), weight_decay=1e-4)
    tiny.attached(cbp, vectorised, adam, seed=7)
    _train(vectorised, cbp, 300, adam)

    assert cbp.replaced == replaced
    assert replaced > 30
    for a, b in itertools.zip_longest(looped.parameters(), vectorised.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_commutes_with_a_permutation_of_the_units() -> None:
    order = torch.tensor([3, 0, 1, 4, 2])
    plain, permuted = _network(activation="tanh"), _network(activation="tanh")  # no unit is silent: no ties
    with torch.no_grad():
        permuted.body.linear_1.weight.copy_(plain.body.linear_1.weight[order])
        permuted.head.weight.copy_(plain.head.weight[:, order])
    for net in (plain, permuted):
        cbp = ContinualBackprop(replacement_rate=0.02, maturity_threshold=5)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        tiny.attached(cbp, net, optimizer)
        _train(net, cbp, 80, optimizer)
        assert cbp.replaced > 5
    torch.testing.assert_close(permuted.body.linear_1.weight, plain.body.linear_1.weight[order], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(permuted.head.weight, plain.head.weight[:, order], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(permuted.body.linear_0.weight, plain.body.linear_0.weight, rtol=1e-9, atol=1e-12)


def test_state_of_other_networks_is_refused() -> None:
    small, large = ContinualBackprop(), ContinualBackprop()
    tiny.attached(small, tiny.network())
    tiny.attached(large, MLP(2, 2, NetworkOptions(hidden=(3,)), seed=0))
    with pytest.raises(ValueError, match=r"\{'net/hidden_0': 2\}, these networks have \{'net/hidden_0': 3\}"):
        large.load_state_dict(small.state_dict())


def test_a_saved_state_does_not_move_with_training() -> None:
    cbp = ContinualBackprop()
    tiny.attached(cbp, tiny.network())
    saved = cbp.state_dict()
    cbp.after_gradient_step(tiny.step())
    assert saved["layers"]["net/hidden_0"]["age"].tolist() == [0, 0]
    assert saved["layers"]["net/hidden_0"]["utility"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "options",
    [{"replacement_rate": 1.5}, {"decay_rate": 1.0}, {"maturity_threshold": -1}, {"utility": "worth"}, {"rate": 0.1}],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ContinualBackprop(**options)


def test_follows_the_layers_of_the_network_in_order() -> None:
    net = _network()
    cbp = ContinualBackprop()
    tiny.attached(cbp, net)
    names = [f"net/{layer.name}" for layer in hidden_layers(net)]
    assert list(cbp.state_dict()["layers"]) == names
