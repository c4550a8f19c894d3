"""Seeds as one batched network: the same numbers as single runs, each seed with its own rows, state and end."""

import math

import pytest
import torch

from lop_ray.algorithms.divergence import DivergedError
from lop_ray.algorithms.group import TrialGroup, newest_common_update
from lop_ray.algorithms.supervised import stack
from lop_ray.algorithms.supervised.group import SupervisedGroup
from lop_ray.algorithms.supervised.objective import Objective
from lop_ray.algorithms.supervised.training import SupervisedTraining
from lop_ray.algorithms.trial import Trial
from lop_ray.results import Checkpoints, Store, read_table
from lop_ray.sweep import trial_id
from tests.algorithms.small import without_times
from tests.algorithms.supervised_trials import same, train, trial, weights

SEEDS, UPDATES = 3, 7

CASES = {
    "sgd": {},
    "adam_relu": {"optimizer": {"name": "adam", "weight_decay": 0.01}, "network": {"activation": "relu"}},
    "momentum_leaky": {"optimizer": {"name": "sgd", "momentum": 0.9}, "network": {"activation": "leaky_relu"}},
    "clipped": {"supervised": {"grad_clip": 0.05, "update_at_task_start": True, "steps_per_update": 4}},
    "penalty": {"interventions": {"l2_init": {"strength": 0.1}, "parseval": {}}},
    "units": {
        "interventions": {"cbp": {"maturity_threshold": 1, "replacement_rate": 0.1}, "shrink_perturb": {}},
        "optimizer": {"name": "adam"},
        "network": {"activation": "relu"},
    },
    "noise": {"optimizer": {"name": "upgd"}},
    "diagnosed": {
        "diagnostics": {"margins": {"neurons_every": 1}, "boundaries": {"samples": 20}, "gradients": {}},
        "supervised": {"fresh_baseline": 1},
    },
}
OTHER = {
    "images": {"problem": "labelled_images", "supervised": {"minibatch_size": 20}},
    "regression": {"problem": "slowly_changing_regression", "supervised": {"minibatch_size": 20}},
}


def group(**case) -> tuple[SupervisedGroup, list[SupervisedTraining]]:
    members = [SupervisedTraining(trial(seed=seed, **case)) for seed in range(SEEDS)]
    return SupervisedGroup(members), members


def assert_close(rows, others, tolerance):
    for one, other in zip(rows, others, strict=True):
        one, other = without_times(one), without_times(other)
        assert one.keys() == other.keys()
        for table, some in one.items():
            for row, wanted in zip(some, other[table], strict=True):
                assert row.keys() == wanted.keys()
                for key, value in row.items():
                    assert alike(value, wanted[key], tolerance), (table, key, value, wanted[key])


def alike(value, wanted, tolerance):
    if isinstance(value, float | list):
        return value == pytest.approx(wanted, rel=tolerance, abs=tolerance, nan_ok=True)
    return value == wanted


@pytest.mark.parametrize(("name", "at_once"), [*((name, 2) for name in [*CASES, *OTHER]), ("sgd", 1), ("sgd", 3)])
def test_a_batch_of_seeds_gives_what_single_runs_give(name, at_once, monkeypatch):
    monkeypatch.setattr("lop_ray.algorithms.supervised.group.members_at_once", lambda *_: at_once)
    case = (CASES | OTHER)[name]
    together, members = group(**case)
    rows = [together.update() for _ in range(UPDATES)]
    tolerance = 1e-6 if name in CASES else 1e-4  # float64, float32
    for seed, member in enumerate(members):
        single_rows, single = train(trial(seed=seed, **case), UPDATES)
        for key, value in weights(single).items():
            assert torch.allclose(weights(member)[key], value, rtol=tolerance, atol=tolerance), key
        assert_close([each[seed] for each in rows], single_rows, tolerance)
        assert member.learner.gradient_steps == single.learner.gradient_steps


@pytest.mark.parametrize("name", ["sgd", "adam_relu", "units"])
def test_members_state_is_that_of_single_runs_and_goes_on(name):
    straight, ended = group(**CASES[name])
    for _ in range(UPDATES):
        straight.update()
    first, members = group(**CASES[name])
    for _ in range(4):
        first.update()
    states = [member.state() for member in members]
    assert all(len(each["training.pt"]) < 60_000 for each in states)  # no member holds the others' numbers
    second, resumed = group(**CASES[name])
    for member, state in zip(resumed, states, strict=True):
        member.restore(state)
    second = SupervisedGroup(resumed)
    for _ in range(UPDATES - 4):
        second.update()
    for one, other in zip(ended, resumed, strict=True):
        assert same(weights(one), weights(other))
    _, alone = train(trial(seed=1, **CASES[name]), UPDATES - 4, states[1])  # a member can leave the group
    for key, value in weights(alone).items():
        assert torch.allclose(weights(ended[1])[key], value, rtol=1e-9, atol=1e-9)


def test_one_that_diverges_ends_and_the_others_do_not_notice():
    plain, undisturbed = group()
    together, members = group()
    for each in (plain, together):
        each.update()
    with torch.no_grad():
        members[1].learner.network.head.weight.mul_(1e308).mul_(1e10)
    results = [together.update() for _ in range(5)]
    assert isinstance(results[0][1], DivergedError)
    assert str(results[0][1]) == "loss is not finite at gradient step 3; the step was not taken"
    assert [each[1] for each in results[1:]] == [None] * 4
    for _ in range(5):
        plain.update()
    for seed in (0, 2):
        assert same(weights(undisturbed[seed]), weights(members[seed]))
        assert results[-1][seed]["updates"][0]["update"] == 6


def test_members_out_of_step_are_refused():
    one, other = (SupervisedTraining(trial(seed=seed)) for seed in (0, 1))
    one.update()
    with pytest.raises(ValueError, match=r"members of a group are in step, these are at \[\(0, 0, 0\), \(1, 2, 48\)\]"):
        SupervisedGroup([one, other])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"network": {"normalisation": "layernorm"}}, "needs network.normalisation none"),
        ({"network": {"activation": "gelu"}}, "needs network.activation relu, leaky_relu or tanh"),
        ({"interventions": {"spectral_norm": {}}}, r"change what the network computes \(among spectral_norm\)"),
        ({"interventions": {"activation_clamping": {}}}, "change what the network computes"),
        ({"interventions": {"kill_units": {}}}, "change what the network computes"),
        ({"interventions": {"plasticity_injection": {}}}, "change what the network computes"),
    ],
)
def test_what_cannot_be_stacked_is_refused(case, message):
    with pytest.raises(ValueError, match=f"resources.seeds_per_trial above 1.*{message}"):
        stack.refuse_unstackable(SupervisedTraining(trial(**case)).learner)


@pytest.mark.parametrize(
    ("loss", "outputs"), [("cross_entropy", 3), ("binary_cross_entropy", 1), ("mean_squared_error", 2)]
)
def test_gradients_by_hand_are_autograds(loss, outputs):
    generator = torch.Generator().manual_seed(0)
    objective = Objective.of(loss, outputs, torch.float64)
    values = torch.randn(4, 5, outputs, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(2, (4, 5), generator=generator)
    if loss == "mean_squared_error":
        targets = torch.randn(4, 5, 2, generator=generator, dtype=torch.float64)
    elif loss == "binary_cross_entropy":
        targets = targets.double()
    objective.losses(values, targets).mean(-1).sum().backward()
    assert torch.allclose(objective.gradient(values.detach(), targets), values.grad, rtol=1e-12, atol=1e-14)


def test_on_a_cpu_stacks_are_of_nearly_one_size(monkeypatch):
    learner = SupervisedTraining(trial()).learner
    numbers = 2 * (4 * 8 + 8 + 8 * 6 + 6 + 6 + 1) + 2 * 24 * 14
    monkeypatch.setattr(stack, "STACK_BYTES", 4 * 8 * numbers)
    assert [stack.members_at_once(learner, count, 24) for count in (1, 4, 5, 9, 10)] == [1, 4, 3, 3, 4]


def stored_trials(**changes):
    specs = [trial(seed=seed, total_steps=480, **changes) for seed in range(SEEDS)]
    specs = [spec.model_copy(update={"trial_id": trial_id(spec)}) for spec in specs]
    every = {"checkpoints": specs[0].checkpoints.model_copy(update={"every_steps": 96})}
    return [spec.model_copy(update=every) for spec in specs]


def table(place, name):
    return sorted(read_table(place, "small", name).to_pylist(), key=lambda row: (row["trial_id"], row["update"]))


def test_a_group_of_trials_goes_on_from_what_all_have(tmp_path):
    specs = stored_trials()
    for spec in specs:
        lone = Trial(spec, Store(tmp_path / "alone", "small"), SupervisedTraining)
        while lone.at_work:
            lone.advance()
    store = Store(tmp_path / "killed", "small")
    first = TrialGroup(specs, store, SupervisedTraining)
    for _ in range(7):
        first.advance()
    for each in first.trials:  # as a kill does
        each._lock.release()
    # The kill came when one of them had yet to write its newest checkpoint.
    newest, _ = Checkpoints(store.location, specs[2].trial_id).newest_valid()
    assert newest.update == 6
    newest.location.delete("complete.json")
    assert newest_common_update(specs, store) == 4
    second = TrialGroup(specs, store, SupervisedTraining)
    assert [each.notes[-1] for each in second.trials] == ["continues from update 4"] * SEEDS
    while second.at_work:
        second.advance()
    assert [each.status for each in second.trials] == ["finished"] * SEEDS
    for name in ("updates", "tasks"):
        rows, wanted = table(tmp_path / "killed", name), table(tmp_path / "alone", name)
        assert len(rows) == len(wanted) > 0
        assert_close([{name: rows}], [{name: wanted}], 1e-9)
    third = TrialGroup(specs, store, SupervisedTraining)
    assert not third.at_work
    assert not third.trials


def test_a_trial_of_a_group_that_diverges_is_a_result_and_the_group_goes_on(tmp_path):
    specs = stored_trials()
    store = Store(tmp_path, "small")
    together = TrialGroup(specs, store, SupervisedTraining)
    together.advance()
    with torch.no_grad():
        together.trials[0].training.learner.network.head.bias.fill_(math.nan)
    while together.at_work:
        together.advance()
    assert [each.status for each in together.trials] == ["diverged", "finished", "finished"]
    row = store.trials()[specs[0].trial_id]
    assert row["reason"].startswith("update 2: loss is not finite at gradient step 3")
    assert [row["updates"] for row in store.trials().values()].count(10) == 2
    again = TrialGroup(specs[:2], store, SupervisedTraining)
    assert not again.at_work
