"""The training algorithms by name, and where their parts are. Nothing of an algorithm is loaded before it is asked for.

A new algorithm is a line here and a folder that holds these parts; its name is also that of its section in a grid file.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from lop_ray.errors import unknown


@dataclass(frozen=True)
class Algorithm:
    """An algorithm. Parts are given as "module:name".

    Attributes:
        options: Its options (`lop_ray.options.Options`).
        training: `Training` of a trial; takes the specification, and RLlib's callbacks if it is `in_rllib`.
        stored: Reads its checkpoints (`StoredTraining`); takes the specification and the files.
        diagnosis: What it offers to diagnostics (`Diagnosable`); None: networks and observations alone.
        check: Refuses a trial that it cannot train, by ValueError, before anything runs; None: it can train all.
        learns_from: The kind of problem (`Problem.kind`): environments to act in, or streams of tasks.
        in_rllib: It runs inside RLlib. If not, trials can follow one another in one process: they keep nothing
            outside their training.
        batches_seeds: Several seeds can run as one batched network (`resources.seeds_per_trial`).
    """

    options: str
    training: str
    stored: str
    diagnosis: str | None = None
    check: str | None = None
    learns_from: Literal["env", "stream"] = "env"
    in_rllib: bool = True
    batches_seeds: bool = False


ALGORITHMS = {
    "ppo": Algorithm(
        options="lop_ray.algorithms.ppo.options:PPOOptions",
        training="lop_ray.algorithms.ppo.training:PPOTraining",
        stored="lop_ray.algorithms.ppo.stored:StoredPPO",
        diagnosis="lop_ray.algorithms.ppo.diagnosis:PPODiagnosis",
    ),
    "supervised": Algorithm(
        options="lop_ray.algorithms.supervised.options:SupervisedOptions",
        training="lop_ray.algorithms.supervised.training:SupervisedTraining",
        stored="lop_ray.algorithms.supervised.stored:StoredSupervised",
        diagnosis="lop_ray.algorithms.supervised.diagnosis:SupervisedDiagnosis",
        check="lop_ray.algorithms.supervised.check:check_trial",
        learns_from="stream",
        in_rllib=False,
        batches_seeds=True,
    ),
}


def find(name: str) -> Algorithm:
    """The algorithm of a name.

    Raises:
        ValueError: There is none.
    """
    if name not in ALGORITHMS:
        raise ValueError(unknown("algorithm", name, ALGORITHMS))
    return ALGORITHMS[name]


def load(part: str) -> Any:
    """What stands at "module:name"."""
    module, name = part.split(":")
    return getattr(import_module(module), name)
