"""Curvature of the loss in its input (Garg et al. 2024, "Memorization through the lens of curvature")."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float64
from torch import Tensor

from lop_ray.diagnostics.base import Diagnostic, Findings, Subject, check_finite
from lop_ray.diagnostics.losses import LossOptions, Problem

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

    Args:
        problem: Network, loss and batch; rows' losses must not depend on other rows.
        generator: Draws the signs (CPU).
        step: h, in units of the input; 1e-3 in the authors' code. In float32 D(v) is only known to about
            1e-7 ||grad||, so `trace` to about (1e-7 / h)^2 ||grad||^2.
        directions: n; 10 in the authors' code.
        form: Which.

    Returns:
        [N].
    """
    inputs = problem.batch["inputs"].detach()
    start = _input_gradients(problem, inputs)
    found = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
    for _ in range(directions):
        signs = torch.randint(0, 2, inputs.shape, generator=generator).to(inputs) * 2 - 1
        difference = _input_gradients(problem, inputs + step * signs) - start
        length = torch.linalg.vector_norm(difference.flatten(1).double(), dim=1)
        found += (length / step).square() if form == "trace" else length
    check_finite(found, "gradients in the inputs")
    return found / directions


def _input_gradients(problem: Problem, inputs: Tensor) -> Tensor:
    inputs = inputs.detach().clone().requires_grad_(True)
    batch = {**problem.batch, "inputs": inputs}
    total = problem.loss(problem.network(inputs), batch) * len(inputs)
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
