"""Where data come from: the registry of problems.

A problem's module, and with it its simulator, is only imported when the problem is used.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from lop_ray.options import Options as OptionsBase

__all__ = ["PROBLEMS", "Problem", "find_problem", "make_problem"]


@dataclass(frozen=True)
class Problem:
    """An entry of the registry.

    Attributes:
        name: As in a grid file.
        description: One line.
        module: Where the two classes live.
        options_class: Name of the `lop_ray.options.Options` subclass.
        env_class: Name of the `gymnasium.vector.VectorEnv` subclass, which takes the arguments of `make`; of a stream
            the class that takes the options and `task_seed`.
        kind: env: steps are made by acting. stream: supervised tasks, one after the other.
        holds_out: Whether something is held out for evaluations: `env_class` then also takes `split` and `task`.
    """

    name: str
    description: str
    module: str
    options_class: str
    env_class: str
    kind: Literal["env", "stream"] = "env"
    holds_out: bool = False

    @property
    def Options(self) -> type[OptionsBase]:
        """The problem's options."""
        return getattr(import_module(self.module), self.options_class)

    def make(
        self, options: OptionsBase, *, num_threads: int = 1, task_seed: int = 0, trial_copies: int | None = None
    ) -> VectorEnv[Any, Any, Any]:
        """All copies of the environment that `options` describe; see `make_problem`."""
        env_class = getattr(import_module(self.module), self.env_class)
        return env_class(options, num_threads=num_threads, task_seed=task_seed, trial_copies=trial_copies)

    def make_held_out(
        self, options: OptionsBase, *, task: int, num_threads: int = 1, task_seed: int = 0
    ) -> VectorEnv[Any, Any, Any]:
        """The environment on what training does not see, in one task for ever.

        Raises:
            ValueError: The problem holds nothing out.
        """
        if not self.holds_out:
            raise ValueError(f"problem {self.name} holds nothing out")
        env_class = getattr(import_module(self.module), self.env_class)
        return env_class(options, num_threads=num_threads, task_seed=task_seed, split="test", task=task)


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in [
        Problem(
            "ant", "MuJoCo Ant, run in the direction +x; fixed task", "lop_ray.problems.ant", "AntOptions", "VectorAnt"
        ),
        Problem(
            "slippery_ant",
            "Ant whose friction changes, by default log-uniform on [0.02, 2] every 2M steps",
            "lop_ray.problems.ant",
            "SlipperyAntOptions",
            "VectorAnt",
        ),
        Problem(
            "hopper",
            "MuJoCo Hopper, run in the direction +x; fixed task",
            "lop_ray.problems.planar",
            "HopperOptions",
            "VectorPlanar",
        ),
        Problem(
            "slippery_hopper",
            "Hopper whose friction changes, by default log-uniform on [0.02, 2] times its own every 2M steps",
            "lop_ray.problems.planar",
            "SlipperyHopperOptions",
            "VectorPlanar",
        ),
        Problem(
            "walker2d",
            "MuJoCo Walker2d, run in the direction +x; fixed task",
            "lop_ray.problems.planar",
            "Walker2dOptions",
            "VectorPlanar",
        ),
        Problem(
            "slippery_walker2d",
            "Walker2d whose friction changes, by default log-uniform on [0.02, 2] times its own every 2M steps",
            "lop_ray.problems.planar",
            "SlipperyWalker2dOptions",
            "VectorPlanar",
        ),
        Problem(
            "procgen",
            "ProcGen from pixels, CoinRun first; levels, images, actions or games may shift",
            "lop_ray.problems.procgen",
            "ProcgenOptions",
            "VectorProcgen",
            holds_out=True,
        ),
        Problem(
            "gaussian_mixture",
            "two classes, each a mixture of Gaussians drawn anew for every task",
            "lop_ray.problems.gaussian_mixture",
            "GaussianMixtureOptions",
            "GaussianMixture",
            kind="stream",
        ),
        Problem(
            "labelled_images",
            "digits, MNIST or CIFAR-10 under random labels, permuted labels or permuted pixels",
            "lop_ray.problems.labelled_images",
            "LabelledImagesOptions",
            "LabelledImages",
            kind="stream",
        ),
        Problem(
            "slowly_changing_regression",
            "bits in, a number out, online; one of the slow bits flips every 10,000 examples",
            "lop_ray.problems.slowly_changing_regression",
            "SlowlyChangingRegressionOptions",
            "SlowlyChangingRegression",
            kind="stream",
        ),
    ]
}


def find_problem(name: str) -> Problem:
    """The problem called `name`.

    Raises:
        ValueError: There is none; the nearest name is offered.
    """
    if name not in PROBLEMS:
        near = difflib.get_close_matches(name, PROBLEMS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known problems: {', '.join(PROBLEMS)}"
        raise ValueError(f"unknown problem '{name}': {hint}")
    return PROBLEMS[name]


def make_problem(
    name: str,
    options: Mapping[str, Any],
    num_threads: int = 1,
    task_seed: int = 0,
    trial_copies: int | None = None,
) -> VectorEnv[Any, Any, Any]:
    """The environment of the problem called `name`.

    Args:
        name: In `PROBLEMS`.
        options: Keyword arguments of the problem's options; unknown and bad ones raise `pydantic.ValidationError`.
        num_threads: Threads that step the copies, the calling one included.
        task_seed: The trial's seed, the same in all its runners: the sequence of tasks is drawn from it, where there
            is one.
        trial_copies: Copies of the trial over all its runners, which a task schedule's steps count; by default
            those of this environment.
    """
    problem = find_problem(name)
    return problem.make(
        problem.Options(**options), num_threads=num_threads, task_seed=task_seed, trial_copies=trial_copies
    )
