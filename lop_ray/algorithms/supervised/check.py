"""What would stop a supervised trial at its start, found before anything runs."""

from __future__ import annotations

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.supervised.examples import Reading
from lop_ray.algorithms.supervised.learner import Learner
from lop_ray.algorithms.supervised.options import SupervisedOptions
from lop_ray.algorithms.supervised.stack import refuse_unstackable
from lop_ray.algorithms.supervised.tasks import TaskSource


def check_trial(trial: TrialSpec) -> None:
    """Reads the first task and builds what trains on it, on the CPU; nothing is trained.

    Args:
        trial: What is to be trained.

    Raises:
        ValueError: The data are not there or not what they should be, the minibatch does not fit, the network cannot
            read them, or an intervention cannot act on this training.
    """
    if trial.resources.env_runners:
        raise ValueError(
            f"resources.env_runners = {trial.resources.env_runners}: supervised training has none; leave it out"
        )
    trial = trial.model_copy(update={"resources": trial.resources.model_copy(update={"gpus": 0.0})})
    source = TaskSource(trial)
    examples, _ = source.read(0)
    size = SupervisedOptions(**trial.algorithm_options).minibatch_size
    Reading.of(source.stream, len(examples), size, trial.seed, 0)
    learner = Learner(trial, source.input_shape, source.objective, source.dtype)
    if trial.resources.seeds_per_trial > 1:
        refuse_unstackable(learner)
