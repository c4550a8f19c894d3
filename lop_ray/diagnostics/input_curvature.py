"""Curvature of the loss in its input (Garg et al. 2024, "Memorization through the lens of curvature")."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float64
from torch import Tensor, nn

from lop_ray.diagnostics.base import Diagnostic, Findings, Subject, check_finite
from lop_ray.diagnostics.losses import Batch, LossOptions, Problem
from lop_ray.diagnostics.pieces import rows_at_once

Form = Literal["trace", "published"]


def input_curvature(
    problem: Problem,
    generator: torch.Generator,
    *,
    step: float = 1e-3,
    directions: int = 10,
    form: Form = "trace",
) -> Float64[Tensor, " samples"]:
    """Curvature of every row's loss in its input, by finite differences along random signs v in {-1, 1}^d.

    With H = d^2 l / dx^2 and D(v) = grad l(x + h v) - grad l(x), which is close to h H v:

    `trace`: (1/n) sum_v ||D(v) / h||^2, the estimate of Tr(H^2) = E ||H v||^2 that the text derives.
    `published`: (1/n) sum_v ||D(v)||, what the authors' code computes: neither squared nor divided by h.

    Bytes of images are scaled first, as their network does it (its method `scaled`): h is in units of what comes out.
    Many images go through the network in pieces.

    Args:
        problem: Network, loss and batch; rows' losses must not depend on other rows.
        generator: Draws the signs (CPU).
        step: h, in units of the input; 1e-3 in the authors' code. In float32 D(v) is only known to about
            1e-7 ||grad||, so `trace` to about (1e-7 / h)^2 ||grad||^2.
        directions: n; 10 in the authors' code.
        form: Which.

    Returns:
        [N].

    Raises:
        ValueError: Inputs are whole numbers, and the network does not say how it reads them as others.
    """
    size = rows_at_once(problem.batch["inputs"])
    pieces = zip(*(column.split(size) for column in problem.batch.values()), strict=True)
    parts = [dict(zip(problem.batch, piece, strict=True)) for piece in pieces]
    found = torch.cat([_of_piece(problem, part, generator, step, directions, form) for part in parts])
    check_finite(found, "gradients in the inputs")
    return found / directions


def _of_piece(
    problem: Problem, batch: Batch, generator: torch.Generator, step: float, directions: int, form: Form
) -> Tensor:
    """The sum over directions, of some rows [n]."""
    inputs = _as_floats(problem.network, batch["inputs"].detach())
    start = _input_gradients(problem, batch, inputs)
    found = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
    for _ in range(directions):
        signs = torch.randint(0, 2, inputs.shape, generator=generator).to(inputs) * 2 - 1
        difference = _input_gradients(problem, batch, inputs + step * signs) - start
        length = torch.linalg.vector_norm(difference.flatten(1).double(), dim=1)
        found += (length / step).square() if form == "trace" else length
    return found


def _as_floats(network: nn.Module, inputs: Tensor) -> Tensor:
    if inputs.is_floating_point():
        return inputs
    scaled = getattr(network, "scaled", None)
    if scaled is None:
        raise ValueError(
            f"observations of type {inputs.dtype} have no derivatives, and {type(network).__name__} has no method "
            "`scaled` that makes them floats; give floats"
        )
    found: Tensor = scaled(inputs)
    return found


def _input_gradients(problem: Problem, batch: Batch, inputs: Tensor) -> Tensor:
    inputs = inputs.detach().clone().requires_grad_(True)
    total = problem.loss(problem.network(inputs), {**batch, "inputs": inputs}) * len(inputs)
    return torch.autograd.grad(total, inputs)[0]


class InputCurvatureOptions(LossOptions):
    """Mean and median over samples of the loss's curvature in its input."""

    step: Annotated[float, Gt(0.0)] = 1e-3
    """h of the finite differences."""
    directions: Annotated[int, Ge(1)] = 10
    """Random directions."""
    form: Form = "trace"
    """Tr(H^2), or the authors' shortcut."""
    store: bool = False
    """Whether every sample's curvature is written to `spectra`."""


def measure_input_curvature(subject: Subject, options: InputCurvatureOptions) -> Findings:
    """Probe `input_curvature` (or `input_curvature_published`): mean, median, maximum."""
    problem = options.problem(subject, "input_curvature")
    generator = subject.generator("input_curvature")
    values = input_curvature(problem, generator, step=options.step, directions=options.directions, form=options.form)
    name = "input_curvature" if options.form == "trace" else "input_curvature_published"
    found = Findings()
    found.add_probe(name, mean=float(values.mean()), median=float(values.median()), maximum=float(values.max()))
    if options.store:
        found.add_spectrum(name, values)
    return found


INPUT_CURVATURE = Diagnostic("input_curvature", InputCurvatureOptions, measure_input_curvature)
