"""What one trial is: everything that its training needs to know, and nothing about where it runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import model_serializer, model_validator
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from lop_ray.networks.kinds import AnyNetworkOptions
from lop_ray.options import Options

Beta = Annotated[float, Ge(0.0), Lt(1.0)]


class UPGDOptions(Options):
    """The `optimizer.upgd:` section; formulas in `lop_ray.optimizers.UPGD`.

    Defaults are those of Elsayed & Mahmood 2024 for PPO.
    """

    utility_decay: Beta = 0.999
    """beta_u, of the running utility."""
    noise: Annotated[float, Ge(0.0)] = 1e-3
    """sigma, standard deviation of the noise."""
    step_scale: Annotated[float, Gt(0.0)] = 2.0
    """Factor of the learning rate: 2 in the published PPO code, 1 in Algorithm 1 and the supervised code."""
    utility: Literal["global", "local"] = "global"
    """Utilities are divided by their maximum over all weights, or by their norm along each weight's last dimension."""
    maximum: Literal["corrected", "uncorrected"] = "corrected"
    """Of the global utility: of bias-corrected utilities (Algorithm 1), or of uncorrected ones (the public codes)."""
    protect: bool = True
    """Gate gradient and noise; false: the noise alone."""
    layers: Literal["all", "hidden", "output"] = "all"
    """Whose steps are gated by utility (bnshin83/upgd: full, hidden_only, output_only). With hidden or output, PPO's
    log standard deviation is not gated."""
    ungated: Annotated[float, Ge(0.0)] = 0.5
    """The gate of all others; 0.5 is that of a weight of no utility, 0 leaves them as they are."""


class OptimizerOptions(Options):
    """The `optimizer:` section. The learning rate belongs to the algorithm."""

    name: Literal["adam", "sgd", "upgd", "ada_upgd"] = "adam"
    """adam: `torch.optim.Adam` (Kingma & Ba 2015). sgd: `torch.optim.SGD`. upgd: utility-based perturbed gradient
    descent (Elsayed & Mahmood 2024). ada_upgd: the same with Adam's moments, their form for reinforcement learning."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the first and second moment of adam and ada_upgd; (0.99, 0.99) is Dohare et al.'s "tuned Adam" (variant
    `ns`)."""
    eps: Annotated[float, Gt(0.0)] = 1e-8
    """Added to the root of the second moment, in adam and ada_upgd."""
    eps_root: Annotated[float, Ge(0.0)] | None = None
    """Of adam: added to the second moment under the root (`lop_ray.optimizers.RootedAdam`); Lyle et al. 2023's
    epsilon-bar. Null: 0, by torch's own Adam."""
    weight_decay: Annotated[float, Ge(0.0)] = 0.0
    """L2 strength lambda."""
    decoupled: bool = False
    """False: g <- g + lambda theta before the moments (`torch.optim.Adam`, the paper's L2).
    True: theta <- theta - lr lambda theta (AdamW, Loshchilov & Hutter 2019; Juliani & Ash's code; UPGD's codes). Not
    for sgd."""
    momentum: Beta | None = None
    """Momentum of sgd; null: none."""
    upgd: UPGDOptions | None = None
    """Of upgd and ada_upgd, which have all of its defaults without it."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_upgd(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("name") in ("upgd", "ada_upgd") and values.get("upgd") is None:
            return {**values, "upgd": {}}
        return values

    @model_validator(mode="after")
    def _belong_together(self) -> OptimizerOptions:
        if self.momentum is not None and self.name != "sgd":
            raise ValueError(f"momentum belongs to name: sgd, not to {self.name}; leave it away")
        if self.eps_root is not None and self.name != "adam":
            raise ValueError(f"eps_root belongs to name: adam, not to {self.name}; leave it away")
        if self.upgd is not None and self.name not in ("upgd", "ada_upgd"):
            raise ValueError(f"upgd belongs to name: upgd or ada_upgd, not to {self.name}; leave it away")
        if self.name == "sgd" and self.decoupled:
            raise ValueError("decoupled is not there for name: sgd; use decoupled: false")
        return self

    @model_serializer(mode="wrap")
    def _without_what_others_have(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Only what has a meaning for this optimiser is part of a trial's identity.
        dumped: dict[str, Any] = handler(self)
        return {key: value for key, value in dumped.items() if value is not None}


class Resources(Options):
    """The `resources:` section: what one trial reserves. Not part of a trial's identity."""

    cpus: Annotated[int, Ge(1)] = 1
    """CPU cores of the trial; its physics threads. Remote env runners reserve one more each."""
    gpus: Annotated[float, Ge(0.0)] = 0.0
    """GPUs of the trial's learner; a fraction shares one GPU between trials."""
    env_runners: Annotated[int, Ge(0)] = 0
    """Remote env runners; 0 samples in the trial's own process."""
    seeds_per_trial: Annotated[int, Ge(1)] = 1
    """Of supervised training: so many seeds run as one batched network, in one process with these resources. Each keeps
    its own trial, rows and checkpoints, which are those of single runs but for rounding."""


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
    network: AnyNetworkOptions
    optimizer: OptimizerOptions
    interventions: dict[str, dict[str, Any]]
    diagnostics: dict[str, dict[str, Any]]
    variant: str
    seed: Annotated[int, Ge(0)]
    total_steps: Annotated[int, Ge(1)]
    resources: Resources
    checkpoints: CheckpointOptions
