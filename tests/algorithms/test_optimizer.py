"""From options to optimisers."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lop_ray.algorithms.optimizer import make_optimizer
from lop_ray.algorithms.spec import OptimizerOptions, UPGDOptions
from lop_ray.networks import MLP, NetworkOptions
from lop_ray.optimizers import UPGD


def made(network: nn.Module | None = None, **options: object) -> torch.optim.Optimizer:
    network = network or MLP(3, 2, NetworkOptions(hidden=(4,), normalisation="layernorm"), seed=0)
    log_std = nn.Parameter(torch.zeros(2))
    return make_optimizer(
        [*network.parameters(), log_std], OptimizerOptions(**options), 0.1, networks=[network], seed=3
    )


def test_sgd_is_torchs() -> None:
    optimizer = made(name="sgd", momentum=0.9, weight_decay=0.01)
    assert type(optimizer) is torch.optim.SGD
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 0.01)
    assert made(name="sgd").param_groups[0]["momentum"] == 0.0


def test_upgd_has_the_published_settings_for_ppo_by_default() -> None:
    group = made(name="ada_upgd", weight_decay=1e-3, decoupled=True, eps=1e-5).param_groups[0]
    # adaupgd.py: beta_utility 0.999, sigma 0.001, beta1 0.9, beta2 0.999, eps 1e-5, alpha -2 lr, wd 0.001 outside it
    assert (group["utility_decay"], group["noise"], group["step_scale"]) == (0.999, 0.001, 2.0)
    assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-5)
    assert (group["weight_decay"], group["decoupled"], group["gate"]) == (1e-3, True, None)
    assert made(name="upgd").param_groups[0]["betas"] is None


def test_every_option_of_upgd_reaches_it() -> None:
    options = {
        "utility_decay": 0.5, "noise": 0.2, "step_scale": 1.0, "utility": "local", "maximum": "uncorrected",
        "protect": False,
    }  # fmt: skip
    group = made(name="upgd", upgd=options).param_groups[0]
    assert {key: group[key] for key in options} == options
    assert {*options, "layers", "ungated"} == set(UPGDOptions.model_fields)


@pytest.mark.parametrize(("layers", "gated", "others"), [("hidden", [12, 4, 4, 4], [8, 2, 2]), ("output", [8, 2], [12, 4, 4, 4, 2])])  # fmt: skip  # noqa: E501
def test_gated_layers_are_told_apart(layers: str, gated: list[int], others: list[int]) -> None:
    first, second = made(name="ada_upgd", upgd={"layers": layers, "ungated": 0.25}).param_groups
    assert (first["gate"], second["gate"]) == (None, 0.25)
    assert sorted(p.numel() for p in first["params"]) == sorted(gated)
    assert sorted(p.numel() for p in second["params"]) == sorted(others)


def test_layers_cannot_be_told_apart_without_networks() -> None:
    options = OptimizerOptions(name="upgd", upgd=UPGDOptions(layers="hidden"))
    with pytest.raises(ValueError, match="layers: hidden needs the networks"):
        make_optimizer([nn.Parameter(torch.ones(2))], options, 0.1)


def test_noise_is_the_trials() -> None:
    first, again, other = (
        make_optimizer([nn.Parameter(torch.ones(2))], OptimizerOptions(name="upgd"), 0.1, seed=seed)
        for seed in (0, 0, 1)
    )
    assert isinstance(first, UPGD)
    assert torch.equal(first.generator.get_state(), again.generator.get_state())
    assert not torch.equal(first.generator.get_state(), other.generator.get_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 0.9}, "momentum belongs to name: sgd, not to adam"),
        ({"upgd": {}}, "upgd belongs to name: upgd or ada_upgd, not to adam"),
        ({"name": "sgd", "decoupled": True, "weight_decay": 0.1}, "decoupled is not there for name: sgd"),
        ({"name": "upgd", "upgd": {"sigma": 1}}, "sigma"),
    ],
)
def test_settings_of_another_optimiser_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OptimizerOptions(**options)


def test_what_an_optimiser_lacks_is_not_part_of_its_identity() -> None:
    assert set(OptimizerOptions().model_dump()) == {"name", "betas", "eps", "weight_decay", "decoupled"}
    assert "momentum" in OptimizerOptions(name="sgd", momentum=0.9).model_dump()
    options = OptimizerOptions(name="upgd")
    assert options.model_dump()["upgd"] == UPGDOptions().model_dump()
    assert OptimizerOptions(**options.model_dump(mode="json")) == options
