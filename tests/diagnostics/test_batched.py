import pytest
import torch
from torch import nn

from lop_ray.diagnostics.batched import batched_forward, copies_at_once, is_elementwise, stacked_optimizer
from lop_ray.networks import MLP, NetworkOptions
from tests.diagnostics.conftest import make_mlp


class ByRows(nn.Module):
    """w / |w| for every row w."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / weight.norm(dim=1, keepdim=True)


def weight_norm_by_rows(linear: nn.Linear) -> None:
    nn.utils.parametrize.register_parametrization(linear, "weight", ByRows())


class Scaled(nn.Module):
    """A module with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0]))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.scale


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "gelu"])
def test_stacked_activations_have_the_gradients_of_single_networks(activation):
    network = make_mlp(activation=activation).double().eval()
    stacked = {name: torch.stack([p.detach(), 2 * p.detach() + 1]) for name, p in network.named_parameters()}
    for leaf in stacked.values():
        leaf.requires_grad_(True)
    inputs = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batched_forward(network, stacked, inputs[:2])(inputs).square().sum().backward()
    for k in range(2):
        single = {name: leaf.detach()[k].clone().requires_grad_(True) for name, leaf in stacked.items()}
        torch.func.functional_call(network, single, (inputs,)).square().sum().backward()
        for name, leaf in stacked.items():
            torch.testing.assert_close(leaf.grad[k], single[name].grad)


@pytest.mark.parametrize("normalisation", ["none", "layernorm", "rmsnorm"])
def test_fully_connected_networks_multiply_stacks_of_matrices(normalisation):
    network = make_mlp(normalisation=normalisation).eval()
    stacked = {name: torch.stack([p.detach(), 2 * p.detach() + 1]) for name, p in network.named_parameters()}
    inputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    forward = batched_forward(network, stacked, inputs[:2])
    assert isinstance(forward, nn.Module)
    expected = [torch.func.functional_call(network, {n: p[k] for n, p in stacked.items()}, (inputs,)) for k in range(2)]
    torch.testing.assert_close(forward(inputs), torch.stack(expected))


@pytest.mark.parametrize("make", [nn.utils.parametrizations.spectral_norm, weight_norm_by_rows])
def test_parametrised_weights_are_made_of_stacked_originals(make):
    network = make_mlp().double()
    make(network.body[0])
    make(network.head)
    network.eval()
    stacked = {name: torch.stack([p.detach(), 2 * p.detach() + 1]) for name, p in network.named_parameters()}
    for leaf in stacked.values():
        leaf.requires_grad_(True)
    inputs = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    forward = batched_forward(network, stacked, inputs[:2])
    assert isinstance(forward, nn.Module)
    forward(inputs).square().sum().backward()
    found = [leaf.grad for leaf in stacked.values()]
    for k in range(2):
        single = {name: leaf.detach()[k].clone().requires_grad_(True) for name, leaf in stacked.items()}
        output = torch.func.functional_call(network, single, (inputs,))
        torch.testing.assert_close(forward(inputs)[k], output)
        expected = torch.autograd.grad(output.square().sum(), list(single.values()))
        for each, whole in zip(expected, found, strict=True):
            torch.testing.assert_close(whole[k], each)


def test_networks_that_stacks_do_not_fit_go_through_vmap():
    for network in (
        nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(3, 2)),
        nn.Sequential(Scaled(), nn.Linear(4, 2)),
    ):
        stacked = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in network.named_parameters()}
        inputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
        forward = batched_forward(network, stacked, inputs[:2])
        assert not isinstance(forward, nn.Module)
        second = torch.func.functional_call(network, {n: p[1] for n, p in stacked.items()}, (inputs,))
        torch.testing.assert_close(forward(inputs)[1], second)


def test_a_stack_has_the_gradients_of_its_copies_in_all_it_reads():
    # The inputs are shared by all copies, so their gradient is the sum.
    network = make_mlp().double()
    stacked = {
        name: torch.stack([p.detach(), 2 * p.detach() + 1]).requires_grad_(True)
        for name, p in network.named_parameters()
    }
    inputs = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    forward = batched_forward(network, stacked, inputs[:2].detach())
    for factor in (100.0, 1.0):  # the second pass writes over the first
        inputs.grad = None
        for leaf in stacked.values():
            leaf.grad = None
        (factor * forward(inputs).sin().sum()).backward()
    found = [leaf.grad for leaf in (inputs, *stacked.values())]
    outputs = [torch.func.functional_call(network, {n: p[k] for n, p in stacked.items()}, (inputs,)) for k in range(2)]
    expected = torch.autograd.grad(torch.stack(outputs).sin().sum(), [inputs, *stacked.values()])
    for each, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(each, wanted)
        assert each.is_contiguous()  # another layout would be copied before every optimiser step


class Twice(nn.Module):
    """Uses one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(4, 5), nn.Linear(5, 5)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.again(self.again(self.first(values)).relu())


class Skipping(nn.Module):
    """Reads what its rectifier has read, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rectifier = nn.Linear(4, 5), nn.ReLU()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        z = self.first(values)
        return self.rectifier(z) - z


@pytest.mark.parametrize("make", [Twice, Skipping])
def test_layers_that_are_not_in_a_chain_learn_as_alone(make):
    network = make().double()
    stacked = {
        name: torch.stack([p.detach(), 2 * p.detach() + 1]).requires_grad_(True)
        for name, p in network.named_parameters()
    }
    inputs = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batched_forward(network, stacked, inputs[:2])(inputs).sin().sum().backward()
    for k in range(2):
        single = {name: leaf.detach()[k].clone().requires_grad_(True) for name, leaf in stacked.items()}
        torch.func.functional_call(network, single, (inputs,)).sin().sum().backward()
        for name, leaf in stacked.items():
            torch.testing.assert_close(leaf.grad[k], single[name].grad)


def policy(hidden: tuple[int, ...]) -> MLP:
    return MLP(111, 8, NetworkOptions(hidden=hidden), seed=0)


def test_stacks_are_as_large_as_their_working_set_allows():
    example = torch.zeros(1, 111)
    # 4 numbers a parameter, and 128 x (2 x (256 + 256) + 8) outputs with their gradients: 2.6 MB of 32.
    assert copies_at_once(policy((256, 256)), 10, example, 128) == 10
    # 5.8 MB a copy: 5 fit, in two stacks. 11 copies make three stacks of at most 4.
    assert copies_at_once(policy((256, 256)), 10, example, 512) == 5
    assert copies_at_once(policy((256, 256)), 11, example, 512) == 4
    assert copies_at_once(policy((1024, 1024)), 10, example, 128) == 1
    assert copies_at_once(policy((1024, 1024)), 10, example.to("meta"), 128) == 10  # not a CPU


def test_networks_that_go_through_vmap_are_stacked_less():
    plain, counting = (
        nn.Sequential(nn.Linear(4, 300), middle, nn.Linear(300, 300)) for middle in (nn.ReLU(), nn.Flatten())
    )  # 3.3 MB a copy; Flatten would mix copies
    assert copies_at_once(plain, 8, torch.zeros(2, 4), 256) == 8
    assert copies_at_once(counting, 8, torch.zeros(2, 4), 256) == 4


def test_an_optimiser_of_other_parameters_is_refused():
    network, other = make_mlp(), make_mlp()
    with pytest.raises(ValueError, match="6 of 6 parameters are not trained by the given optimiser"):
        stacked_optimizer(torch.optim.Adam(other.parameters()), *[list(network.parameters())] * 2)


class Crowd(torch.optim.SGD):
    """Every number's step depends on all others; with noise of its own."""

    def __init__(self, params, lr: float):
        super().__init__(params, lr=lr)
        self.noise = torch.Generator().manual_seed(0)

    def step(self, closure=None):
        total = torch.stack([p.grad.norm() for group in self.param_groups for p in group["params"]]).sum()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p -= group["lr"] * p.grad / total + torch.rand(p.shape, generator=self.noise)


def test_an_optimiser_that_mixes_numbers_takes_one_copy_with_its_own_noise():
    network = make_mlp()
    crowd = Crowd(network.parameters(), lr=0.1)
    torch.rand(5, generator=crowd.noise)
    sources = list(network.parameters())
    assert not is_elementwise(crowd)
    with pytest.raises(ValueError, match=r"Crowd moves numbers by those of others .* one at a time"):
        stacked_optimizer(crowd, sources, [p.detach().expand(2, *p.shape).clone() for p in sources])
    leaves = [p.detach().clone().requires_grad_(True) for p in sources]
    made = stacked_optimizer(crowd, sources, leaves)
    for p, leaf in zip(sources, leaves, strict=True):
        p.grad, leaf.grad = torch.ones_like(p), torch.ones_like(p)
    made.step()
    crowd.step()  # the copy has left its generator alone
    for p, leaf in zip(sources, leaves, strict=True):
        assert torch.equal(p, leaf)


@pytest.mark.parametrize("name", ["Adam", "SGD", "NAdam"])
def test_torchs_usual_optimisers_take_stacks(name):
    assert is_elementwise(getattr(torch.optim, name)([torch.zeros(1, requires_grad=True)], lr=0.1))
