import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from lop_ray.options import Options
from lop_ray.problems import PROBLEMS, find_problem, make_problem


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_is_named_and_described(name):
    problem = find_problem(name)
    assert problem.name == name
    assert problem.description
    assert "\n" not in problem.description
    assert issubclass(problem.Options, Options)


@pytest.mark.parametrize("name", [name for name, problem in PROBLEMS.items() if problem.kind == "env"])
def test_every_environment_is_made(name):
    env = make_problem(name, {"num_envs": 2}, num_threads=2)
    obs, _ = env.reset(seed=0)
    assert obs.shape == env.observation_space.shape
    rewards = env.step(np.zeros(env.action_space.shape, env.action_space.dtype))[1]
    assert rewards.shape == (2,)
    env.close()


def test_options_are_checked():
    with pytest.raises(ValidationError, match="num_env\n"):
        make_problem("ant", {"num_env": 2})


def test_unknown_problem_offers_the_nearest_name():
    with pytest.raises(ValueError, match="unknown problem 'amt': did you mean 'ant'"):
        make_problem("amt", {})
    with pytest.raises(ValueError, match="unknown problem 'xyz': known problems: ant"):
        find_problem("xyz")


def test_listing_problems_imports_no_simulator():
    code = "import sys, lop_ray.problems; assert not {'mujoco', 'gymnasium', 'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
