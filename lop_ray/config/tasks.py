"""What a run needs of a problem that changes, checked before it begins."""

from __future__ import annotations

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.config import catalogue
from lop_ray.config.checks import Blame
from lop_ray.errors import UserError
from lop_ray.options import Options
from lop_ray.problems.friction import SlipperyOptions, listed_frictions
from lop_ray.problems.schedule import HasTasks


def check_tasks(name: str, problem: Options, total_steps: int, blame: Blame) -> None:
    """Refuses a problem that cannot give the tasks of a run.

    Args:
        name: The problem's, which is that of its section.
        problem: Its options.
        total_steps: Environment steps of a trial.
        blame: Names the place a key's value came from.

    Raises:
        UserError: It has too few tasks, or they would change within a step of all env copies.
    """
    if not isinstance(problem, HasTasks):
        return
    schedule = problem.task_schedule()
    copies = getattr(problem, "num_envs", 1)
    if schedule.every_steps is not None and schedule.every_steps < copies:
        raise UserError(
            f"{name}: a change every {schedule.every_steps} steps is less than one step of all {copies} env copies; "
            f"choose a longer task or fewer copies [{blame((name,))}]"
        )
    try:
        problem.check_tasks(schedule.most_tasks(total_steps))
    except ValueError as error:
        raise UserError(f"{name}.{error} [{blame((name,))}]") from error


def task_warnings(spec: TrialSpec) -> list[str]:
    """What a person should know about the tasks of a trial before it runs, a line each.

    Raises:
        UserError: No tasks are listed for the trial's seed.
    """
    problem = catalogue.problems()[spec.problem](**spec.problem_options)
    if not isinstance(problem, HasTasks):
        return []
    if isinstance(problem, SlipperyOptions):
        try:
            listed_frictions(problem.friction, spec.seed)
        except ValueError as error:
            raise UserError(f"{spec.problem}.{error}") from error
    schedule = problem.task_schedule()
    if schedule.every_steps is None or schedule.most_tasks(spec.total_steps) > 1:
        return []
    return [
        f"{spec.problem}: with a change every {schedule.every_steps:,} steps the task never changes within "
        f"total_steps = {spec.total_steps:,}"
    ]
