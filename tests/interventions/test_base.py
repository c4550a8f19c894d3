"""Composition: order, random streams, activations, penalties, states, and the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lop_ray.interventions import (
    INTERVENTIONS,
    GradientStep,
    Intervention,
    Interventions,
    LossStep,
    Training,
    make_interventions,
)
from tests.interventions import tiny

LOSS_STEP = LossStep(tiny.INPUTS, tiny.INPUTS, {}, {})


class Recorder(Intervention):
    """Writes down what it is told, and draws a number at every gradient step."""

    wants_activations = True

    def __init__(self, log: list[Any], name: str = "a", penalty: float | None = None):
        super().__init__()
        self.log, self.name, self.penalty = log, name, penalty
        self.draws: list[float] = []
        self.steps: list[GradientStep] = []
        self.loss_steps: list[LossStep] = []

    def build(self, networks: Mapping[str, torch.nn.Module], generator: torch.Generator) -> None:
        self.draws.append(torch.rand((), generator=generator).item())

    def loss_term(self, step: LossStep) -> Tensor | None:
        self.loss_steps.append(step)
        return None if self.penalty is None else torch.tensor(self.penalty)

    def after_gradient_step(self, step: GradientStep) -> None:
        self.log.append((self.name, "gradient step", step.count))
        self.steps.append(step)
        self.draws.append(torch.rand((), generator=self.training.generator).item())

    def after_update(self, step: GradientStep) -> None:
        self.log.append((self.name, "update", step.count))

    def at_task_change(self, task: int) -> None:
        self.log.append((self.name, "task", task))

    def state_dict(self) -> dict[str, Any]:
        return {"draws": list(self.draws)}

    def load_state_dict(self, state: Any) -> None:
        self.draws = list(state["draws"])


def _attached(members: dict[str, Intervention]) -> tuple[Interventions, torch.nn.Module]:
    interventions, net = Interventions(members), tiny.network()
    optimizer = torch.optim.Adam(net.parameters())
    interventions.attach(Training({"net": net}, optimizer, torch.Generator().manual_seed(3)))
    return interventions, net


def test_members_act_in_order_at_every_moment() -> None:
    log: list[Any] = []
    interventions, net = _attached({"b": Recorder(log, "b"), "a": Recorder(log, "a")})
    net(tiny.INPUTS)
    interventions.after_gradient_step(1, tiny.INPUTS)
    interventions.after_update(1, tiny.INPUTS)
    interventions.at_task_change(2)
    assert log == [
        ("b", "gradient step", 1),
        ("a", "gradient step", 1),
        ("b", "update", 1),
        ("a", "update", 1),
        ("b", "task", 2),
        ("a", "task", 2),
    ]


def test_a_step_carries_activations_of_the_training_pass_and_the_inputs() -> None:
    recorder = Recorder([])
    interventions, net = _attached({"a": recorder})
    net(tiny.INPUTS)
    net.eval()(torch.zeros(5, 2))
    interventions.after_gradient_step(1, tiny.INPUTS)
    step = recorder.steps[0]
    torch.testing.assert_close(step.activations["net"][0], tiny.ACTIVATIONS)
    assert not step.activations["net"][0].requires_grad
    assert step.inputs is tiny.INPUTS


def test_stepping_without_a_pass_in_training_mode_is_refused() -> None:
    interventions, net = _attached({"a": Recorder([])})
    net.eval()(tiny.INPUTS)
    with pytest.raises(RuntimeError, match=r"'net' was stepped without .* call network.train\(\)"):
        interventions.after_gradient_step(1, tiny.INPUTS)


def test_networks_are_tapped_only_if_a_member_asks() -> None:
    silent = Recorder([])
    silent.wants_activations = False
    _, net = _attached({"a": silent})
    assert not net.body.activation_0._forward_hooks
    _, net = _attached({"a": Recorder([])})
    assert net.body.activation_0._forward_hooks


def test_penalties_are_added_and_absent_ones_left_out() -> None:
    def penalty(*values: float | None) -> Tensor | None:
        recorders = [Recorder([], penalty=v) for v in values]
        interventions = Interventions({str(i): recorder for i, recorder in enumerate(recorders)})
        assert interventions.penalise == bool(values)
        term = interventions.loss_term(LOSS_STEP)
        assert all(recorder.loss_steps == [LOSS_STEP] for recorder in recorders)
        return term

    assert penalty() is None
    assert penalty(None) is None
    assert penalty(0.5, None, 0.25) == 0.75


def test_each_member_gets_what_draws_fresh_networks() -> None:
    recorder, net = Recorder([]), tiny.network()
    optimizer = torch.optim.Adam(net.parameters())

    def fresh(_: torch.Generator) -> dict[str, torch.nn.Module]:
        return {"net": tiny.network()}

    Interventions({"a": recorder}).attach(Training({"net": net}, optimizer, torch.Generator(), fresh))
    assert recorder.training.fresh is fresh
    assert _attached({"a": recorder})[0].members["a"].training.fresh is None


def test_adding_a_member_does_not_change_what_another_draws() -> None:
    alone, composed = Recorder([]), Recorder([])
    for members in ({"a": alone}, {"b": Recorder([]), "a": composed}):
        interventions, net = _attached(members)
        interventions.build({"net": net}, torch.Generator().manual_seed(3))
        net(tiny.INPUTS)
        interventions.after_gradient_step(1, tiny.INPUTS)
    assert alone.draws == composed.draws
    other = interventions.members["b"].draws
    assert len(set(other + composed.draws)) == 4


def test_state_brings_back_members_and_their_generators() -> None:
    first, second = _attached({"a": Recorder([])}), _attached({"a": Recorder([])})
    for _, net in (first, second):
        net(tiny.INPUTS)
    first[0].after_gradient_step(1, tiny.INPUTS)
    second[0].load_state_dict(first[0].state_dict())
    for interventions, _ in (first, second):
        interventions.after_gradient_step(2, tiny.INPUTS)
    draws = first[0].members["a"].draws
    assert draws == second[0].members["a"].draws
    assert len(set(draws)) == 2


def test_state_of_other_interventions_is_refused() -> None:
    first, second = _attached({"a": Recorder([])})[0], _attached({"b": Recorder([])})[0]
    with pytest.raises(ValueError, match=r"of the interventions \['a'\], this run has \['b'\]"):
        second.load_state_dict(first.state_dict())


def test_the_registry_makes_interventions_with_their_options_in_order() -> None:
    made = make_interventions({"redo": {"threshold": 0.3}, "cbp": {}})
    assert [type(member) for member in made.members.values()] == [INTERVENTIONS["redo"], INTERVENTIONS["cbp"]]
    assert made.members["redo"].options.threshold == 0.3
    assert make_interventions({}).members == {}


@pytest.mark.parametrize(("name", "near"), [("spectralnorm", "spectral_norm"), ("ReDo", "redo"), ("CPB", "cbp")])
def test_an_unknown_intervention_is_refused_with_the_nearest_name(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown intervention {name!r}; did you mean {near!r}") as error:
        make_interventions({name: {}})
    assert "known: cbp, redo, spectral_norm" in str(error.value)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError, match="tau"):
        make_interventions({"redo": {"tau": 0.1}})
