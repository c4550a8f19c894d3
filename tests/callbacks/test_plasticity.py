from types import SimpleNamespace

import numpy as np
import pytest

from callbacks.plasticity import PlasticityCallback, latest_observations
from lop_ray.diagnostics import Diagnosable
from lop_ray.networks import MLP, NetworkOptions


def observations(*values):
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_keeps_the_latest_in_order_however_they_arrive(size):
    everything = np.arange(23, dtype=np.float32)[:, None]
    kept = None
    for start, stop in ((0, 2), (2, 10), (10, 11), (11, 23)):
        kept = latest_observations(kept, everything[start:stop], size)
        assert np.array_equal(kept, everything[:stop][-size:])


def test_does_not_alias_the_fragment():
    new = observations(1, 2, 3)
    kept = latest_observations(None, new, 3)
    new[:] = 0
    assert kept.ravel().tolist() == [1, 2, 3]


class Training(Diagnosable):
    """A network that reads one number."""

    def __init__(self):
        self.net = MLP(1, 1, NetworkOptions(hidden=(4,)), seed=0)

    def networks(self):
        return {"q": self.net}


class Algorithm:
    """As much of an RLlib algorithm as the callback sees, with a buffer per env runner."""

    def __init__(self, diagnostics, buffers):
        trial = SimpleNamespace(diagnostics=diagnostics, seed=0)
        self.config, self.diagnosis = SimpleNamespace(trial=trial), Training()
        self.iteration, self.diagnose_s, self.diagnostic_rows = 0, 0.0, {}
        self.runners = [SimpleNamespace(observation_buffer=buffer) for buffer in buffers]
        self.env_runner_group = SimpleNamespace(
            num_remote_workers=lambda: len(buffers), foreach_env_runner=self._foreach_env_runner
        )
        self.asked = 0
        self.callback = PlasticityCallback()
        self.callback.on_algorithm_init(algorithm=self)

    def _foreach_env_runner(self, function, local_env_runner):
        assert not local_env_runner
        self.asked += 1
        return [function(runner) for runner in self.runners]

    def measured(self):
        self.iteration += 1
        self.callback.on_train_result(algorithm=self, result={})
        return self.diagnostic_rows


def test_any_number_of_latest_observations_is_recent_in_all_runners():
    """Runner 0 has seen 0-9 and runner 1 100-109: the latest four are 8, 9, 108, 109."""
    buffers = [np.arange(start, start + 10, dtype=np.float32)[:, None] for start in (0, 100)]
    options = {"margins": {"samples": 4, "neurons_every": 1}, "ranks": {"samples": 20, "ratio": 0}}
    algorithm = Algorithm(options, buffers)
    rows = algorithm.measured()
    weights = algorithm.diagnosis.net.body[0].weight.detach()[:, 0].tolist()
    expected = [max(w * x for x in (8, 9, 108, 109)) for w in weights]
    assert rows["neurons"][0]["margin"] == pytest.approx(expected, rel=1e-6)


def test_runners_are_asked_only_when_observations_are_looked_at():
    buffers = [observations(1, 2, 3)]
    algorithm = Algorithm({"margins": {"every": 2}, "weight_spectrum": {"every": 3}}, buffers)
    asked = []
    for _ in range(4):
        algorithm.diagnostic_rows = {}
        asked.append((sorted(algorithm.measured()), algorithm.asked))
    assert asked == [([], 0), (["layers"], 1), (["layers"], 1), (["layers"], 2)]


def test_the_suite_is_left_for_what_trains_and_time_is_added():
    algorithm = Algorithm({"margins": {}}, [observations(1, 2)])
    assert algorithm.diagnostics.due(1)
    algorithm.diagnose_s = 5.0  # for the preparation
    algorithm.measured()
    assert 5.0 < algorithm.diagnose_s < 6.0
