"""ReDo: which units are dormant, and what recycling does to them, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lop_ray.interventions import ReDo
from lop_ray.networks import MLP, NetworkOptions
from tests.cases import SmallConvNet
from tests.interventions import tiny

# E|h| = (0, 0.6, 6.9), mean 2.5: scores (0, 0.24, 2.76). Sample by sample the means are 2 and 3, the scores
# (0, 0.5, 2.5) and (0, 0.2/3, 8.8/3), their average (0, 0.2833, 2.7167).
H = torch.tensor([[0.0, -1.0, 5.0], [0.0, 0.2, -8.8]])
SILENT_UNIT_1 = torch.tensor([[1.0, 0.0], [3.0, 0.0]])


def _recycled(options: dict[str, Any], net: MLP, activations: Tensor = SILENT_UNIT_1, count: int = 100) -> list[int]:
    redo = ReDo(**options)
    tiny.attached(redo, net)
    before = tiny.snapshot(net)
    redo.after_gradient_step(tiny.step(count, activations))
    rows = tiny.rows_changed(net, before)
    assert redo.replaced == len(rows)
    return rows


def test_defaults_are_those_of_the_ant_grid() -> None:
    assert ReDo().options.model_dump() == {
        "threshold": 0.1,
        "period": 100,
        "score_batch": "minibatch",
        "score": "layer_mean",
        "silent": "keep",
        "incoming": "network",
        "bias": "zero",
        "moments": "keep",
        "step": "keep",
    }


@pytest.mark.parametrize(
    ("score", "threshold", "dormant"),
    [
        ("layer_mean", 0.0, [True, False, False]),
        ("layer_mean", 0.23, [True, False, False]),
        ("layer_mean", 0.25, [True, True, False]),
        ("layer_mean", 2.7, [True, True, False]),
        ("layer_mean", 2.8, [True, True, True]),
        ("per_sample", 0.25, [True, False, False]),
        ("per_sample", 0.29, [True, True, False]),
        ("per_sample", 2.72, [True, True, True]),
    ],
)
def test_dormant_units_are_those_with_a_score_up_to_tau(score: str, threshold: float, dormant: list[bool]) -> None:
    assert ReDo(score=score, threshold=threshold).dormant(H).tolist() == dormant


def test_a_score_equal_to_tau_is_dormant() -> None:
    assert ReDo(threshold=0.5).dormant(torch.tensor([[0.5, 1.5]])).tolist() == [True, False]


def test_positions_of_a_channel_are_samples() -> None:
    image = torch.zeros(2, 2, 1, 2)  # [B, channels, H, W]
    image[:, 0] = 3.0
    image[0, 1, 0, 0] = 4.0  # channel means 3 and 1: scores 1.5 and 0.5
    assert ReDo(threshold=0.49).dormant(image).tolist() == [False, False]
    assert ReDo(threshold=0.51).dormant(image).tolist() == [False, True]


@pytest.mark.parametrize("score", ["layer_mean", "per_sample"])
@pytest.mark.parametrize(("silent", "dormant"), [("keep", [False, False]), ("reset", [True, True])])
def test_a_silent_layer_is_kept_or_recycled_whole(score: str, silent: str, dormant: list[bool]) -> None:
    assert ReDo(score=score, silent=silent).dormant(torch.zeros(3, 2)).tolist() == dormant


@pytest.mark.parametrize(("silent", "dormant"), [("keep", [False, False]), ("reset", [False, True])])
def test_one_silent_sample_makes_per_sample_scores_undefined(silent: str, dormant: list[bool]) -> None:
    activations = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert ReDo(score="per_sample", silent=silent).dormant(activations).tolist() == dormant


def test_acts_only_at_multiples_of_the_period() -> None:
    assert [count for count in range(1, 401) if _recycled({"period": 150}, tiny.network(), count=count)] == [150, 300]


def test_recycling_renews_incoming_and_zeroes_outgoing_weights() -> None:
    net = tiny.network()
    with torch.no_grad():
        net.body.linear_0.bias.fill_(0.5)
        net.head.bias.fill_(0.25)
    assert _recycled({}, net) == [1]
    assert net.body.linear_0.weight[0].tolist() == [1.0, 0.0]
    assert net.body.linear_0.bias.tolist() == [0.5, 0.0]
    assert net.head.weight.tolist() == [[3.0, 0.0], [1.0, 0.0]]
    assert net.head.bias.tolist() == [0.25, 0.25]


def test_scores_of_all_layers_are_taken_before_any_is_changed() -> None:
    net = MLP(2, 2, NetworkOptions(hidden=(2, 2)), seed=0)
    redo = ReDo(score_batch="update", threshold=0.5, silent="reset")
    tiny.attached(redo, net)
    with torch.no_grad():  # the first layer is silent, the second is not: it has biases
        net.body.linear_0.bias.fill_(-100.0)
        net.body.linear_1.bias.copy_(torch.tensor([1.0, 1.0]))
    before = tiny.snapshot(net)
    redo.after_gradient_step(tiny.step(100))
    assert tiny.rows_changed(net, before, layer=0) == [0, 1]
    assert net.body.linear_1.bias.tolist() == [1.0, 1.0]
    assert (net.body.linear_1.weight == 0).all()


@pytest.mark.parametrize(("score_batch", "rows"), [("minibatch", [1]), ("update", [])])
def test_score_batch(score_batch: str, rows: list[int]) -> None:
    # On the activations of the step unit 1 is silent; on the update's inputs both units are active, (2, 1).
    net = tiny.network()
    assert _recycled({"score_batch": score_batch}, net) == rows


def test_a_pass_over_the_update_leaves_no_trace() -> None:
    net = tiny.network()
    redo = ReDo(score_batch="update")
    tiny.attached(redo, net)
    assert not redo.wants_activations
    before = tiny.snapshot(net)
    redo.after_gradient_step(tiny.step(100))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert net.training
    assert not net.body.activation_0._forward_hooks


@pytest.mark.parametrize(("incoming", "bound"), [("network", 3 / 2), ("xavier_uniform", 6 / 102)])
def test_incoming_weights_are_drawn_by_the_named_rule(incoming: str, bound: float) -> None:
    net = MLP(2, 1, NetworkOptions(hidden=(100,)), seed=0)  # fan in 2, fan out 100
    redo = ReDo(incoming=incoming, threshold=100.0)
    tiny.attached(redo, net)
    redo.after_gradient_step(tiny.step(100, torch.ones(1, 100)))
    largest = float(net.body.linear_0.weight.detach().abs().max())
    assert 0.95 * bound**0.5 < largest <= bound**0.5


@pytest.mark.parametrize("rule", ["zero", "reinitialise", "keep"])
def test_bias_rule(rule: str) -> None:
    net = tiny.network(init="torch_default")
    with torch.no_grad():
        net.body.linear_0.bias.fill_(7.0)
    _recycled({"bias": rule}, net)
    kept, recycled = net.body.linear_0.bias.tolist()
    assert kept == 7.0
    if rule == "reinitialise":
        assert 0 < abs(recycled) <= 0.5**0.5  # U(+-1 / sqrt(fan_in))
    else:
        assert recycled == {"zero": 0.0, "keep": 7.0}[rule]


@pytest.mark.parametrize("step", ["keep", "zero"])
@pytest.mark.parametrize("moments", ["keep", "zero", "zero_all"])
def test_moment_and_step_rules(moments: str, step: str) -> None:
    net = tiny.network(normalisation="layernorm")
    optimizer = tiny.adam_with_moments(net)
    redo = ReDo(moments=moments, step=step)
    tiny.attached(redo, net, optimizer)
    redo.after_gradient_step(tiny.step(100, SILENT_UNIT_1))

    kernels, biases = moments != "keep", moments == "zero_all"
    assert tiny.zero_moments(optimizer, net.body.linear_0.weight).tolist() == [[False] * 2, [kernels] * 2]
    assert tiny.zero_moments(optimizer, net.head.weight).tolist() == [[False, kernels]] * 2
    per_unit = (net.body.linear_0.bias, net.body.norm_0.weight, net.body.norm_0.bias)
    for parameter in per_unit:
        assert tiny.zero_moments(optimizer, parameter).tolist() == [False, biases]
    assert not tiny.zero_moments(optimizer, net.head.bias).any()

    restarted = {id(net.body.linear_0.weight), id(net.head.weight)} if step == "zero" else set()
    if step == "zero" and biases:
        restarted |= {id(parameter) for parameter in per_unit}
    assert {id(p) for p, state in optimizer.state.items() if state["step"] == 0} == restarted


def test_nothing_is_zeroed_when_no_unit_is_dormant() -> None:
    net = tiny.network()
    optimizer = tiny.adam_with_moments(net)
    redo = ReDo(moments="zero_all", step="zero")
    tiny.attached(redo, net, optimizer)
    redo.after_gradient_step(tiny.step(100))
    assert all(state["step"] == 7 for state in optimizer.state.values())
    assert not any(tiny.zero_moments(optimizer, p).any() for p in net.parameters())


def test_zero_step_needs_an_optimiser_that_counts() -> None:
    net = tiny.network()
    with pytest.raises(ValueError, match=r"count of steps, which SGD does not have"):
        tiny.attached(ReDo(step="zero"), net, torch.optim.SGD(net.parameters(), lr=0.1))


def test_recycled_channel_is_zeroed_at_every_tap() -> None:
    net = SmallConvNet(0)
    redo = ReDo()
    tiny.attached(redo, net)
    activations = [torch.ones(1, 3, 5, 5), torch.ones(1, 4, 2, 2), torch.ones(1, 6)]
    activations[1][:, 2] = 0.0
    before = tiny.snapshot(net)
    redo.after_gradient_step(tiny.step(100, *activations))
    assert tiny.rows_changed(net, before, layer=1) == [2]
    changed = (net.linear.weight != before["linear.weight"]).any(dim=0)
    assert changed.nonzero().flatten().tolist() == [8, 9, 10, 11]
    assert (net.linear.weight[:, 8:12] == 0).all()
    assert redo.replaced == 1


@pytest.mark.parametrize("options", [{"threshold": -0.1}, {"period": 0}, {"score": "mean"}, {"tau": 0.1}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReDo(**options)
