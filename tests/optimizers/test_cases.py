"""Every optimiser on every network, and every intervention on the optimisers that torch does not have."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from lop_ray.algorithms.optimizer import make_optimizer
from lop_ray.algorithms.spec import OptimizerOptions
from lop_ray.diagnostics import DiagnosticSuite
from lop_ray.networks import MLP, NetworkOptions
from tests.cases import INTERVENTIONS, NETWORKS, OPTIMIZERS, Trainer


def _on_disk(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [each for key in value for each in _flat(value[key])]
    return [each for item in value for each in _flat(item)] if isinstance(value, list | tuple) else [value]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_continues_bit_for_bit_and_learns(network: str, optimizer: str) -> None:
    def trainer() -> Trainer:
        return Trainer(NETWORKS[network], INTERVENTIONS["cbp"], optimizer=OPTIMIZERS[optimizer])

    straight, half, resumed = trainer(), trainer(), trainer()
    straight.train(16)
    half.train(8)
    resumed.load_state_dict(_on_disk(half.state_dict()))
    resumed.train(8)
    pairs = list(zip(_flat(straight.state_dict()), _flat(resumed.state_dict()), strict=True))
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)
    for p, start in zip(straight.network.parameters(), trainer().network.parameters(), strict=True):
        assert p.isfinite().all()
        assert not torch.equal(p, start)


@pytest.mark.parametrize("optimizer", ["sgd", "ada_upgd"])
@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_every_intervention_works_with_it_or_says_that_it_needs_adam(intervention: str, optimizer: str) -> None:
    spec = INTERVENTIONS[intervention]
    if "adam_rel" in spec or any(options.get("step") == "zero" for options in spec.values()):
        with pytest.raises(ValueError, match=r"needs Adam's count of steps, which (SGD|UPGD) does not have"):
            Trainer(NETWORKS["mlp_layernorm"], spec, optimizer=OPTIMIZERS[optimizer])
        return
    trainer = Trainer(NETWORKS["mlp_layernorm"], spec, optimizer=OPTIMIZERS[optimizer])
    trainer.train(12)
    assert all(p.isfinite().all() for p in trainer.network.parameters())


def test_the_plasticity_probe_trains_copies_by_upgd_one_by_one() -> None:
    """Stacked copies would share one maximum of utilities; the result must not depend on how many there are."""
    network = MLP(3, 2, NetworkOptions(hidden=(5,)), seed=0)
    optimizer = make_optimizer(network.parameters(), OptimizerOptions(name="ada_upgd"), 0.01)
    inputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    network(inputs).square().mean().backward()
    optimizer.step()
    losses = []
    for targets in (1, 3):
        suite = DiagnosticSuite({"probe": {"targets": targets, "steps": 20, "points": 5, "samples": 40}})
        suite_rows = suite.measure(
            update=0, networks={"net": network}, observations=inputs, extra={"optimizers": {"net": optimizer}}
        )
        spectra = {row["spectrum"]: row["x"] for row in suite_rows.spectra}
        losses.append(spectra["probe_functions_final_losses"])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
