"""The command line, up to the point where Ray starts: `lop_ray.experiment.run` is stood in for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lop_ray.algorithms.registry import ALGORITHMS
from lop_ray.errors import UserError
from lop_ray.results import Checkpoints, Store
from lop_ray.sweep import Plan
from lop_ray.tune import main

SMALL = ["ant_grid", "--variants", "std,cbp", "--seeds", "0,1", "--total-steps", "4096"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tree() -> dict[str, bytes | None]:
    """Every file and folder here, with contents."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


class Runner:
    """Stands in for `lop_ray.experiment`: every trial ends as `statuses` says, by default finished."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.statuses: dict[tuple[str, int], str] = {}
        self.interrupted = False
        self.error: BaseException | None = None

    def run(self, plan: Plan) -> Any:
        self.plans.append(plan)
        if self.error:
            raise self.error
        plan.commit()
        failed = []
        for spec in plan.to_run:
            status = self.statuses.get((spec.variant, spec.seed), "finished")
            about = {"variant": spec.variant, "seed": spec.seed, "env_steps": spec.total_steps}
            if status == "failed":
                failed.append((spec, "it broke", plan.record_failure(spec, "it broke", "log")))
            else:
                reason = "update 3: loss is NaN" if status == "diverged" else None
                plan.store.trial_writer(spec.trial_id).set_status(status, reason, **about)
        return SimpleNamespace(failed=failed, interrupted=self.interrupted)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """The stand-in that `main` will import."""
    stand_in = Runner()
    module = ModuleType("lop_ray.experiment")
    module.run = stand_in.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lop_ray.experiment", module)
    return stand_in


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], *, allow_output: bool = False) -> str:
    """The one line on stderr of a command that is refused with exit code 2, having written nothing."""
    before = tree()
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert tree() == before
    assert allow_output or shown.out == ""
    assert shown.err.startswith("error: ")
    return shown.err


def grid_file(old: str = "", new: str = "", name: str = "mine.yaml") -> str:
    text = "problem: ant\nalgorithm: ppo\ngrid: {variant: [std, cbp], seed: 0..1}\ntotal_steps: 4096\n"
    Path(name).write_text(text.replace(old, new))
    return name


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["GRID is missing"]),
        (["ant_gird"], ["unknown grid 'ant_gird'", "did you mean 'ant_grid'?"]),
        (["nowhere.yaml"], ["nowhere.yaml does not exist"]),
        ([*SMALL, "--variants", "std,cpb"], ["--variants", "'cpb'", "did you mean 'cbp'?", "known: std, ns, l2"]),
        ([*SMALL, "--variants", ""], ["--variants is empty"]),
        ([*SMALL, "--variants", ","], ["--variants is empty"]),
        ([*SMALL, "--seeds", "29-31"], ["--seeds: 30 is no seed of grid ant_grid, which has 0..29"]),
        ([*SMALL, "--seeds", ""], ["--seeds is empty"]),
        ([*SMALL, "--seeds", "3-1"], ["the range runs backwards; did you mean 1..3? [--seeds]"]),
        ([*SMALL, "--seeds", "one"], ["seed = 'one': should be a number from 0", "[--seeds]"]),
        ([*SMALL, "--set", "grid.seed=[]"], ["grid.seed is empty: the grid has no trials [--set grid.seed=[]]"]),
        ([*SMALL, "--set", "ppo.lrr=1"], ["unknown key 'ppo.lrr'; did you mean 'ppo.lr'?", "[--set ppo.lrr=1]"]),
        ([*SMALL, "--set", "pppo.lr=1"], ["unknown key 'pppo'; did you mean 'ppo'?"]),
        ([*SMALL, "--set", "ppo.lr"], ["--set ppo.lr: should be KEY=VALUE"]),
        ([*SMALL, "--set", "=1"], ["should be KEY=VALUE"]),
        ([*SMALL, "--set", "ppo.lr=[1"], ["--set ppo.lr:1: not YAML"]),
        ([*SMALL, "--set", "ppo.lr=fast"], ["ppo.lr = fast: should be a valid number", "[--set ppo.lr=fast]"]),
        ([*SMALL, "--set", "ppo.lr=0"], ["ppo.lr = 0: should be greater than 0"]),
        ([*SMALL, "--set", "ppo.gamma=1.5"], ["ppo.gamma = 1.5: should be less than or equal to 1"]),
        ([*SMALL, "--set", "ppo.lr.x=1"], ["ppo.lr.x: ppo.lr is a single value and has no keys"]),
        ([*SMALL, "--set", "seed=3"], ["seed: is an axis; choose its values with --seeds"]),
        ([*SMALL, "--set", "problem=aunt"], ["unknown problem 'aunt'; did you mean 'ant'?"]),
        ([*SMALL, "--set", "algorithm=pro"], ["unknown algorithm 'pro'; did you mean 'ppo'?"]),
        ([*SMALL, "--set", "interventions.rdo={}"], ["unknown intervention 'rdo'; did you mean 'redo'?"]),
        ([*SMALL, "--set", "interventions.rdo.period=1"], ["unknown intervention 'rdo'; did you mean 'redo'?"]),
        ([*SMALL, "--set", "diagnostics.rank={}"], ["unknown diagnostic 'rank'; did you mean 'ranks'?"]),
        ([*SMALL, "--set", "ant.observation=112"], ["ant.observation = 112: should be 27, 105 or 111"]),
        ([*SMALL, "--set", "ant.num_envs=7"], ["ant.num_envs = 7: does not divide ppo.batch_size = 2048"]),
        ([*SMALL, "--total-steps", "many"], ["total_steps = many: should be a valid integer", "[--total-steps many]"]),
        ([*SMALL, "--total-steps", "0"], ["total_steps = 0: should be greater than or equal to 1"]),
        ([*SMALL, "--cpus-per-trial", "0"], ["resources.cpus = 0: should be greater than or equal to 1"]),
        ([*SMALL, "--cpus-per-trial", "4096"], ["a trial needs 4096 CPUs, this machine has", "--cpus-per-trial"]),
        ([*SMALL, "--set", "resources.env_runners=4096", "ppo.batch_size=4096", "ant.num_envs=4096"], ["4097 CPUs"]),
        ([*SMALL, "--gpus-per-trial", "4096"], ["resources.gpus = 4096: this machine has", "--gpus-per-trial"]),
        ([*SMALL, "--gpus-per-trial", "1.5"], ["resources.gpus = 1.5: should be a whole number, or a fraction below"]),
        ([*SMALL, "--max-concurrent", "0"], ["--max-concurrent", "'0' should be a whole number from 1"]),
        ([*SMALL, "--wandb", "maybe"], ["--wandb", "invalid choice: 'maybe'", "offline"]),
        ([*SMALL, "--varients", "std"], ["--varients", "did you mean --variants?"]),
        ([*SMALL, "--results", ""], ["--results is empty"]),
        ([*SMALL, "--results", "nosuch://bucket/x"], ["nosuch", "s3://"]),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str], runner: Runner
) -> None:
    line = refused(arguments, capsys)
    assert line.count("\n") == 1, line
    for part in parts:
        assert part in line
    assert not runner.plans


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("hesian_density={}", ["unknown diagnostic 'hesian_density'", "did you mean 'hessian_density'?"]),
        ("probe={evry: 3}", ["unknown key 'diagnostics.probe.evry'", "did you mean 'diagnostics.probe.every'?"]),
        ("probe=on", ["diagnostics.probe = on: should be a mapping of options"]),
        ("probe={every: 0}", ["diagnostics.probe.every = 0: should be greater than or equal to 1"]),
        ("hessian_density={order: few}", ["diagnostics.hessian_density.order = few: should be a valid integer"]),
        ("boundary={}", ["unknown diagnostic 'boundary'; did you mean 'boundaries'?"]),
        ("boundaries={every: 2}", ["unknown key 'diagnostics.boundaries.every'", "boundaries: samples, at_risk"]),
        ("boundaries={samples: 0}", ["diagnostics.boundaries.samples = 0: should be greater than or equal to 1"]),
        ("kfac_ranks={loss: trainig}", ["diagnostics.kfac_ranks.loss = trainig", "did you mean 'training'?"]),
    ],
)
def test_a_bad_diagnostic_is_one_line(
    assignment: str, parts: list[str], capsys: pytest.CaptureFixture[str], runner: Runner
) -> None:
    line = refused([*SMALL, "--set", f"diagnostics.{assignment}"], capsys)
    assert line.count("\n") == 1
    for part in parts:
        assert part in line
    assert not runner.plans


def test_a_diagnostic_that_the_algorithm_cannot_serve(
    capsys: pytest.CaptureFixture[str], runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*SMALL, "--dry-run", "--set", "diagnostics.hessian_density={}"]) == 0
    capsys.readouterr()
    monkeypatch.setitem(ALGORITHMS, "ppo", replace(ALGORITHMS["ppo"], diagnosis=None))
    line = refused([*SMALL, "--set", "diagnostics.hessian_density={}"], capsys)
    assert line == (
        "error: diagnostics.hessian_density: needs batches and losses of the training, which algorithm 'ppo' does not "
        "offer; take it out with diagnostics.hessian_density: false [--set diagnostics.hessian_density={}]\n"
    )
    # Toward the network's own output plus noise it needs no loss of the training.
    assert main([*SMALL, "--dry-run", "--set", "diagnostics.hessian_density={loss: perturbed_output}"]) == 0
    assert not runner.plans


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("problem: ant", "problem: aunt", "unknown problem 'aunt'; did you mean 'ant'? known: ant, slippery_ant, "),
        ("[std, cbp]", "[std, cpb]", "unknown variant 'cpb'; did you mean 'cbp'?"),
        ("[std, cbp]", "[]", "grid.variant is empty: the grid has no trials [mine.yaml:3]"),
        ("total_steps: 4096", "total_steps: 4096\ntotal_steps: 1", "mine.yaml:5: total_steps stands twice"),
        ("total_steps: 4096", "total_steps: on", "total_steps = on: should be a valid integer"),
        ("total_steps: 4096", "total_steps: [", "not YAML"),
    ],
)
def test_a_bad_grid_file_is_one_line(
    old: str, new: str, part: str, capsys: pytest.CaptureFixture[str], runner: Runner
) -> None:
    line = refused([grid_file(old, new)], capsys)
    assert line.count("\n") == 1
    assert part in line


@pytest.mark.parametrize("results", ["occupied", "occupied/below"])
def test_results_that_cannot_be_written(results: str, capsys: pytest.CaptureFixture[str], runner: Runner) -> None:
    Path("occupied").write_text("a file, not a folder")
    line = refused([*SMALL, "--results", results], capsys)
    assert "can't be written" in line
    assert "--results" in line
    assert line.count("\n") == 1


def test_another_grid_of_that_name(capsys: pytest.CaptureFixture[str], runner: Runner) -> None:
    assert main(SMALL) == 0
    capsys.readouterr()
    error = refused([*SMALL, "--total-steps", "8192", "--set", "ppo.lr=3e-4"], capsys).splitlines()
    assert "grid ant_grid is not the one that" in error[0]
    assert [line.strip() for line in error[1:]] == ["total_steps: 4096 -> 8192", "ppo.lr: 0.0001 -> 0.0003"]


def test_a_checkpoint_of_another_version(capsys: pytest.CaptureFixture[str], runner: Runner) -> None:
    runner.statuses = {("std", 1): "stopped"}
    assert main(SMALL) == 0
    capsys.readouterr()
    spec = next(spec for spec in runner.plans[0].specs if (spec.variant, spec.seed) == ("std", 1))
    Checkpoints(Store("results", "ant_grid").location, spec.trial_id).save(1, 2048, {"state": b"x"}, {"torch": "9"})
    marker = next(Path("results").rglob("complete.json"))
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": 99}))
    line = refused(SMALL, capsys)
    assert f"trial {spec.trial_id} (std, seed 1)" in line
    assert "has format 99" in line
    assert "torch 9" in line
    assert line.count("\n") == 1


def test_fresh_refuses_what_is_there(capsys: pytest.CaptureFixture[str], runner: Runner) -> None:
    assert main([*SMALL, "--fresh"]) == 0
    capsys.readouterr()
    line = refused([*SMALL, "--fresh"], capsys)
    assert "--fresh" in line
    assert "results/ant_grid holds" in line
    assert len(runner.plans) == 1


def test_a_refusal_of_the_cluster_is_bad_input_too(capsys: pytest.CaptureFixture[str], runner: Runner) -> None:
    runner.error = UserError("a trial needs 64 CPUs, the cluster has 8")
    line = refused([*SMALL, "--address", "somewhere:6379", "--cpus-per-trial", "64"], capsys, allow_output=True)
    assert line == "error: a trial needs 64 CPUs, the cluster has 8\n"
    assert runner.plans[0].address == "somewhere:6379"


def test_the_flags_reach_the_plan(runner: Runner) -> None:
    extra = ["--set", "ppo.lr=3e-4", "network.hidden=[64, 64]", "--set", "ant.num_envs=2", "--max-concurrent", "1"]
    assert main([*SMALL, *extra, "--results", "elsewhere", "--wandb", "offline", "--set", "resources.cpus=2"]) == 0
    (plan,) = runner.plans
    assert plan.results == str(Path("elsewhere").resolve())
    assert (plan.grid, plan.max_concurrent, plan.wandb, plan.address) == ("ant_grid", 1, "offline", None)
    assert [(spec.variant, spec.seed) for spec in plan.to_run] == [("std", 0), ("cbp", 0), ("std", 1), ("cbp", 1)]
    for spec in plan.to_run:
        assert spec.total_steps == 4096
        assert spec.algorithm_options["lr"] == 3e-4
        assert spec.network.hidden == (64, 64)
        assert spec.problem_options["num_envs"] == 2
        assert spec.resources.cpus == 2


def test_resources_by_flag(runner: Runner) -> None:
    assert main([*SMALL, "--cpus-per-trial", "3", "--gpus-per-trial", "0.25", "--address", "x:1"]) == 0
    assert {(spec.resources.cpus, spec.resources.gpus) for spec in runner.plans[0].to_run} == {(3, 0.25)}


def test_the_same_command_continues(capsys: pytest.CaptureFixture[str], runner: Runner) -> None:
    runner.statuses = {("std", 0): "diverged", ("cbp", 1): "stopped"}
    runner.interrupted = True
    assert main(SMALL) == 130
    shown = capsys.readouterr().out
    assert "1 diverged" in shown
    assert "update 3: loss is NaN" in shown
    assert "run the same command to continue" in shown
    runner.statuses, runner.interrupted = {}, False
    assert main(SMALL) == 0
    assert [(spec.variant, spec.seed) for spec in runner.plans[1].to_run] == [("cbp", 1)]
    shown = capsys.readouterr().out
    assert "4 trials, 1 to run (1 of them begun before), 1 diverged before, 2 finished before" in shown
    assert main(SMALL) == 0
    assert len(runner.plans) == 2  # nothing was left to run
    assert "0 to run" in capsys.readouterr().out


def test_failures_are_named(capsys: pytest.CaptureFixture[str], runner: Runner) -> None:
    runner.statuses = {("cbp", 0): "failed"}
    assert main(SMALL) == 1
    shown = capsys.readouterr().out
    assert "1 failed" in shown
    assert "3 finished" in shown
    line = next(line for line in shown.splitlines() if "it broke" in line)
    assert "cbp seed 0" in line
    log = line.rpartition("log: ")[2]
    assert Path(log).read_text() == "log"
    assert f"results: {Path('results/ant_grid').resolve()}" in shown


def test_an_interrupt_before_the_trials_start(capsys: pytest.CaptureFixture[str], runner: Runner) -> None:
    runner.error = KeyboardInterrupt()
    assert main(SMALL) == 130
    assert "run the same command to continue" in capsys.readouterr().err


def test_a_dry_run_shows_every_trial_and_writes_nothing(capsys: pytest.CaptureFixture[str], runner: Runner) -> None:
    before = tree()
    assert main([*SMALL, "--dry-run", "--max-concurrent", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["id", "problem", "variant", "seed", "steps", "resources", "state"]
    assert [line.split()[1:] for line in shown[1:5]] == [
        ["ant", variant, seed, "4,096", "1", "CPU", "new"] for seed in "01" for variant in ("std", "cbp")
    ]
    assert "ant_grid: 4 trials, 4 to run" in shown
    assert any(line.startswith("1 at a time") for line in shown)
    assert f"results: {Path('results/ant_grid').resolve()}" in shown
    assert tree() == before
    assert not runner.plans


def test_a_dry_run_shows_further_axes_and_states(capsys: pytest.CaptureFixture[str], runner: Runner) -> None:
    axis = ["--set", "grid.ppo.lr=[1e-4, 1e-3]"]
    runner.statuses = {("std", 0): "finished"}
    assert main([*SMALL, *axis, "--variants", "std", "--seeds", "0"]) == 0
    capsys.readouterr()
    assert main([*SMALL, *axis, "--dry-run", "--seeds", "0"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[:5]]
    assert rows[0][4] == "ppo.lr"
    assert [(row[2], row[4], row[-1]) for row in rows[1:]] == [
        ("std", "0.0001", "finished"),
        ("cbp", "0.0001", "new"),
        ("std", "0.001", "finished"),
        ("cbp", "0.001", "new"),
    ]


def test_a_list_shows_grids_variants_and_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    heads = {line[0] for line in lines}
    assert {"ant_grid", "std", "ns", "l2", "cbp", "redo", "layernorm", "specnorm", "ant"} <= heads
    assert all(len(line) > 1 for line in lines)


@pytest.mark.parametrize("place", ["tune_configs", "."])
def test_grids_of_ones_own(place: str, capsys: pytest.CaptureFixture[str], runner: Runner) -> None:
    Path(place).mkdir(exist_ok=True)
    path = grid_file(name=f"{place}/mine.yaml")
    assert main(["mine" if place == "tune_configs" else path]) == 0
    assert runner.plans[0].grid == "mine"
    assert Path("results/mine/grid.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "absent"), [(["--list"], ("torch", "ray", "mujoco")), ([*SMALL, "--dry-run"], ("ray",))]
)
def test_looking_loads_no_more_than_needed(arguments: list[str], absent: tuple[str, ...]) -> None:
    code = f"""
import sys
from lop_ray.tune import main
assert main({arguments!r}) == 0
print([name for name in {absent!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_may_stop_early() -> None:
    command = f"{sys.executable} -m lop_ray.tune --list | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("list", "dry-run", "set", "variants", "seeds", "total-steps", "results", "address", "fresh", "wandb"):
        assert f"--{flag}" in shown
    for flag in ("cpus-per-trial", "gpus-per-trial", "max-concurrent"):
        assert f"--{flag}" in shown
