"""Tiny networks that every diagnostic is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from jaxtyping import config
from torch import Tensor, nn

from lop_ray.networks import MLP, HiddenLayer, Initialiser, NetworkOptions


class TinyConv(nn.Module):
    """[N, 2, 5, 5] -> conv 3 channels -> relu -> flatten -> linear 4 -> relu -> head 2."""

    def __init__(self, seed: int):
        super().__init__()
        self.conv = nn.utils.skip_init(nn.Conv2d, 2, 3, 3)
        self.first, self.second = nn.ReLU(), nn.ReLU()
        self.linear = nn.utils.skip_init(nn.Linear, 27, 4)
        self.head = nn.utils.skip_init(nn.Linear, 4, 2)
        generator = torch.Generator().manual_seed(seed)
        initialiser = Initialiser("torch_default")
        for layer in (self.conv, self.linear, self.head):
            initialiser.apply(layer, generator)
        self._layers = (
            HiddenLayer("conv", self.conv, self.first, (self.linear,), initialiser),
            HiddenLayer("linear", self.linear, self.second, (self.head,), initialiser),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(self.linear(self.first(self.conv(inputs)).flatten(1))))

    def hidden_layers(self) -> Sequence[HiddenLayer]:
        return self._layers


def make_mlp(seed: int = 0, *, hidden: tuple[int, ...] = (6, 5), outputs: int = 2, **options: str) -> MLP:
    """[N, 4] -> outputs."""
    chosen = NetworkOptions.model_validate({"hidden": hidden, "init": "torch_default", **options})
    return MLP(4, outputs, chosen, seed=seed)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (make_mlp, (4,)),
    "tanh": (lambda: make_mlp(activation="tanh"), (4,)),
    "layernorm": (lambda: make_mlp(normalisation="layernorm"), (4,)),
    "conv": (lambda: TinyConv(0), (2, 5, 5)),
}


@pytest.fixture(params=sorted(NETWORKS))
def network_and_inputs(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    """A tiny network in float64 and 12 inputs for it."""
    make, shape = NETWORKS[request.param]
    inputs = torch.randn(12, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return make().double(), inputs


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """As outside of tests: shapes in signatures are not checked, so that functions have to look for themselves."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
