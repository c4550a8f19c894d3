import copy
import math

import pytest
import torch
from torch import Tensor, nn

from lop_ray.diagnostics.base import Subject
from lop_ray.diagnostics.batched import stacked_optimizer
from lop_ray.diagnostics.probe import (
    ProbeOptions,
    fresh_network,
    measure_probe,
    random_function_targets,
    random_label_targets,
    train_copies,
)
from lop_ray.networks import hidden_layers
from lop_ray.optimizers import UPGD
from tests.diagnostics.conftest import make_mlp


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.8, 0.9), weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
}


def some_training(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
    """Gives the optimiser a state worth copying."""
    for _ in range(3):
        optimizer.zero_grad()
        network(inputs).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("at_once", [None, 1, 2])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_batched_copies_learn_as_networks_trained_one_after_another(name, at_once, network_and_inputs):
    network, inputs = network_and_inputs
    optimizer = OPTIMIZERS[name](network.parameters())
    some_training(network, optimizer, inputs)
    targets = torch.randn(3, 12, 2, dtype=torch.float64, generator=generator(1))
    parameters = list(network.parameters())
    found = train_copies(
        network,
        inputs,
        targets,
        lambda stacked: stacked_optimizer(optimizer, parameters, stacked),
        generator(7),
        steps=6,
        batch_size=5,
        points=3,
        at_once=at_once,
    )
    rows = torch.randint(12, (6, 5), generator=generator(7))
    for k in range(3):
        single = copy.deepcopy(network)
        own = OPTIMIZERS[name](single.parameters())
        own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        losses = []
        for i in rows:
            own.zero_grad()
            loss = (single(inputs[i]) - targets[k][i]).square().mean()
            loss.backward()
            losses.append(loss.item())
            own.step()
        final = (single(inputs) - targets[k]).square().mean().item()
        assert found.final[k].item() == pytest.approx(final, rel=1e-9)
        assert found.initial[k].item() == pytest.approx((network(inputs) - targets[k]).square().mean().item(), rel=1e-9)
        means = [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2, (losses[4] + losses[5]) / 2]
        assert found.curves[k].tolist() == pytest.approx(means, rel=1e-9)


def test_neither_the_network_nor_its_optimiser_moves(network_and_inputs):
    network, inputs = network_and_inputs
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    some_training(network, optimizer, inputs)
    weights, state = copy.deepcopy(network.state_dict()), copy.deepcopy(optimizer.state_dict())
    gradients = [p.grad.clone() for p in network.parameters()]
    random = torch.get_rng_state()
    measure_probe(
        Subject("q", network, inputs, extra={"optimizers": {"q": optimizer}}), ProbeOptions(targets=2, steps=3)
    )
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for index, entries in state["state"].items():
        assert all(torch.equal(after["state"][index][key], value) for key, value in entries.items())


def test_fresh_networks_are_drawn_as_the_first_weights_were(network_and_inputs):
    network, inputs = network_and_inputs
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7.0)
    first, same, other = (fresh_network(network, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first(inputs), same(inputs))
    assert not torch.equal(first(inputs), other(inputs))
    for layer in hidden_layers(first):
        bound = layer.incoming.weight[0].numel() ** -0.5  # torch_default: U(+-1 / sqrt(fan_in))
        assert bound / 2 < layer.incoming.weight.abs().max() <= bound
        assert layer.incoming.bias.abs().max() <= bound
        if layer.normalisation is not None:
            assert torch.equal(layer.normalisation.weight, torch.ones_like(layer.normalisation.weight))
    head = first.head
    assert head.weight.abs().max() <= head.in_features**-0.5
    assert all(bool((p == 7.0).all()) for p in network.parameters())


def test_targets_are_sines_of_fresh_networks_around_the_mean_prediction(network_and_inputs):
    network, inputs = network_and_inputs
    targets = random_function_targets(network, inputs, 2, generator(4))
    draws = generator(4)
    mean = network(inputs).detach().mean(0)
    for k in range(2):
        expected = mean + torch.sin(1e5 * fresh_network(network, draws)(inputs).detach())
        torch.testing.assert_close(targets[k], expected)
    assert (targets - mean).abs().max() <= 1.0


def test_a_linear_network_learns_linear_targets_and_plasticity_is_the_variance_explained():
    # One hidden layer, identity on positive inputs, would do; a wide ReLU network fits four points exactly.
    network = make_mlp(hidden=(64,), outputs=1).double()
    inputs = torch.eye(4, dtype=torch.float64)
    targets = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 4.0, 4.0]], dtype=torch.float64).unsqueeze(2)
    found = train_copies(network, inputs, targets, lambda p: torch.optim.Adam(p, lr=1e-2), generator(), steps=400)
    assert found.baseline.tolist() == pytest.approx([1.25, 4.0])
    assert found.final.max() < 1e-3
    assert found.plasticity == pytest.approx(2.625, abs=1e-3)
    assert found.curves.shape == (2, 100)
    assert found.curves[:, 0].mean() > found.curves[:, -1].mean()


def test_labels_are_learned_with_cross_entropy_and_accuracy_is_told():
    network = make_mlp(hidden=(64,), outputs=3)
    inputs = torch.randn(20, 4, generator=generator(1))
    labels = random_label_targets(3, 20, 4, generator(2))
    assert labels.shape == (4, 20)
    assert set(labels.unique().tolist()) == {0, 1, 2}
    untrained = train_copies(network, inputs, labels, lambda p: torch.optim.SGD(p, lr=1e-9), generator(), steps=1)
    expected = [nn.functional.cross_entropy(network(inputs), each).item() for each in labels]
    assert untrained.final.tolist() == pytest.approx(expected, rel=1e-5)
    assert untrained.accuracy is not None
    accuracy = [(network(inputs).argmax(1) == each).double().mean().item() for each in labels]
    assert untrained.accuracy.tolist() == pytest.approx(accuracy)
    assert untrained.baseline.tolist() == pytest.approx([math.log(3)] * 4)
    trained = train_copies(network, inputs, labels, lambda p: torch.optim.Adam(p, lr=1e-2), generator(), steps=300)
    assert trained.accuracy is not None
    assert trained.accuracy.mean() > 0.9


def test_targets_for_other_samples_are_refused():
    with pytest.raises(ValueError, match="targets for 5 samples, but 4 inputs"):
        train_copies(make_mlp(), torch.zeros(4, 4), torch.zeros(2, 5, 2), torch.optim.Adam, generator())


@pytest.mark.parametrize("kind", ["functions", "labels"])
def test_the_diagnostic_reports_losses_and_curve(kind, network_and_inputs):
    network, inputs = network_and_inputs
    options = ProbeOptions(optimizer="adam", kind=kind, targets=3, steps=8, batch_size=4, points=4)
    assert options.needs() == frozenset()
    found, again = (measure_probe(Subject("q", network, inputs, update=250), options) for _ in "ab")
    assert (found.probes, found.spectra) == (again.probes, again.spectra)
    values = {row["metric"]: row["value"] for row in found.probes}
    finals = found.spectra[1]["x"]
    assert {row["probe"] for row in found.probes} == {f"probe_{kind}"}
    assert [row["spectrum"] for row in found.spectra] == [f"probe_{kind}_curve", f"probe_{kind}_final_losses"]
    assert len(found.spectra[0]["x"]) == 4
    assert values["final_loss"] == pytest.approx(sum(finals) / 3)
    assert values["plasticity"] == pytest.approx(values["baseline"] - values["final_loss"])
    assert ("accuracy" in values) == (kind == "labels")


def test_every_probe_of_a_run_fits_the_same_functions(network_and_inputs):
    network, inputs = network_and_inputs
    options = ProbeOptions(optimizer="adam", targets=2, steps=1)
    first, later = (measure_probe(Subject("q", network, inputs, update=u), options).probes for u in (250, 500))
    assert first[0] == later[0]  # initial_loss
    assert first[1] != later[1]  # final_loss: other minibatches


def test_copies_of_one_optimiser_that_mixes_numbers_train_in_turn():
    network = make_mlp()
    inputs = torch.randn(20, 4, generator=generator(1))
    upgd = UPGD(network.parameters(), 1e-2, betas=(0.9, 0.999), noise=0.1)
    for _ in range(3):
        upgd.zero_grad()
        network(inputs).square().mean().backward()
        upgd.step()
    subject = Subject("q", network, inputs, extra={"optimizers": {"q": upgd}})
    found = measure_probe(subject, ProbeOptions(targets=2, steps=4, batch_size=5))
    # By hand: the second copy alone, from the same weights, moments, counts and noise.
    targets = random_function_targets(network, inputs, 2, subject.generator("probe.targets", every_update=False))[1]
    single = copy.deepcopy(network)
    own = UPGD(single.parameters(), 1e-2, betas=(0.9, 0.999), noise=0.1)
    own.load_state_dict(copy.deepcopy(upgd.state_dict()))
    for rows in torch.randint(20, (4, 5), generator=subject.generator("probe.batches")):
        own.zero_grad()
        (single(inputs[rows]) - targets[rows]).square().mean().backward()
        own.step()
    expected = (single(inputs) - targets).square().mean().item()
    assert found.spectra[1]["x"][1] == pytest.approx(expected, rel=1e-5)
