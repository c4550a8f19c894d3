from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lop_ray.algorithms.spec import CheckpointOptions, OptimizerOptions, Resources, TrialSpec
from lop_ray.config.grid import load_grid, parse_assignment
from lop_ray.errors import UserError
from lop_ray.networks import NetworkOptions
from lop_ray.results import Checkpoints, Store
from lop_ray.sweep import Machine, Plan, identity, make_plan, make_trials, trial_id

GRID = """\
problem: ant
algorithm: ppo
grid:
  variant: [std, cbp]
  seed: 0..1
total_steps: 4096
"""

SPEC = TrialSpec(
    trial_id="",
    grid="some_grid",
    problem="ant",
    problem_options={"num_envs": 8},
    algorithm="ppo",
    algorithm_options={"lr": 1e-4},
    network=NetworkOptions(hidden=(64, 32)),
    optimizer=OptimizerOptions(betas=(0.9, 0.999)),
    interventions={"redo": {"period": 100}, "cbp": {"replacement_rate": 1e-4}},
    diagnostics={"ranks": {"every": 1}},
    variant="mine",
    seed=3,
    total_steps=10**8,
    resources=Resources(),
    checkpoints=CheckpointOptions(),
)


def grid_of(folder: Path, *sets: str, old: str = "", new: str = "") -> Any:
    folder.mkdir(exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(GRID.replace(old, new) if old else GRID)
    return load_grid(str(path), [parse_assignment(each) for each in sets])


def plan_of(folder: Path, *sets: str, old: str = "", new: str = "", **options: Any) -> Plan:
    return make_plan(grid_of(folder, *sets, old=old, new=new), results=str(folder / "results"), **options)


def end(plan: Plan, spec: TrialSpec, status: str) -> None:
    plan.store.trial_writer(spec.trial_id).set_status(status, env_steps=4096)


def places(specs: Any) -> list[tuple[str, int]]:
    return [(spec.variant, spec.seed) for spec in specs]


def test_a_trial_id_is_a_hash_of_canonical_json() -> None:
    text = (
        '{"algorithm":"ppo","algorithm_options":{"lr":0.0001},"diagnostics":{"ranks":{"every":1}},'
        '"interventions":[["redo",{"period":100}],["cbp",{"replacement_rate":0.0001}]],'
        '"network":{"activation":"relu","hidden":[64,32],"init":"lecun_uniform","kind":"mlp","log_std_init":0.0,'
        '"normalisation":"none"},'
        '"optimizer":{"betas":[0.9,0.999],"decoupled":false,"eps":1e-08,"name":"adam","weight_decay":0.0},'
        '"problem":"ant","problem_options":{"num_envs":8},"seed":3,"total_steps":100000000,"variant":"mine"}'
    )
    assert json.loads(text) == identity(SPEC)
    assert trial_id(SPEC) == "t" + hashlib.sha256(text.encode()).hexdigest()[:12]


def test_trial_ids_of_the_papers_grid_are_known() -> None:
    # Ids are the names of everybody's results. If this fails, an option was added, renamed or given another
    # default: grids that have begun can't be continued then. If that is meant, say so in the changelog.
    trials = make_trials(load_grid("ant_grid"), variants=["std", "cbp"], seeds=[0, 29])
    assert [(*place, spec.trial_id) for place, spec in zip(places(trials), trials, strict=True)] == [
        ("std", 0, "t1232ada4cee9"),
        ("cbp", 0, "t0045ce00bab2"),
        ("std", 29, "ted6e6a52d8ef"),
        ("cbp", 29, "t00f7d95cdfb7"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"grid": "other"},
        {"resources": Resources(cpus=4, gpus=0.5, env_runners=2)},
        {"checkpoints": CheckpointOptions(every_steps=1)},
        {"trial_id": "t1"},
        {"algorithm_options": {"lr": 0.0001}},
    ],
)
def test_places_and_resources_are_not_part_of_a_trial(change: dict[str, Any]) -> None:
    assert trial_id(SPEC.model_copy(update=change)) == trial_id(SPEC)


@pytest.mark.parametrize(
    "change",
    [
        {"problem": "other"},
        {"problem_options": {"num_envs": 4}},
        {"algorithm_options": {"lr": 2e-4}},
        {"network": NetworkOptions(hidden=(32, 64))},
        {"optimizer": OptimizerOptions(betas=(0.99, 0.99))},
        {"interventions": {"cbp": {"replacement_rate": 1e-4}, "redo": {"period": 100}}},  # the other order
        {"diagnostics": {}},
        {"variant": "other"},
        {"seed": 4},
        {"total_steps": 10**8 - 1},
    ],
)
def test_whatever_decides_the_rows_is_part_of_a_trial(change: dict[str, Any]) -> None:
    assert trial_id(SPEC.model_copy(update=change)) != trial_id(SPEC)


def test_trials_come_seed_by_seed(tmp_path: Path) -> None:
    specs = make_trials(grid_of(tmp_path))
    assert places(specs) == [("std", 0), ("cbp", 0), ("std", 1), ("cbp", 1)]
    assert len({spec.trial_id for spec in specs}) == 4
    assert {spec.grid for spec in specs} == {"small"}
    assert places(make_trials(grid_of(tmp_path), variants=["cbp"], seeds=[1])) == [("cbp", 1)]


def test_an_axis_multiplies_the_trials_that_it_changes(tmp_path: Path) -> None:
    over_all = make_trials(grid_of(tmp_path, old="  seed: 0..1", new="  seed: 0\n  ppo.lr: [1e-4, 1e-3]"))
    assert [(spec.variant, spec.algorithm_options["lr"]) for spec in over_all] == [
        ("std", 1e-4),
        ("cbp", 1e-4),
        ("std", 1e-3),
        ("cbp", 1e-3),
    ]
    inside = grid_of(tmp_path, old="  seed: 0..1", new="  seed: 0\n  interventions.cbp.replacement_rate: [0.1, 0.2]")
    rates = [spec.interventions.get("cbp", {}).get("replacement_rate") for spec in make_trials(inside)]
    assert rates == [None, 0.1, 0.2]


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert len(plan.to_run) == 4
    assert not (tmp_path / "results").exists()


def test_what_has_ended_is_skipped_and_the_rest_runs(tmp_path: Path) -> None:
    first = plan_of(tmp_path)
    first.commit()
    for spec, status in zip(first.specs, ["finished", "diverged", "failed", "stopped"], strict=True):
        end(first, spec, status)
    again = plan_of(tmp_path)
    assert [(spec.trial_id, status) for spec, status in again.skipped] == [
        (first.specs[0].trial_id, "finished"),
        (first.specs[1].trial_id, "diverged"),
    ]
    assert again.to_run == first.specs[2:]


def test_a_begun_trial_continues_from_its_newest_checkpoint(tmp_path: Path) -> None:
    first = plan_of(tmp_path)
    first.commit()
    begun, fresh_start, new = first.specs[:3]
    for spec in (begun, fresh_start):
        end(first, spec, "stopped")
    checkpoints = Checkpoints(first.store.location, begun.trial_id)
    checkpoints.save(1, 2048, {"state": b"x"}, {})
    again = plan_of(tmp_path)
    assert [again.state(spec) for spec in (begun, fresh_start, new)] == ["continues at 2,048", "continues at 0", "new"]


def test_a_part_now_and_the_rest_later(tmp_path: Path) -> None:
    plan_of(tmp_path, variants=["cbp"], seeds=[1]).commit()
    plan_of(tmp_path, variants=["std"]).commit()
    manifest = plan_of(tmp_path).store.read_manifest()
    assert manifest is not None
    assert [(each["variant"], each["seed"]) for each in manifest["trials"].values()] == [
        ("cbp", 1),
        ("std", 0),
        ("std", 1),
    ]
    assert manifest["axes"] == {"variant": ["cbp", "std"], "seed": [1, 0]}
    plan_of(tmp_path).commit()
    grown = plan_of(tmp_path).store.read_manifest()
    assert grown is not None
    assert set(grown["trials"]) == {spec.trial_id for spec in plan_of(tmp_path).specs}
    assert len(grown["runs"]) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0..1", "0..9"),
        ("0..1", "5"),
        ("[std, cbp]", "[std, cbp, redo]"),
        ("[std, cbp]", "[l2]"),
        ("  seed: 0..1", "  seed: 0..1\n  ppo.lr: [1e-4, 1e-3]"),  # 1e-4 is what it was
        ("total_steps", "resources: {cpus: 2}\ncheckpoints: {every_steps: 7}\ndescription: other\ntotal_steps"),
        ("total_steps", "ppo: {lr: 0.0001}\ntotal_steps"),  # the default, written out
    ],
)
def test_a_grid_may_grow(tmp_path: Path, old: str, new: str) -> None:
    first = plan_of(tmp_path)
    first.commit()
    for spec in first.specs:
        end(first, spec, "finished")
    machine_free = {"address": "a-cluster"}
    second = plan_of(tmp_path, old=old, new=new, **machine_free)
    shared = {spec.trial_id for spec in second.specs} & {spec.trial_id for spec in first.specs}
    assert {spec.trial_id for spec, _ in second.skipped} == shared
    second.commit()
    manifest = second.store.read_manifest()
    assert manifest is not None
    assert set(manifest["trials"]) == {spec.trial_id for spec in (*first.specs, *second.specs)}
    plan_of(tmp_path)  # and the first grid is still welcome


@pytest.mark.parametrize(
    ("sets", "lines"),
    [
        (["total_steps=8192"], ["total_steps: 4096 -> 8192"]),
        (["ppo.lr=3e-4", "ant.num_envs=2"], ["ppo.lr: 0.0001 -> 0.0003", "ant.num_envs: 1 -> 2"]),
        (["diagnostics={ranks: {every: 3}}"], ["diagnostics: [] -> [ranks]", "diagnostics.ranks.every: absent -> 3"]),
        (
            ["interventions.cbp.replacement_rate=0.5"],
            ["variant cbp: interventions.cbp.replacement_rate: 0.0001 -> 0.5"],
        ),
        (
            ["interventions.cbp=false"],
            ["variant cbp: interventions: [cbp] -> []"],
        ),
        # The variant's own betas are beaten, and the grid's are what they were: seen all the same.
        (["optimizer.betas=[0.9, 0.999]"], ["variant cbp: optimizer.betas: [0.99, 0.99] -> [0.9, 0.999]"]),
    ],
)
def test_a_changed_grid_is_refused_with_the_difference(tmp_path: Path, sets: list[str], lines: list[str]) -> None:
    plan_of(tmp_path).commit()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="is not the one that") as raised:
        plan_of(tmp_path, *sets)
    shown = str(raised.value).splitlines()
    assert "undo the change, or give another --results" in shown[0]
    assert set(lines) <= {line.strip() for line in shown[1:]}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_change_does_not_hide_behind_a_selection(tmp_path: Path) -> None:
    plan_of(tmp_path, variants=["cbp"], seeds=[0]).commit()
    with pytest.raises(UserError, match=r"ppo\.lr: 0\.0001 -> 1"):
        plan_of(tmp_path, "ppo.lr=1", variants=["std"], seeds=[1])
    with pytest.raises(UserError, match="variant cbp"):
        plan_of(tmp_path, "interventions.cbp.replacement_rate=0.5", variants=["std"])


def test_a_variant_without_trials_may_still_change(tmp_path: Path) -> None:
    plan_of(tmp_path, variants=["std"]).commit()
    assert len(plan_of(tmp_path, "interventions.cbp.replacement_rate=0.5").to_run) == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("format: 1\n", "damaged, axes, grid, problems, settings, trials, variants missing"),
        ("format: 7\n", "this lop_ray reads format 1"),
        ("a: [", "can't be read"),
    ],
)
def test_an_unreadable_manifest_is_refused(tmp_path: Path, damage: str, message: str) -> None:
    plan = plan_of(tmp_path)
    plan.commit()
    (tmp_path / "results/small/grid.yaml").write_text(damage)
    with pytest.raises(UserError, match=message):
        plan_of(tmp_path)


def test_trials_without_a_manifest_are_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    end(plan, plan.specs[0], "finished")
    with pytest.raises(UserError, match=r"holds 1 trials, but no grid\.yaml"):
        plan_of(tmp_path)


def test_the_manifest_says_what_was_run(tmp_path: Path) -> None:
    plan_of(tmp_path, command="python -m lop_ray.tune small").commit()
    manifest = plan_of(tmp_path).store.read_manifest()
    assert manifest is not None
    assert manifest["settings"]["ppo.lr"] == 1e-4
    assert manifest["settings"]["optimizer.betas"] == [0.9, 0.999]
    assert manifest["problems"]["ant"]["ant.observation"] == 111
    assert manifest["variants"]["std"] == {}
    assert manifest["variants"]["cbp"]["optimizer.weight_decay"] == 1e-4
    assert manifest["variants"]["cbp"]["interventions"] == ["cbp"]
    run = manifest["runs"][0]
    assert run["command"] == "python -m lop_ray.tune small"
    assert {"at", "git_commit", "versions", "hardware"} <= set(run)


def test_a_failure_is_written_down(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    plan.commit()
    spec = plan.specs[1]
    log = plan.record_failure(spec, "KeyError: 'x'", "Traceback\nKeyError: 'x'\n")
    assert Path(log).read_text() == "Traceback\nKeyError: 'x'\n"
    row = Store(plan.results, "small").trials()[spec.trial_id]
    assert (row["status"], row["reason"], row["variant"], row["seed"]) == ("failed", "KeyError: 'x'", "cbp", 0)
    assert TrialSpec(**json.loads(row["config"])) == spec


@pytest.mark.parametrize(
    ("cores", "gpus", "cpus", "per_gpu", "runners", "limit", "trials_at_a_time"),
    [
        (8, 0, 1, 0, 0, None, 4),  # there are only four trials
        (3, 0, 1, 0, 0, None, 3),
        (8, 0, 3, 0, 0, None, 2),
        (8, 0, 1, 0, 2, None, 2),
        (8, 0, 1, 0, 0, 2, 2),
        (8, 1, 1, 0.5, 0, None, 2),
        (8, 3, 1, 1, 0, None, 3),
        (8, 3, 1, 2, 0, None, 1),
    ],
)
def test_how_many_run_at_a_time(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    gpus: int,
    cpus: int,
    per_gpu: float,
    runners: int,
    limit: int | None,
    trials_at_a_time: int,
) -> None:
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls, look_for_gpus: cls(cores, gpus)))
    sets = [f"resources={{cpus: {cpus}, gpus: {per_gpu}, env_runners: {runners}}}", "ant.num_envs=2"]
    plan = plan_of(tmp_path, *sets, max_concurrent=limit)
    assert plan.concurrency == trials_at_a_time
    assert plan.cores == cores


def test_a_cluster_knows_its_own_size(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "resources.cpus=4096", address="somewhere:6379")
    assert plan.concurrency is None
    assert plan.cores is None
    assert plan_of(tmp_path, address="somewhere:6379", max_concurrent=3).concurrency == 3


def test_this_machine_counts_the_cores_that_it_may_use() -> None:
    assert Machine.here(look_for_gpus=False).cores == len(os.sched_getaffinity(0))


def test_results_are_absolute_because_workers_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_plan(grid_of(tmp_path), results="r").results == str(tmp_path / "r")
    assert make_plan(grid_of(tmp_path), results=f"file://{tmp_path}/r").results == f"file://{tmp_path}/r"
