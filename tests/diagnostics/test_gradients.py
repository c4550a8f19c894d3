import copy

import numpy as np
import pytest
import torch
from torch import nn

from lop_ray.diagnostics import gradients as module
from lop_ray.diagnostics.base import Subject
from lop_ray.diagnostics.gradients import (
    ChurnOptions,
    CovarianceOptions,
    GradientOptions,
    TrustRegionOptions,
    batch_gradient,
    churn,
    covariance_effective_rank,
    gradient_covariance,
    greedy_churn,
    layer_parameters,
    measure_churn,
    measure_gradient_covariance,
    measure_gradients,
    measure_trust_region,
    negative_share,
    order_by_kmeans,
    per_sample_gradients,
    signal_to_noise,
    trust_region_excess,
)
from lop_ray.diagnostics.losses import Problem, cross_entropy, perturbed_output, squared_error, td_error
from lop_ray.networks import hidden_layers, record


def columns(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    n = len(inputs)
    return {
        "inputs": inputs,
        "labels": torch.randint(2, (n,), generator=generator),
        "actions": torch.randint(2, (n,), generator=generator),
    }


@pytest.fixture(params=[cross_entropy, squared_error, td_error])
def problem(request, network_and_inputs) -> Problem:
    network, inputs = network_and_inputs
    batch = columns(inputs)
    shape = (len(inputs),) if request.param is td_error else (len(inputs), 2)
    batch["targets"] = torch.randn(shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    return Problem.of(network, request.param, batch)


def loop_gradients(problem: Problem) -> list[dict[str, torch.Tensor]]:
    """One backward pass a row: the independent method."""
    found = []
    for i in range(len(problem.batch["inputs"])):
        problem.network.zero_grad()
        batch = {name: column[i : i + 1] for name, column in problem.batch.items()}
        problem.loss(problem.network(batch["inputs"]), batch).backward()
        found.append({name: p.grad.clone() for name, p in problem.network.named_parameters()})
    return found


def test_per_sample_gradients_are_those_of_a_loop(problem):
    loop, found = loop_gradients(problem), per_sample_gradients(problem, chunk=5)
    for name, gradients in found.items():
        torch.testing.assert_close(gradients, torch.stack([each[name] for each in loop]))
    mean = batch_gradient(problem)
    for name, gradients in found.items():
        torch.testing.assert_close(mean[name], gradients.mean(0))


def test_covariance_is_the_cosine_of_per_sample_gradients(problem):
    flat = np.stack([np.concatenate([g.numpy().ravel() for g in each.values()]) for each in loop_gradients(problem)])
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    found = gradient_covariance(per_sample_gradients(problem).values())
    np.testing.assert_allclose(found.numpy(), unit @ unit.T, atol=1e-12)
    off = unit @ unit.T
    k = len(off)
    assert negative_share(found) == sum(off[i, j] < 0 for i in range(k) for j in range(k) if i != j) / (k * (k - 1))


def test_covariance_by_hand_and_a_sample_without_gradient():
    gradients = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 0.0], [3.0, 3.0]])
    root = 0.5**0.5
    expected = [[1, -1, 0, root], [-1, 1, 0, -root], [0, 0, 0, 0], [root, -root, 0, 1]]
    covariance = gradient_covariance([gradients[:, :1], gradients[:, 1:]])
    np.testing.assert_allclose(covariance.numpy(), expected, atol=1e-7)
    assert negative_share(covariance) == pytest.approx(4 / 12)


def test_rank_of_the_covariance_counts_directions():
    axes = torch.eye(3, dtype=torch.float64).repeat(4, 1)
    assert covariance_effective_rank(gradient_covariance([axes])) == pytest.approx(3.0)
    assert covariance_effective_rank(gradient_covariance([torch.ones(5, 2)])) == pytest.approx(1.0, abs=1e-5)
    assert covariance_effective_rank(gradient_covariance([torch.zeros(5, 2)])) == 0.0


def test_one_sample_has_no_pairs():
    assert np.isnan(negative_share(gradient_covariance([torch.ones(1, 3)])))


def test_kmeans_order_makes_blocks_largest_first():
    groups = torch.tensor([0, 1, 2, 1, 0, 1, 2, 1, 2])
    gradients = torch.eye(3, dtype=torch.float64)[groups]
    order = order_by_kmeans(gradient_covariance([gradients]), clusters=3)
    assert sorted(order.tolist()) == list(range(9))
    assert groups[order].tolist()[:4] == [1, 1, 1, 1]
    assert len(torch.unique_consecutive(groups[order])) == 3
    assert len(order_by_kmeans(torch.ones(4, 4), clusters=10)) == 4


def test_signal_to_noise_by_hand():
    # mean (2, 0); deviations (1, 1) and (-1, -1): signal 4, noise 2.
    assert signal_to_noise([torch.tensor([[3.0, 1.0], [1.0, -1.0]])]) == pytest.approx(2**0.5)
    parts = [torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [-1.0]])]
    assert signal_to_noise(parts) == pytest.approx(2**0.5)
    assert signal_to_noise([torch.ones(3, 2)]) == float("inf")
    assert signal_to_noise([torch.zeros(3, 2)]) == 0.0


def test_layer_norms_are_those_of_backward(network_and_inputs):
    network, inputs = network_and_inputs
    batch = columns(inputs)
    extra = {"losses": {"q": cross_entropy}, "batches": {"q": batch}}
    rows = measure_gradients(Subject("q", network, inputs, extra=extra), GradientOptions()).layers
    assert all(parameter.grad is None for parameter in network.parameters())
    other = copy.deepcopy(network)
    cross_entropy(other(inputs), batch).backward()
    for row, layer in zip(rows, hidden_layers(other), strict=True):
        modules = [m for m in (layer.incoming, layer.normalisation) if m is not None]
        squares = sum(float(p.grad.square().sum()) for m in modules for p in m.parameters())
        assert row["gradient_norm"] == pytest.approx(squares**0.5)
        assert row["gradient_snr"] > 0
    names = [name for layer in hidden_layers(network) for name in layer_parameters(network, layer)]
    assert len(names) == len(set(names)) == len(list(network.parameters())) - 2  # all but the head's


def test_covariance_diagnostic_toward_perturbed_outputs_needs_nothing_extra(network_and_inputs):
    network, inputs = network_and_inputs
    options = CovarianceOptions(loss="perturbed_output", samples=8, clusters=2)
    assert options.needs() == frozenset()
    first, again = (measure_gradient_covariance(Subject("q", network, inputs, update=3), options) for _ in "ab")
    other = measure_gradient_covariance(Subject("q", network, inputs, update=4), options)
    assert first.spectra == again.spectra != other.spectra
    assert {row["metric"] for row in first.probes} == {"negative_share", "effective_rank", "mean_cosine"}
    matrix = np.array(first.spectra[0]["x"]).reshape(8, 8)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1.0)
    values = {row["metric"]: row["value"] for row in first.probes}
    assert values["negative_share"] == np.mean(matrix[~np.eye(8, dtype=bool)] < 0)
    assert values["mean_cosine"] == pytest.approx(matrix[~np.eye(8, dtype=bool)].mean())


def test_perturbed_output_loss_is_the_square_of_the_noise(network_and_inputs):
    network, inputs = network_and_inputs
    loss, batch = perturbed_output(network.eval(), inputs, torch.Generator().manual_seed(2))
    noise = torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert loss(network(inputs), batch).item() == pytest.approx(noise.square().sum().item() / 12)


def test_churn_by_hand():
    before = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    after = torch.tensor([[3.0, 5.0], [2.0, 1.0]])
    assert churn(before, after) == 3.0
    assert greedy_churn(before, after) == 0.0
    assert greedy_churn(before, torch.tensor([[3.0, 1.0], [2.0, 1.0]])) == 0.5


def test_churn_compares_the_networks_before_and_after(network_and_inputs):
    network, inputs = network_and_inputs
    before = copy.deepcopy(network)
    with torch.no_grad():
        network.head.bias += torch.tensor([3.0, 4.0])
    found = measure_churn(Subject("q", network, inputs, extra={"before": {"q": before}}), ChurnOptions())
    values = {row["metric"]: row["value"] for row in found.probes}
    assert values["distance"] == pytest.approx(5.0)
    expected = (record(before, inputs).output.argmax(1) != record(network, inputs).output.argmax(1)).double().mean()
    assert values["greedy_share"] == float(expected)


def test_trust_region_excess_counts_ratios_outside_the_clip():
    ratios = torch.tensor([1.0, 1.1875, 1.25, 0.75, 0.875])
    assert trust_region_excess(ratios) == pytest.approx(0.4)
    subject = Subject("policy", nn.Linear(1, 1), torch.zeros(1, 1), extra={"ratios": {"policy": ratios}})
    found = measure_trust_region(subject, TrustRegionOptions(clip=0.125))
    assert [row["value"] for row in found.probes] == pytest.approx([0.6, 1.25])


@pytest.mark.parametrize(
    "batch",
    [
        {"inputs": torch.zeros(3, 4), "labels": torch.zeros(2)},
        {"labels": torch.zeros(3)},
        {"inputs": torch.zeros(0, 4)},
    ],
)
def test_a_batch_needs_inputs_and_columns_of_one_length(batch):
    with pytest.raises(ValueError, match="a batch needs a column 'inputs' and columns of one length"):
        Problem.of(nn.Linear(4, 2), cross_entropy, batch)


def test_targets_of_another_shape_are_refused():
    batch = {"inputs": torch.zeros(3, 4), "targets": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"targets \[3\] must have the output's shape \[3, 1\]"):
        Problem.of(nn.Linear(4, 1), squared_error, batch).value()


def test_a_non_finite_loss_is_refused():
    batch = {"inputs": torch.full((3, 4), float("nan")), "targets": torch.zeros(3, 1)}
    with pytest.raises(ValueError, match="the loss must be one finite number"):
        Problem.of(nn.Linear(4, 1), squared_error, batch).value()


@pytest.mark.parametrize("chunk", [None, 2])
def test_gradients_that_do_not_fit_are_gone_through_in_parts(network_and_inputs, monkeypatch, chunk):
    network, inputs = network_and_inputs
    options = GradientOptions(loss="perturbed_output", chunk=chunk)
    at_once = measure_gradients(Subject("q", network, inputs), options)
    monkeypatch.setattr(module, "_MOST_NUMBERS", 4 * 2 * sum(p.numel() for p in network.parameters()))
    in_parts = measure_gradients(Subject("q", network, inputs), options)
    for mine, theirs in zip(in_parts.layers, at_once.layers, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)
        assert theirs["gradient_snr"] > 0
