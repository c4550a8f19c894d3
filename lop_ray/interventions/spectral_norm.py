"""Spectral normalisation: layers use W / sigma(W), sigma the largest singular value.

Miyato et al. 2018 (arXiv 1802.05957, section 2.1 and Algorithm 1). In PPO from pixels (kai666-song/
rl-plasticity-specnorm, `_maybe_spectral_norm` in `shared/modules.py`): every convolution and the fully connected layer
of the encoder, no head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Len
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

from lop_ray.errors import unknown
from lop_ray.interventions.base import GradientStep, Intervention, Training
from lop_ray.interventions.layers import Affine, affine_layers, output_layers
from lop_ray.networks import trainable_weight
from lop_ray.options import Options

_FIRST_ITERATIONS = 15


class SpectralNormOptions(Options):
    """The options of `spectral_norm`."""

    layers: Literal["hidden", "first"] = "hidden"
    """hidden: everything before the heads, that is every fully connected layer and convolution, those that write into a
    residual stream too (rl-plasticity-specnorm: "shared encoder only"). first: only the first of them (Lyle et al.
    2023)."""
    heads: bool | Annotated[tuple[str, ...], Len(1)] = False
    """Also the output layers: all, or those named. Of a network with several they have the names that it was built with
    (`policy`, `value`); a network's only one has the network's name. rl-plasticity-specnorm argues against `[value]`:
    with a Lipschitz constant of 1 a value cannot grow to the size of the returns."""
    power_iterations: Annotated[int, Gt(0)] = 1
    """Power iterations after each gradient step."""


class SpectralNorm(Intervention):
    """Parametrises weights as W / sigma, with sigma = u' W v from a running power iteration.

    A convolution's kernel is taken as the matrix [out, in * height * width] (Miyato et al., section 3). Gradients
    flow through sigma, with u and v held fixed. The bias is not normalised.

    u and v move only after an optimiser step. With one forward pass a step this is the same sequence as
    `torch.nn.utils.spectral_norm`, which moves them in every forward pass in training mode; but here no forward
    pass and no look at `module.weight` changes the network, in either mode, so that sampling and measuring
    cannot change training. u and v are buffers, saved with the network's `state_dict`.
    """

    Options = SpectralNormOptions
    options: SpectralNormOptions

    def build(self, networks: Mapping[str, nn.Module], generator: torch.Generator) -> None:
        """Registers the parametrisation; u starts at random, and 15 power iterations follow.

        Raises:
            ValueError: A weight has a parametrisation already, or no network has a head of a name given.
        """
        heads = {name: _heads(name, network) for name, network in networks.items()}
        self._check_names([head for named in heads.values() for head in named])
        for name, network in networks.items():
            for module in self._chosen(network, heads[name]):
                if parametrize.is_parametrized(module, "weight"):
                    raise ValueError(
                        f"a layer of the network {name!r} has a parametrised weight already: {module}; "
                        "apply spectral_norm once, to networks that were just built"
                    )
                weight = trainable_weight(module)
                normed = _Normed(weight, generator)
                normed.iterate(weight, _FIRST_ITERATIONS)
                parametrize.register_parametrization(module, "weight", normed)

    def _chosen(self, network: nn.Module, heads: Mapping[str, Affine]) -> list[Affine]:
        hidden = list(affine_layers(network, heads=False).values())
        wanted = self.options.heads
        also = [head for name, head in heads.items() if (wanted if isinstance(wanted, bool) else name in wanted)]
        return [*(hidden[:1] if self.options.layers == "first" else hidden), *also]

    def _check_names(self, known: Sequence[str]) -> None:
        wanted = () if isinstance(self.options.heads, bool) else self.options.heads
        for name in wanted:
            if name not in known:
                raise ValueError(f"heads: {unknown('head', name, known)}")

    def attach(self, training: Training) -> None:
        """Finds the parametrised weights.

        Raises:
            ValueError: There are none.
        """
        super().attach(training)
        self._normed = [
            (parametrization, trainable_weight(module))
            for network in training.networks.values()
            for module in network.modules()
            if parametrize.is_parametrized(module, "weight")
            for parametrization in module.parametrizations["weight"]  # type: ignore[index]
            if isinstance(parametrization, _Normed)
        ]
        if not self._normed:
            raise ValueError("spectral_norm finds no normalised layer; call build before the optimiser is made")

    def after_gradient_step(self, step: GradientStep) -> None:
        """Moves u and v towards the singular vectors of the weights as they are now."""
        for normed, weight in self._normed:
            normed.iterate(weight, self.options.power_iterations)


def _heads(name: str, network: nn.Module) -> dict[str, Affine]:
    """The output layers by name."""
    heads = output_layers(network)
    if len(heads) == 1:
        return {name: heads[0]}
    names = {id(module): key for key, module in getattr(network, "heads", nn.ModuleDict()).items()}
    return {names.get(id(head), f"{name}_{i}"): head for i, head in enumerate(heads)}


class _Normed(nn.Module):
    """weight -> weight / (u' W v), with W the weight as a matrix [out, rest].

    Args:
        weight: Shape, type and device to normalise.
        generator: Source of the first u (on the CPU).
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, generator: torch.Generator):
        super().__init__()
        matrix = weight.detach().flatten(1)
        u = torch.randn(len(matrix), generator=generator, dtype=weight.dtype).to(weight.device)
        self.register_buffer("u", normalize(u, dim=0))
        self.register_buffer("v", normalize(matrix.T @ self.u, dim=0))

    @torch.no_grad()
    def iterate(self, weight: Tensor, times: int) -> None:
        """Does u <- W v / |W v|, v <- W' u / |W' u| so many times."""
        matrix = weight.flatten(1)
        for _ in range(times):
            self.u.copy_(normalize(matrix @ self.v, dim=0))
            self.v.copy_(normalize(matrix.T @ self.u, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        """The normalised weight."""
        return weight / torch.dot(self.u, weight.flatten(1) @ self.v)


def settle_spectral_norms(networks: Mapping[str, nn.Module]) -> None:
    """Brings u and v to the weights as they are now; for methods that have just replaced whole weights.

    u' W v of a new W with the u and v of an old one can be near 0 or negative.

    Args:
        networks: Those without a spectral norm are left alone.
    """
    for network in networks.values():
        for module in network.modules():
            if parametrize.is_parametrized(module, "weight"):
                for normed in module.parametrizations["weight"]:  # type: ignore[index]
                    if isinstance(normed, _Normed):
                        normed.iterate(trainable_weight(module), _FIRST_ITERATIONS)


def exact_spectral_norm(weight: Tensor) -> Tensor:
    """The largest singular value of `weight` as a matrix [out, rest], by SVD in float64; a scalar for analysis."""
    return torch.linalg.svdvals(weight.detach().double().flatten(1))[0]
