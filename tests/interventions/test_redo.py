"""ReDo: which units are dormant, and what recycling does to them, worked out by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lop_ray.interventions import ReDo
from lop_ray.networks import MLP, NetworkOptions, by_unit, hidden_layers, outgoing_columns, record
from lop_ray.networks.conv import ConvNet, ConvOptions
from lop_ray.networks.impala import ImpalaNet, ImpalaOptions
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


def _act(redo: ReDo, updates: int, activations: Tensor = SILENT_UNIT_1) -> list[int]:
    """Updates of 2 gradient steps, numbered from 1; returns those at which units were recycled."""
    acted = []
    for update in range(1, updates + 1):
        before = redo.replaced
        for count in (2 * update - 1, 2 * update):
            redo.after_gradient_step(tiny.step(count, activations))
        assert redo.replaced == before
        redo.after_update(tiny.step(2 * update, activations))
        if redo.replaced > before:
            acted.append(update)
    return acted


def test_a_period_in_updates() -> None:
    redo = ReDo(period=3, period_unit="updates")
    tiny.attached(redo, tiny.network())
    assert _act(redo, 7) == [3, 6]


def test_a_period_in_gradient_steps_does_not_act_after_updates() -> None:
    redo = ReDo(period=1)
    tiny.attached(redo, tiny.network())
    redo.after_update(tiny.step(1, SILENT_UNIT_1))
    assert redo.replaced == 0


def test_the_count_of_updates_survives_a_restart() -> None:
    redo, resumed = (ReDo(period=3, period_unit="updates") for _ in range(2))
    tiny.attached(redo, tiny.network())
    _act(redo, 4)
    tiny.attached(resumed, tiny.network())
    resumed.load_state_dict(redo.state_dict())
    assert _act(resumed, 5) == [2, 5]  # the 6th and the 9th


def test_states_from_before_there_were_periods_in_updates_are_read() -> None:
    redo = ReDo()
    tiny.attached(redo, tiny.network())
    assert redo.state_dict() == {"replaced": 0}
    redo.load_state_dict({"replaced": 7})
    assert redo.state_dict() == {"replaced": 7}


def test_later_options_are_dumped_only_where_they_differ_from_what_always_was() -> None:
    # Trials' ids are hashes of what is dumped.
    names = {"period_unit", "outgoing"}
    for mode in ("json", "python"):
        assert not names & ReDo(period_unit="gradient_steps", outgoing="zero").options.model_dump(mode=mode).keys()
        dumped = ReDo(period_unit="updates", outgoing="keep").options.model_dump(mode=mode)
        assert {name: dumped[name] for name in names} == {"period_unit": "updates", "outgoing": "keep"}
        assert ReDo(**dumped).options == ReDo(period_unit="updates", outgoing="keep").options


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


def _conv_net() -> ConvNet:
    options = ConvOptions(channels=(4, 6), hidden=(8,))
    return ConvNet((8, 8, 2), {"policy": 3, "value": 1}, options, seed=0)


def _impala_net() -> ImpalaNet:
    options = ImpalaOptions(channels=(4, 6), blocks=1, hidden=(8,), activation="crelu")
    return ImpalaNet((8, 8, 2), {"policy": 3, "value": 1}, options, seed=0)


_IMAGES = torch.randint(0, 256, (5, 8, 8, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def _kill(net: torch.nn.Module, *units: int) -> None:
    """Makes the same units of every hidden layer silent on all inputs (CReLU: z = 0)."""
    with torch.no_grad():
        for layer in hidden_layers(net):
            layer.incoming.weight[list(units)] = 0.0
            layer.incoming.bias[list(units)] = 0.0 if layer.outputs > 1 else -1.0


@pytest.mark.parametrize(("make", "unit"), [(_conv_net, 2), (_impala_net, 1)])
@pytest.mark.parametrize("score_batch", ["minibatch_anew", "update"])
def test_dead_channels_of_image_networks_are_recycled(make: Any, unit: int, score_batch: str) -> None:
    net = make()
    _kill(net, unit)
    silent = [by_unit(h).abs().amax(0) == 0 for h in record(net, _IMAGES).activations]
    redo = ReDo(score_batch=score_batch, threshold=0.0, period=1, silent="reset", score="per_sample")
    tiny.attached(redo, net)
    net.train()(_IMAGES)
    before = tiny.snapshot(net)
    redo.after_gradient_step(tiny.step(1, inputs=_IMAGES))
    assert redo.replaced == sum(int(units.sum()) for units in silent)
    allowed = {id(m): torch.zeros_like(m.weight, dtype=torch.bool) for m in net.modules() if hasattr(m, "weight")}
    for layer, units in zip(hidden_layers(net), silent, strict=True):
        assert units[unit]
        assert layer.incoming.weight[units].flatten(1).any(dim=1).all()
        allowed[id(layer.incoming)][units] = True
        for reader in layer.readers:
            outgoing_columns(reader, layer.units, allowed[id(reader)])[:, units] = True
            drawn = [u for other, u in zip(hidden_layers(net), silent, strict=True) if other.incoming is reader]
            rows = ~drawn[0] if drawn else torch.ones(len(reader.weight), dtype=torch.bool)  # not drawn anew themselves
            assert (outgoing_columns(reader, layer.units)[rows][:, units] == 0).all()
    for name, module in net.named_modules():
        if id(module) in allowed:
            assert not ((module.weight != before[f"{name}.weight"]) & ~allowed[id(module)]).any(), name


@pytest.mark.parametrize(
    ("outgoing", "zeroed"),
    [
        ("zero", [True, True, True, True]),
        ("keep", [False, False, False, False]),
        ("same_kind", [True, False, True, False]),  # convolution to Linear, and the value head, are as they were
    ],
)
def test_outgoing_rule(outgoing: str, zeroed: list[bool]) -> None:
    net = _conv_net()
    optimizer = tiny.adam_with_moments(net)
    redo = ReDo(outgoing=outgoing, moments="zero")
    tiny.attached(redo, net, optimizer)
    activations = [torch.ones(1, 4, 4, 4), torch.ones(1, 6, 2, 2), torch.ones(1, 8)]
    for each in activations:
        each[:, 2] = 0.0
    redo.after_gradient_step(tiny.step(100, *activations))
    assert redo.replaced == 3
    conv_0, conv_1, hidden = hidden_layers(net)
    pairs = [
        (conv_0, conv_1.incoming),
        (conv_1, hidden.incoming),
        (hidden, net.heads.policy),
        (hidden, net.heads.value),
    ]
    others = [0, 1]  # rows of the reader that were not drawn anew themselves
    for (layer, reader), expected in zip(pairs, zeroed, strict=True):
        rows = others if len(reader.weight) > 1 else [0]
        assert bool((outgoing_columns(reader, layer.units)[rows, 2] == 0).all()) is expected
        moments = tiny.zero_moments(optimizer, reader.weight)
        assert bool(outgoing_columns(reader, layer.units, moments)[rows, 2].all()) is expected


def test_the_minibatch_is_scored_anew_with_the_weights_after_the_step() -> None:
    net = tiny.network()
    redo = ReDo(score_batch="minibatch_anew", threshold=0.0, period=1)
    tiny.attached(redo, net)
    net.train()(tiny.INPUTS)  # both units are active
    net.eval()(-tiny.INPUTS)  # not the minibatch of a step
    with torch.no_grad():
        net.body.linear_0.weight[1] = torch.tensor([-1.0, -5.0])  # (-6, 2): still active on the second input
    redo.after_gradient_step(tiny.step(1, SILENT_UNIT_1))
    assert redo.replaced == 0
    with torch.no_grad():
        net.body.linear_0.weight[1] = torch.tensor([-3.0, -5.0])  # (-8, -4)
    before = tiny.snapshot(net)
    redo.after_gradient_step(tiny.step(2, SILENT_UNIT_1))
    assert tiny.rows_changed(net, before) == [1]


def test_a_copy_of_the_network_in_training_is_no_minibatch_of_a_step() -> None:
    net = tiny.network()
    redo = ReDo(score_batch="minibatch_anew", threshold=0.0, period=1)
    tiny.attached(redo, net)
    net.train()(tiny.INPUTS)
    copy.deepcopy(net).train()(torch.tensor([[1.0, -1.0]]))  # unit 1 would be silent
    redo.after_gradient_step(tiny.step(1))
    assert redo.replaced == 0


def test_juliani_and_ashs_rule_on_one_layer_by_hand() -> None:
    # As redo_reset computes it: |h| / mean over units, per position; mean over samples and positions.
    image = torch.zeros(1, 3, 1, 2)
    image[0, :, 0, 0] = torch.tensor([6.0, 0.0, 3.0])  # mean 3: 2, 0, 1
    image[0, :, 0, 1] = torch.tensor([0.0, 0.1, 5.9])  # mean 2: 0, 0.05, 2.95
    rule = {"score": "per_sample", "score_batch": "minibatch_anew"}  # scores 1, 0.025, 1.975
    assert ReDo(**rule, threshold=0.02501).dormant(image).tolist() == [False, True, False]
    assert ReDo(**rule, threshold=0.02499).dormant(image).tolist() == [False, False, False]
    image[0, :, 0, 1] = 0.0  # one silent position leaves all scores undefined
    assert ReDo(**rule, threshold=0.02501).dormant(image).tolist() == [False, False, False]


@pytest.mark.parametrize(
    "options", [{"threshold": -0.1}, {"period": 0}, {"score": "mean"}, {"tau": 0.1}, {"period_unit": "epochs"}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReDo(**options)
