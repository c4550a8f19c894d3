import numpy as np
import pytest

from lop_ray.algorithms.ppo.gae import generalised_advantages


def columns(*rows):
    return [np.array(row, np.float64)[:, None] for row in rows]


def test_hand_computed_episode_that_ends_inside():
    # gamma .5, lambda .5. Step 1 ends the episode (discount 0, next value 0).
    # delta = [1 + .5*2 - 1, 2 - 2, 3 + .5*4 - 3] = [1, 0, 2]; A = [1 + .25*0, 0, 2]
    reward, value, v_next, discount = columns([1, 2, 3], [1, 2, 3], [0.5 * 2, 0, 0.5 * 4], [0.5, 0, 0.5])
    assert generalised_advantages(reward, value, v_next, discount, 0.5)[:, 0].tolist() == [1.0, 0.0, 2.0]


def test_carries_over_inside_an_episode():
    # delta = [1, 1, 1]; A_2 = 1, A_1 = 1 + .25, A_0 = 1 + .25 * 1.25
    reward, value, v_next, discount = columns([1, 1, 1], [0, 0, 0], [0, 0, 0], [0.5, 0.5, 0.5])
    assert generalised_advantages(reward, value, v_next, discount, 0.5)[:, 0].tolist() == [1.3125, 1.25, 1.0]


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 1.0])
def test_equals_the_double_sum_of_the_definition(lambda_):
    rng = np.random.default_rng(0)
    steps, copies, gamma = 30, 3, 0.9
    reward, value, after = rng.normal(size=(3, steps, copies))
    ended = rng.random((steps, copies)) < 0.2
    discount = np.where(ended, 0.0, gamma)
    v_next = discount * after
    got = generalised_advantages(reward, value, v_next, discount, lambda_)
    delta = reward + v_next - value
    for n in range(copies):
        for t in range(steps):
            total, weight = 0.0, 1.0
            for k in range(t, steps):
                total += weight * delta[k, n]
                if ended[k, n]:
                    break
                weight *= gamma * lambda_
            assert got[t, n] == pytest.approx(total, abs=1e-12)


def test_lambda_one_without_values_is_the_discounted_return():
    reward = np.arange(5.0)[:, None]
    zeros, discount = np.zeros_like(reward), np.full_like(reward, 0.9)
    got = generalised_advantages(reward, zeros, zeros, discount, 1.0)
    assert got[0, 0] == pytest.approx(sum(0.9**t * t for t in range(5)))
