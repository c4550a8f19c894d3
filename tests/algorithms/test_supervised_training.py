"""Supervised training: what it computes, what it writes, and that it goes on bit for bit."""

import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from lop_ray.algorithms.divergence import DivergedError
from lop_ray.algorithms.stored import open_training
from lop_ray.algorithms.supervised.learner import Steps
from lop_ray.algorithms.supervised.training import SupervisedTraining
from lop_ray.diagnostics import DIAGNOSTICS
from lop_ray.networks import MLP
from lop_ray.problems.gaussian_mixture import GaussianMixture, GaussianMixtureOptions
from lop_ray.problems.stream import task_distance
from tests.algorithms.supervised_trials import PROBLEMS, same, train, trial, weights
from tests.cases import INTERVENTIONS

MIXTURE = GaussianMixture(GaussianMixtureOptions(**PROBLEMS["gaussian_mixture"]))


def plain_training(tasks: int):
    """The mixture's training written out: per task the loss and number right of every step, and after the last."""
    network = MLP(4, 1, trial().network, seed=0, name="classifier").double()
    drawn = SupervisedTraining(trial()).learner.network  # in float64 from the start
    network.load_state_dict(drawn.state_dict())
    losses, right, ends = [], [], []
    for number in range(tasks):
        data = MIXTURE.task(number)
        inputs, targets = torch.from_numpy(data.inputs), torch.from_numpy(data.targets).double()
        for step in range(7):
            logits = network(inputs)[:, 0]
            loss = -(targets * logits.sigmoid().log() + (1 - targets) * (1 - logits.sigmoid()).log()).mean()
            at = losses, right
            if step == 6:
                ends.append((loss.item(), ((logits > 0) == (targets > 0.5)).double().mean().item()))
                break
            at[0].append(loss.item())
            at[1].append(((logits > 0) == (targets > 0.5)).double().mean().item())
            network.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= 0.1 * parameter.grad
    return network, losses, right, ends


def test_rows_and_weights_are_those_of_the_loop_written_out():
    network, losses, right, ends = plain_training(3)
    rows, training = train(trial(), 9)  # three updates of two steps a task
    for name, value in weights(training).items():
        assert torch.allclose(value, network.state_dict()[name], rtol=1e-12, atol=1e-14), name
    updates = [each["updates"][0] for each in rows]
    assert [row["loss"] for row in updates] == pytest.approx(np.reshape(losses, (-1, 2)).mean(1))
    assert [row["accuracy"] for row in updates] == pytest.approx(np.reshape(right, (-1, 2)).mean(1))
    assert [row["env_steps"] for row in updates] == [48 * i for i in range(1, 10)]
    assert [row["task"] for row in updates] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [row["update"] for row in updates] == list(range(1, 10))
    assert ["tasks" in each for each in rows] == [False, False, True] * 3
    tasks = [each["tasks"][0] for each in rows if "tasks" in each]
    for number, row in enumerate(tasks):
        own = slice(6 * number, 6 * number + 6)
        assert (row["task"], row["env_steps"], row["examples"]) == (number, 144 * (number + 1), 144)
        assert row["first_loss"] == pytest.approx(losses[own][0])
        assert row["min_loss"] == pytest.approx(min(losses[own]))
        assert row["last_loss"] == pytest.approx(losses[own][-1])
        assert (row["final_loss"], row["final_accuracy"]) == pytest.approx(ends[number])
        assert row["online_accuracy"] == pytest.approx(right[own][0])
        assert 0 <= row["test_accuracy"] <= 1
    assert tasks[0]["distance"] is None
    assert tasks[2]["distance"] == task_distance(MIXTURE.task(1), MIXTURE.task(2))
    assert {row["test_accuracy"] is None for row in updates} == {True, False}  # at a task's end alone


def test_gradient_norm_and_weight_change_are_of_the_whole_update():
    spec = trial(supervised={"steps_per_update": 1})
    training = SupervisedTraining(spec)
    before = {name: value for name, value in weights(training).items() if name.endswith("weight")}
    row = training.update()["updates"][0]
    after = weights(training)
    assert row["weight_change"] == pytest.approx(sum(float((after[n] - v).abs().sum()) for n, v in before.items()))
    gradients = [p.grad for p in training.learner.network.parameters()]
    assert row["grad_norm"] == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in gradients)))


def test_minibatches_count_each_example_once_for_the_online_accuracy():
    spec = trial("labelled_images", supervised={"steps_per_update": 3, "minibatch_size": 20})
    rows, training = train(spec, 2)  # two passes of 20, 20, 10
    first, second = (each["updates"][0] for each in rows)
    (task,) = rows[1]["tasks"]
    assert task["online_accuracy"] == first["accuracy"]  # the first update is the first pass
    assert task["min_loss"] == min(first["loss"], second["loss"])
    assert task["last_loss"] == second["loss"]
    assert task["final_loss"] < task["first_loss"]
    assert next(training.learner.network.parameters()).dtype == torch.float32


def test_regression_has_losses_and_no_accuracy():
    rows, _ = train(trial("slowly_changing_regression", supervised={"steps_per_update": None}), 2)
    (update,), (task,) = rows[1]["updates"], rows[1]["tasks"]
    assert update["accuracy"] is task["final_accuracy"] is task["online_accuracy"] is None
    assert (update["env_steps"], task["examples"]) == (192, 96)
    assert update["loss"] > 0


def test_a_task_can_begin_with_an_update_that_only_measures():
    spec = trial(supervised={"update_at_task_start": True, "steps_per_update": None}, diagnostics={"margins": {}})
    rows, training = train(spec, 4)
    plain_rows, plain = train(trial(supervised={"steps_per_update": None}), 2)
    assert same(weights(training), weights(plain))
    start, end = rows[2], rows[3]
    assert [row["updates"][0]["env_steps"] for row in rows] == [0, 144, 144, 288]
    assert [row["updates"][0]["task"] for row in rows] == [0, 0, 1, 1]
    assert start["updates"][0]["loss"] == pytest.approx(end["tasks"][0]["first_loss"])
    assert start["updates"][0]["loss"] == pytest.approx(plain_rows[1]["tasks"][0]["first_loss"])
    assert start["updates"][0]["grad_norm"] is None
    assert start["updates"][0]["weight_change"] == 0
    # The same weights on two tasks' examples.
    assert start["layers"][0]["mean_margin"] != rows[1]["layers"][0]["mean_margin"]


def test_a_fresh_baseline_is_what_training_from_scratch_gives_and_changes_nothing():
    options = {"fresh_baseline": 1, "fresh_tasks": "first", "steps_per_update": None}
    rows, training = train(trial(supervised=options), 2)
    plain_rows, plain = train(trial(supervised={"steps_per_update": None}), 2)
    assert same(weights(training), weights(plain))
    first, second = (each["tasks"][0] for each in rows)
    assert second.get("fresh_final_loss") is None
    assert first["final_loss"] == plain_rows[0]["tasks"][0]["final_loss"]
    data = MIXTURE.task(0)
    scratch = SupervisedTraining(trial(seed=1))  # other weights, the same kind of network
    assert first["fresh_final_loss"] != first["final_loss"]
    assert 0 < first["fresh_min_loss"] < scratch.learner.look(scratch.examples)[0]
    longer, _ = train(trial(supervised={**options, "fresh_steps": 60}), 1)
    assert longer[0]["tasks"][0]["fresh_final_loss"] < first["fresh_final_loss"]
    assert len(data) == 24


EVERY = {
    "gaussian_mixture": {"steps_per_update": 4},
    "labelled_images": {"steps_per_update": 2, "minibatch_size": 20},  # updates end within a pass
    "slowly_changing_regression": {"steps_per_update": 2, "minibatch_size": 30},
}


@pytest.mark.parametrize("problem", list(PROBLEMS))
def test_training_goes_on_bit_for_bit(problem):
    spec = trial(
        problem,
        supervised={**EVERY[problem], "fresh_baseline": 2, "update_at_task_start": True},
        optimizer={"name": "adam"},
        interventions={"shrink_perturb": {}, "redo": {"period": 3, "threshold": 0.5}, "kill_units": {"percent": 20}},
        diagnostics={"margins": {}, "boundaries": {"samples": 30}, "gradients": {"every": 2}},
    )
    straight, end = train(spec, 8)
    for cut in (1, 3, 5):  # after a start, within a task, at its end
        first, middle = train(spec, cut)
        second, resumed = train(spec, 8 - cut, middle.state())
        assert repr(first + second) == repr(straight)
        assert same(weights(resumed), weights(end))
    assert any("tasks" in each for each in straight)
    assert any("boundaries" in each for each in straight)


SMALL = {
    "margins": {"neurons_every": 1},
    "ranks": {"spectra_every": 1, "ratio": 0},
    "hessian_density": {"order": 4},
    "top_eigenvalues": {"k": 1},
    "input_curvature": {"directions": 2},
    "gradient_covariance": {"samples": 16, "clusters": 2},
    "probe": {"targets": 2, "steps": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("problem", list(PROBLEMS))
def test_diagnostics_leave_training_as_it_is(problem):
    offered = SupervisedTraining(trial()).diagnosis.offers()
    names = [name for name, kind in DIAGNOSTICS.items() if kind().needs() <= offered]
    assert {"hessian_density", "probe", "margins", "ranks", "gradients"} <= set(names)
    chosen = {name: {**SMALL.get(name, {}), "every": 1} for name in names} | {"boundaries": {"samples": 20}}
    torch.manual_seed(0)
    options = {"optimizer": {"name": "adam"}, "interventions": {"cbp": {"maturity_threshold": 1}}}
    _, plain = train(trial(problem, **options), 4)
    drawn = torch.get_rng_state()
    torch.manual_seed(0)
    rows, diagnosed = train(trial(problem, **options, diagnostics=chosen), 4)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert same(weights(plain), weights(diagnosed))
    for one, other in zip(plain.learner.parameters, diagnosed.learner.parameters, strict=True):
        assert torch.equal(one.grad, other.grad)
    assert repr(plain.learner.optimizer.state_dict()) == repr(diagnosed.learner.optimizer.state_dict())
    assert {"layers", "neurons", "probes", "spectra"} <= rows[-1].keys()
    assert not [row for each in rows for row in each["probes"] if row["metric"] == "failed"]


def test_what_diagnostics_see_is_the_present_task():
    spec = trial(supervised={"steps_per_update": None}, diagnostics={"margins": {"neurons_every": 1}})
    rows, training = train(spec, 2)
    network = training.learner.network
    with torch.no_grad():
        seen = network.body[0](torch.from_numpy(MIXTURE.task(1).inputs))
    assert rows[1]["neurons"][0]["margin"] == pytest.approx(seen.max(0).values.tolist())
    batch = training.diagnosis.batches()["classifier"]
    loss = training.diagnosis.losses()["classifier"](network(batch["inputs"]), batch)
    assert float(loss.detach()) == pytest.approx(rows[1]["tasks"][0]["final_loss"])


def test_who_follows_tasks_is_told_what_was_shown():
    spec = trial("labelled_images", supervised={"minibatch_size": 20, "steps_per_update": 4})
    training = SupervisedTraining(spec)
    training.update()
    inputs, tasks = training.diagnosis.steps()
    assert (inputs.shape, tasks.shape) == ((70, 1, 64), (71, 1))  # 20 + 20 + 10 + 20
    images = training.examples.inputs[training.reading.indices(0, 4)].numpy()
    assert np.array_equal(inputs[:, 0], images)
    assert not tasks.any()
    training.update()
    assert training.diagnosis.steps()[1][-2:].tolist() == [[0], [1]]


@pytest.mark.parametrize("name", [name for name in INTERVENTIONS if name != "none"])
def test_every_intervention_trains_a_classifier_in_float64_and_survives_a_restart(name):
    chosen = {
        each: {**options, **({"networks": ["classifier"]} if each == "c_chain" else {})}
        for each, options in INTERVENTIONS[name].items()
    }
    relu = {"activation": "relu"}
    spec = trial(interventions=chosen, optimizer={"name": "adam"}, network=relu)
    straight, end = train(spec, 7)
    _, middle = train(spec, 4)
    _, resumed = train(spec, 3, middle.state())
    assert same(weights(resumed), weights(end))
    assert {value.dtype for value in weights(end).values() if value.is_floating_point()} == {torch.float64}
    _, plain = train(trial(optimizer={"name": "adam"}, network=relu), 7)
    assert math.isfinite(straight[-1]["updates"][0]["loss"])
    assert not same(weights(end), weights(plain))


def test_a_convolutional_network_reads_images():
    spec = trial("labelled_images", problem_options={"shape": "image"})
    spec = spec.model_validate({
        **spec.model_dump(),
        "network": {"kind": "conv", "channels": [4], "hidden": [8]},
        "diagnostics": {"margins": {}, "boundaries": {"samples": 20}},
    })  # fmt: skip
    rows, training = train(spec, 3)
    assert rows[-1]["layers"][0]["units"] == 4
    assert isinstance(training.learner.network.body[0], nn.Conv2d)


@pytest.mark.parametrize("problem", list(PROBLEMS))
def test_divergence_names_the_tensor_and_takes_no_step(problem):
    lr = 1e200 if problem == "gaussian_mixture" else 1e30
    training = SupervisedTraining(trial(problem, supervised={"lr": lr}, network={"activation": "relu"}))

    def train_on():
        for _ in range(20):
            training.update()

    with pytest.raises(DivergedError, match=r"(loss|gradient of classifier\.\S+) is not finite at gradient step \d+"):
        train_on()
    before = weights(training)
    with pytest.raises(DivergedError):
        training.learner.train([training.examples], None, Steps())
    assert same(weights(training), before)


def test_clipping_bounds_the_step():
    _, clipped = train(trial(supervised={"grad_clip": 1e-3, "steps_per_update": 1}), 1)
    start = weights(SupervisedTraining(trial()))
    moved = sum(float((value - start[name]).square().sum()) for name, value in weights(clipped).items())
    assert math.sqrt(moved) == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_a_checkpoint_opens_as_the_training_was():
    spec = trial(
        "labelled_images",
        optimizer={"name": "adam"},
        interventions={"spectral_norm": {}},
        supervised={"minibatch_size": 20},
        diagnostics={"margins": {}},
    )
    _, training = train(spec, 4)
    stored = open_training(spec, training.state())
    assert same(stored.networks()["classifier"].state_dict(), training.learner.network.state_dict())
    assert same(stored.initial()["classifier"].state_dict(), training.learner.initial().state_dict())
    assert torch.equal(stored.observations(), training.examples_to_measure().inputs)
    assert stored.observation_shape == (64,)
    one, other = stored.batches()["classifier"], training.diagnosis.batches()["classifier"]
    assert all(torch.equal(one[key], other[key]) for key in ("inputs", "targets"))
    moments = [o.optimizers()["classifier"].state_dict()["state"] for o in (stored, training.diagnosis)]
    assert repr(moments[0]) == repr(moments[1])
    plain = torch.load(io.BytesIO(training.state()["networks.pt"]), weights_only=True)
    assert same(plain["classifier"], training.learner.network.state_dict())
