"""Observations in pieces and blocks: the numbers are those of everything at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lop_ray.diagnostics import DiagnosticSuite, pieces
from lop_ray.diagnostics.pieces import Passed, blocks, mean_over, record_pieces
from lop_ray.diagnostics.units import margins, margins_of, mean_activity
from lop_ray.networks import MLP, NetworkOptions, by_unit, record
from lop_ray.networks.conv import ConvNet, ConvOptions
from lop_ray.networks.impala import ImpalaNet, ImpalaOptions

HEADS = {"policy": 3, "value": 1}
NETWORKS = {
    "conv": lambda: ConvNet((8, 8, 2), HEADS, ConvOptions(channels=(4, 6), hidden=(8,)), seed=0),
    "crelu": lambda: ImpalaNet(
        (8, 8, 2), HEADS, ImpalaOptions(channels=(4, 6), blocks=1, hidden=(8,), activation="crelu"), seed=0
    ),
}
IMAGES = torch.randint(0, 256, (11, 8, 8, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images a piece, the last of three; a few rows a block."""
    monkeypatch.setattr(pieces, "_PIECE", 4 * 8 * 8 * 2)
    monkeypatch.setattr(pieces, "_BLOCK", 300)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pass_in_pieces_is_the_pass_at_once(name: str) -> None:
    net = NETWORKS[name]()
    whole, found = record(net, IMAGES), Passed.of(net, IMAGES)
    assert [len(piece.output) for piece in record_pieces(net, IMAGES)] == [4, 4, 3]
    torch.testing.assert_close(found.output, whole.output)
    for mine, theirs in zip(found.pre_activations, whole.pre_activations, strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(found.activations(5), whole.activations, strict=True):
        torch.testing.assert_close(mine, theirs[-5:])
    for mine, theirs in zip(margins_of(net, IMAGES), whole.pre_activations, strict=True):
        torch.testing.assert_close(mine.highest, margins(theirs).highest)
        torch.testing.assert_close(mine.lowest, margins(theirs).lowest)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_diagnostic_of_observations_gives_the_same_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = NETWORKS[name]()
    kinds = ["stable_rank", "effective_rank", "centred_effective_rank", "pca_rank"]
    options: dict[str, dict[str, Any]] = {
        "margins": {"neurons_every": 1},
        "dormant": {},
        "ranks": {"kinds": kinds, "spectra_every": 1, "ratio": 0.0},
        "features": {},
        "signal": {},
        "predictive_margins": {},
        "churn": {},
    }
    suite = DiagnosticSuite(options)
    found = []
    for limits in (None, (4 * 8 * 8 * 2, 300)):
        if limits is not None:
            monkeypatch.setattr(pieces, "_PIECE", limits[0])
            monkeypatch.setattr(pieces, "_BLOCK", limits[1])
        suite.remember(1, {"net": NETWORKS[name]()})
        found.append(suite.measure(update=1, networks={"net": net}, observations=IMAGES).tables())
    once, apart = found
    assert once.keys() == apart.keys() == {"layers", "neurons", "probes", "spectra"}
    for table in once:
        for mine, theirs in zip(apart[table], once[table], strict=True):
            assert mine.keys() == theirs.keys()
            for key, value in theirs.items():
                close = isinstance(value, float | list)
                assert mine[key] == (pytest.approx(value, rel=1e-5, abs=1e-6) if close else value), key


def test_thousands_of_vectors_are_one_piece_and_one_block() -> None:
    net = MLP(111, 8, NetworkOptions(hidden=(256, 256)), seed=0)
    inputs = torch.randn(4000, 111, generator=torch.Generator().manual_seed(0))
    whole, found = record(net, inputs), Passed.of(net, inputs)
    assert len(list(record_pieces(net, inputs))) == 1
    assert torch.equal(found.output, whole.output)
    for mine, theirs in zip(found.activations(4000), whole.activations, strict=True):
        assert torch.equal(mine, theirs)
        assert len(list(blocks(mine))) == 1
        assert torch.equal(mean_activity(mine), by_unit(mine).abs().mean(0))


def test_what_was_handed_on_is_seen_as_hooks_left_it() -> None:
    net = NETWORKS["conv"]()
    layer = net.hidden_layers()[1]
    layer.activation.register_forward_hook(lambda _module, _args, output: output.clamp(min=0.25))
    net.train()
    _, second, _ = Passed.of(net, IMAGES).activations(11)
    assert torch.equal(second, record(net, IMAGES).activations[1])
    assert float(second.min()) == 0.25
    assert all(module.training for module in net.modules())


def test_the_mean_over_blocks_of_different_lengths() -> None:
    parts = [torch.tensor([[1.0, 5.0], [2.0, 5.0]]), torch.tensor([[6.0, 5.0]])]
    found = mean_over((len(part), part.mean(0)) for part in parts)
    assert found.tolist() == [3.0, 5.0]
    assert found.dtype == torch.float32


@pytest.mark.usefixtures("small_pieces")
def test_blocks_are_rows_of_samples_and_positions_in_order() -> None:
    values = torch.arange(7 * 3 * 4 * 5.0).view(7, 3, 4, 5)
    found = list(blocks(values))
    assert [part.shape for part in found] == [(100, 3), (40, 3)]  # 5 samples of 20 positions, then 2
    assert torch.equal(torch.cat(found), by_unit(values))
