import pytest
import torch
from torch import nn

from lop_ray.diagnostics.batched import batched_forward, copies_at_once, stacked_optimizer
from tests.diagnostics.conftest import make_mlp


@pytest.mark.parametrize("normalisation", ["none", "layernorm", "rmsnorm"])
def test_fully_connected_networks_multiply_stacks_of_matrices(normalisation):
    network = make_mlp(normalisation=normalisation).eval()
    stacked = {name: torch.stack([p.detach(), 2 * p.detach() + 1]) for name, p in network.named_parameters()}
    inputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    forward = batched_forward(network, stacked, inputs[:2])
    assert isinstance(forward, nn.Module)
    expected = [torch.func.functional_call(network, {n: p[k] for n, p in stacked.items()}, (inputs,)) for k in range(2)]
    torch.testing.assert_close(forward(inputs), torch.stack(expected))


def test_networks_that_stacks_do_not_fit_go_through_vmap():
    spectral = make_mlp().eval()
    nn.utils.parametrizations.spectral_norm(spectral.body[0])
    counting = nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(3, 2))
    for network in (spectral.eval(), counting):
        stacked = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in network.named_parameters()}
        inputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
        forward = batched_forward(network, stacked, inputs[:2])
        assert not isinstance(forward, nn.Module)
        second = torch.func.functional_call(network, {n: p[1] for n, p in stacked.items()}, (inputs,))
        torch.testing.assert_close(forward(inputs)[1], second)


def test_copies_train_in_turn_only_where_a_step_is_large_work_for_a_cpu():
    assert copies_at_once(96_520, 128, torch.device("cpu")) is None
    assert copies_at_once(1_172_488, 128, torch.device("cpu")) == 1
    assert copies_at_once(1_172_488, 128, torch.device("cuda")) is None


def test_an_optimiser_of_other_parameters_is_refused():
    network, other = make_mlp(), make_mlp()
    with pytest.raises(ValueError, match="6 of 6 parameters are not trained by the given optimiser"):
        stacked_optimizer(torch.optim.Adam(other.parameters()), list(network.parameters()), [])
