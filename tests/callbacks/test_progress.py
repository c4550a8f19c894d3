import io
import types

import pytest
from rich.console import Console

from callbacks.dashboard import DashboardRows, TrialStatusGauge
from callbacks.progress import Progress
from tests.algorithms.small import small_trial


class FakeTrial:
    def __init__(self, spec, error_file=None):
        self.config = {"spec": spec.model_dump(mode="json")}
        self.error_file, self.status, self.last_result = error_file, "RUNNING", {}


@pytest.fixture
def specs():
    return [small_trial("std", 0), small_trial("cbp", 0), small_trial("cbp", 1)]


@pytest.fixture
def plan(specs):
    failures = []

    def record(spec, reason, log):
        failures.append((spec.trial_id, reason, log))
        return "somewhere/error.log"

    return types.SimpleNamespace(
        grid="ant_grid", specs=specs, to_run=specs[:2], skipped=[(specs[2], "finished")], record_failure=record,
        failures=failures,
    )  # fmt: skip


def result(**more):
    return {"env_steps": 1024, "status": "running", "reason": "", "steps_per_s": 100.0, "notes": "", **more}


def shown(plan, *, terminal):
    out = io.StringIO()
    return out, Progress(plan, Console(file=out, force_terminal=terminal, width=140))


def test_plain_lines_off_a_terminal(plan, specs):
    out, progress = shown(plan, terminal=False)
    std, cbp = FakeTrial(specs[0]), FakeTrial(specs[1])
    with progress:
        for trial in (std, cbp):
            progress.on_trial_start(0, [], trial)
        progress.on_trial_result(0, [], std, result(notes="continues from update 7", episode_return_mean=-5.0))
        progress.on_trial_result(0, [], cbp, result(status="diverged", reason="update 2: loss is not finite"))
        progress.on_trial_result(0, [], std, result(status="finished"))
    text = out.getvalue()
    assert "\x1b" not in text
    assert f"std seed 0 ({specs[0].trial_id}): continues from update 7" in text
    assert f"cbp seed 0 ({specs[1].trial_id}) diverged: update 2: loss is not finite" in text
    assert "2 finished, 0 running, 0 waiting, 1 diverged, 0 failed" in text.splitlines()[-1]
    assert progress.unfinished == []


def test_one_table_on_a_terminal(plan, specs):
    out, progress = shown(plan, terminal=True)
    with progress:
        progress.on_trial_start(0, [], FakeTrial(specs[0]))
        progress.on_trial_result(0, [], FakeTrial(specs[0]), result(episode_return_mean=12.0, dead_fraction=0.25))
    text = out.getvalue()
    for word in ("variant", "finished", "running", "diverged", "failed", "steps/s", "return", "ETA", "0.25", "std"):
        assert word in text
    assert [spec.variant for spec in progress.unfinished] == ["std", "cbp"]


def test_a_failure_is_recorded_with_the_errors_last_line(plan, specs, tmp_path):
    out, progress = shown(plan, terminal=False)
    log = tmp_path / "error.txt"
    log.write_text("Traceback (most recent call last):\n  File x\nValueError: the second\n")
    trial = FakeTrial(specs[0], str(log))
    with progress:
        progress.on_trial_start(0, [], trial)
        progress.on_trial_recover(0, [], trial)
        assert "failed and is tried again: ValueError: the second" in out.getvalue()
        progress.on_trial_error(0, [], trial)
    assert progress.failed == [(specs[0], "ValueError: the second", "somewhere/error.log")]
    assert plan.failures == [(specs[0].trial_id, "ValueError: the second", log.read_text())]
    assert [spec.variant for spec in progress.unfinished] == ["cbp"]


def test_seeds_that_run_together_are_shown_one_by_one(specs):
    specs = [small_trial("std", seed) for seed in range(3)]
    failures = []
    plan = types.SimpleNamespace(
        grid="ant_grid", specs=specs, to_run=specs, skipped=[],
        record_failure=lambda spec, *_: failures.append(spec.seed) or "error.log",
    )  # fmt: skip
    out, progress = shown(plan, terminal=False)
    trial = FakeTrial(specs[0])
    trial.config["spec"]["others"] = [spec.model_dump(mode="json") for spec in specs[1:]]
    with progress:
        progress.on_trial_start(0, [], trial)
        members = {
            specs[0].trial_id: result(notes="continues from update 7"),
            specs[1].trial_id: result(status="diverged"),
        }
        progress.on_trial_result(0, [], trial, {"members": members, "status": "running"})
        assert len(progress.unfinished) == 2
        progress.on_trial_recover(0, [], trial)
        progress.on_trial_start(0, [], trial)
        progress.on_trial_error(0, [], trial)
    text = out.getvalue()
    assert f"std seed 0 ({specs[0].trial_id}): continues from update 7" in text
    assert f"std seed 1 ({specs[1].trial_id}) diverged" in text
    assert failures == [0, 2]  # the one that diverged has its result
    assert "0 running, 0 waiting, 1 diverged, 2 failed" in text.splitlines()[-1]


class FakeGauge:
    values: dict = {}  # noqa: RUF012

    def __init__(self, name, description, tag_keys):
        self.name, self.tag_keys = name, tag_keys

    def set(self, value, tags):
        assert set(tags) == set(self.tag_keys)
        self.values[(self.name, *tags.values())] = value


def test_metrics_by_variant(monkeypatch, plan, specs):
    monkeypatch.setattr("callbacks.dashboard.Gauge", FakeGauge)
    monkeypatch.setattr(FakeGauge, "values", {})
    rows = DashboardRows()
    layers = [{"units": 10, "dead": 1}, {"units": 30, "dead": 3}]
    for steps in (100, 200):
        rows.on_rows(specs[0], {"updates": [{"env_steps": steps, "episode_return_mean": 7.0}], "layers": layers})
    values = FakeGauge.values
    assert values["lop_ray_dead_fraction", "ant_grid", "std", "std-seed0"] == 0.1
    assert values["lop_ray_episode_return", "ant_grid", "std", "std-seed0"] == 7.0
    assert values["lop_ray_env_steps_per_second", "ant_grid", "std", "std-seed0"] > 0
    rows.on_end(specs[0], "finished")
    assert values["lop_ray_env_steps_per_second", "ant_grid", "std", "std-seed0"] == 0

    running, failed = FakeTrial(specs[0]), FakeTrial(specs[1])
    running.last_result, failed.status = {"status": "running"}, "ERROR"
    TrialStatusGauge(plan).on_step_end(0, [running, failed])
    assert values["lop_ray_trials", "ant_grid", "std", "running"] == 1
    assert values["lop_ray_trials", "ant_grid", "cbp", "failed"] == 1
    assert values["lop_ray_trials", "ant_grid", "cbp", "finished"] == 1
