import sys
import types
import warnings

import pytest

from callbacks.wandb import WandbRows, scalars
from tests.algorithms.small import small_trial

ROWS = {
    "updates": [{"update": 3, "env_steps": 30, "policy_loss": 0.5, "episode_return_mean": None}],
    "layers": [{"network": "policy", "layer": 1, "update": 3, "dead": 2, "rank_refusal": None}],
    "neurons": [{"network": "policy", "layer": 1, "margin": [1.0]}],
}


class FakeRun:
    def __init__(self, fail_at=None):
        self.rows, self.finished, self.fail_at = [], False, fail_at

    def log(self, row, step):
        if self.fail_at is not None and len(self.rows) == self.fail_at:
            raise OSError(28, "No space left on device")
        self.rows.append((step, row))

    def finish(self):
        self.finished = True


def fake_wandb(monkeypatch, run=None, error=None):
    calls = []

    def init(**kwargs):
        calls.append(kwargs)
        if error is not None:
            raise error
        return run

    module = types.SimpleNamespace(init=init, Settings=lambda **kwargs: kwargs)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_scalars_only():
    assert scalars(ROWS) == {"update": 3, "env_steps": 30, "policy_loss": 0.5, "policy/1/dead": 2}


def test_one_run_a_trial_under_its_id_and_grid(monkeypatch):
    run = FakeRun()
    calls = fake_wandb(monkeypatch, run)
    trial, listener = small_trial(), WandbRows("offline")
    for _ in range(3):
        listener.on_rows(trial, ROWS)
    listener.on_end(trial, "finished")
    (call,) = calls
    assert (call["id"], call["group"], call["mode"], call["resume"]) == (trial.trial_id, "ant_grid", "offline", "allow")
    assert [step for step, _ in run.rows] == [3, 3, 3]
    assert run.finished


@pytest.mark.parametrize("error", [ConnectionError("no network"), SystemExit(1), RuntimeError("no API key")])
def test_whatever_goes_wrong_at_the_start_costs_one_warning(monkeypatch, error):
    fake_wandb(monkeypatch, error=error)
    trial, listener = small_trial(), WandbRows("online")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            listener.on_rows(trial, ROWS)
        listener.on_end(trial, "finished")
    assert [str(each.message) for each in caught if "W&B is off" in str(each.message)] == [
        f"W&B is off for the rest of this trial: {type(error).__name__}: {error}"
    ]


def test_a_full_disk_costs_one_warning(monkeypatch):
    run = FakeRun(fail_at=1)
    fake_wandb(monkeypatch, run)
    trial, listener = small_trial(), WandbRows("offline")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            listener.on_rows(trial, ROWS)
        listener.on_end(trial, "finished")
    assert sum("No space left on device" in str(each.message) for each in caught) == 1
    assert len(run.rows) == 1


@pytest.mark.slow
def test_offline_for_real(tmp_path):
    trial, listener = small_trial(), WandbRows("offline", str(tmp_path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for update in (1, 2):
            listener.on_rows(trial, {**ROWS, "updates": [{"update": update, "policy_loss": 0.5}]})
        listener.on_end(trial, "finished")
    assert not [each for each in caught if "W&B is off" in str(each.message)]
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert folder.name.endswith(trial.trial_id)
    assert list(folder.glob("*.wandb"))
