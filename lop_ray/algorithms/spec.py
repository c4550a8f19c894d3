"""What one trial is: everything that its training needs to know, and nothing about where it runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from lop_ray.networks import NetworkOptions
from lop_ray.options import Options

Beta = Annotated[float, Ge(0.0), Lt(1.0)]


class OptimizerOptions(Options):
    """The `optimizer:` section: Adam (Kingma & Ba 2015) and its weight decay."""

    name: Literal["adam"] = "adam"
    """Adam, as `torch.optim.Adam`; the learning rate belongs to the algorithm."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the first and second moment; (0.99, 0.99) is the paper's "tuned Adam" (variant `ns`)."""
    eps: Annotated[float, Gt(0.0)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Ge(0.0)] = 0.0
    """L2 strength lambda."""
    decoupled: bool = False
    """False: g <- g + lambda theta before the moments (`torch.optim.Adam`, the paper's L2).
    True: theta <- theta - lr lambda theta (AdamW, Loshchilov & Hutter 2019; Juliani & Ash's code)."""


class Resources(Options):
    """The `resources:` section: what one trial reserves. Not part of a trial's identity."""

    cpus: Annotated[int, Ge(1)] = 1
    """CPU cores of the trial; its physics threads. Remote env runners reserve one more each."""
    gpus: Annotated[float, Ge(0.0)] = 0.0
    """GPUs of the trial's learner; a fraction shares one GPU between trials."""
    env_runners: Annotated[int, Ge(0)] = 0
    """Remote env runners; 0 samples in the trial's own process."""


class CheckpointOptions(Options):
    """The `checkpoints:` section. Not part of a trial's identity."""

    every_steps: Annotated[int, Ge(1)] = 500_000
    """Environment steps between checkpoints; at most this much is computed again after a death."""
    keep: Annotated[int, Ge(2)] = 2
    """How many of the newest are kept; two, so that a damaged newest has a predecessor."""


class TrialSpec(Options):
    """One trial: a resolved configuration and its place in the grid."""

    trial_id: str
    grid: str
    problem: str
    problem_options: dict[str, Any]
    algorithm: str
    algorithm_options: dict[str, Any]
    network: NetworkOptions
    optimizer: OptimizerOptions
    interventions: dict[str, dict[str, Any]]
    diagnostics: dict[str, dict[str, Any]]
    variant: str
    seed: Annotated[int, Ge(0)]
    total_steps: Annotated[int, Ge(1)]
    resources: Resources
    checkpoints: CheckpointOptions
