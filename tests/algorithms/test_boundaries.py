"""Margins at task boundaries in PPO on a problem that changes."""

import numpy as np
import pytest
import torch

from callbacks.plasticity import PlasticityCallback
from lop_ray.algorithms import make_training
from lop_ray.interventions.base import Interventions
from lop_ray.results import Store
from lop_ray.results.reader import connect
from tests.algorithms.small import assert_same_weights, train
from tests.algorithms.test_task_changes import ONCE, trial_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

BOUNDARIES = "diagnostics.boundaries={samples: 200}"
TINY = "network.hidden=[16, 12]"
EVERY_600 = (ONCE, TINY, BOUNDARIES)  # changes at steps 600, 1200, ...; an update is 256 steps of 4 copies


def boundaries(rows):
    return {update: each["boundaries"] for update, each in enumerate(rows, 1) if "boundaries" in each}


def test_rows_are_those_of_the_observations_and_weights_around_the_change():
    training = make_training(trial_of(*EVERY_600), [PlasticityCallback])
    runner, fragments, weights = training.algorithm.env_runner, [], []
    sample = runner.sample
    runner.sample = lambda **kwargs: fragments.append(sample(**kwargs)[0]) or [fragments[-1]]
    rows = []
    for _ in range(4):
        weights.append({name: net.state_dict() for name, net in training.learner.actor_critic.networks().items()})
        weights[-1] = {name: {key: x.clone() for key, x in state.items()} for name, state in weights[-1].items()}
        rows.append(training.update())
    nets = training.learner.actor_critic.networks()
    # Task 1 begins within update 3 (steps 513-768), and has update 4 to itself.
    assert sorted(boundaries(rows)) == [4]
    observations = np.concatenate([fragment.obs for fragment in fragments]).reshape(-1, 111)
    old, new = (torch.from_numpy(each) for each in (observations[400:600], observations[600:800]))
    for row in rows[3]["boundaries"]:
        assert (row["update"], row["env_steps"], row["task"]) == (4, 1024, 1)
        assert (row["samples"], row["adaptation_updates"]) == (200, 2)
        network, layer = nets[row["network"]], row["layer"]
        now = {key: x.clone() for key, x in network.state_dict().items()}
        with torch.no_grad():
            actual = network.body[: 2 * layer + 1](new).amax(0)
            network.load_state_dict(weights[2][row["network"]])
            before, predictive = (network.body[: 2 * layer + 1](each).amax(0) for each in (old, new))
            network.load_state_dict(now)
        for name, margin in (("old", before), ("predictive", predictive), ("actual", actual)):
            assert row[f"{name}_dead"] == int((margin < 0).sum())
            assert row[f"{name}_mean_margin"] == pytest.approx(float(margin.mean()), rel=1e-4)
    training.close()


def test_what_the_shift_killed_and_what_the_adaptation_killed_is_one_query(tmp_path):
    rows, _ = train(trial_of(*EVERY_600), 8)
    writer = Store(tmp_path, "grid").trial_writer("t1")
    for each in rows:
        for table, some in each.items():
            writer.append_many(table, some)
    writer.close()
    counts = "sum(killed_by_shift), sum(killed_by_adaptation)"
    query = f"SELECT task, network, {counts} FROM boundaries GROUP BY ALL ORDER BY ALL"
    found = connect(tmp_path, "grid").sql(query).fetchall()
    assert [row[:2] for row in found] == [(1, "policy"), (1, "value"), (2, "policy"), (2, "value")]
    for task, network, *killed in found:
        some = [row for each in boundaries(rows).values() for row in each]
        of_it = [row for row in some if (row["task"], row["network"]) == (task, network)]
        assert killed == [sum(row[f"killed_by_{cause}"] for row in of_it) for cause in ("shift", "adaptation")]


@pytest.mark.parametrize("stop", [3, 5])
def test_resuming_with_a_boundary_open_gives_the_same_rows(stop, monkeypatch):
    def act(self, task):
        """An intervention that changes the networks at a change of task."""
        with torch.no_grad():
            for network in next(iter(self.members.values())).training.networks.values():
                network.body[0].weight.mul_(0.5)

    monkeypatch.setattr(Interventions, "at_task_change", act)
    trial = trial_of(*EVERY_600, "diagnostics.predictive_margins={}", "diagnostics.churn={}")
    straight, end = train(trial, 7)
    assert sorted(boundaries(straight)) == [4, 6]
    first, middle = train(trial, stop)
    second, resumed_end = train(trial, 7 - stop, state=middle)
    assert repr(straight) == repr(first + second)
    assert_same_weights(end, resumed_end)


def test_following_changes_nothing():
    _, plain = train(trial_of(ONCE, TINY, "diagnostics=null"), 5)
    rows, followed = train(trial_of(*EVERY_600), 5)
    assert boundaries(rows)
    assert_same_weights(plain, followed)


def test_remote_env_runners_give_a_boundary_over_all_copies():
    trial = trial_of(*EVERY_600, "resources.env_runners=2")
    straight, _ = train(trial, 6)
    assert {update: some[0]["samples"] for update, some in boundaries(straight).items()} == {4: 200, 6: 200}
    first, middle = train(trial, 3)
    second, _ = train(trial, 3, state=middle)
    assert repr(straight) == repr(first + second)


def test_a_problem_without_change_has_none():
    rows, _ = train(trial_of("slippery_ant.schedule.every_steps=null", TINY, BOUNDARIES), 3)
    assert not boundaries(rows)
