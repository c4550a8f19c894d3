import pickle

import pytest
import torch

from lop_ray.algorithms.divergence import DivergedError, check_finite, global_norm

NAN, INF = float("nan"), float("inf")


def test_norm_of_several_gradients_by_hand():
    assert float(global_norm([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])])) == 5.0


def test_finite_passes():
    check_finite(1.0, 2.0, lambda: [("w", torch.ones(2))], 1)


def test_a_norm_that_overflows_over_finite_gradients_passes():
    huge = [torch.full((2,), 3e38)]
    norm = float(global_norm(huge))
    assert norm == INF
    check_finite(1.0, norm, lambda: [("w", huge[0])], 1)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_names_the_tensor_and_the_step(value):
    with pytest.raises(DivergedError, match="gradient of b is not finite at gradient step 7; the step was not taken"):
        check_finite(1.0, NAN, lambda: [("a", torch.ones(2)), ("none", None), ("b", torch.tensor([0.0, value]))], 7)


@pytest.mark.parametrize("value", [NAN, INF])
def test_names_the_loss_first(value):
    with pytest.raises(DivergedError, match=r"^loss is not finite"):
        check_finite(value, NAN, lambda: [("a", torch.tensor([NAN]))], 1)


def test_survives_being_sent_between_processes():
    error = pickle.loads(pickle.dumps(DivergedError("loss", 3)))
    assert (error.tensor, error.gradient_step) == ("loss", 3)
