"""Supervised grids from the command line: what is refused before Ray starts, and one that runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lop_ray.algorithms.supervised.training import SupervisedTraining
from lop_ray.config.grid import load_grid
from lop_ray.errors import UserError
from lop_ray.results import read_table
from lop_ray.sweep import make_plan, make_trials
from lop_ray.tune import main
from tests.algorithms.test_supervised_group import assert_close

GRID = """\
problem: gaussian_mixture
algorithm: supervised
grid: {variant: [std], seed: 0..4}
total_steps: 384
gaussian_mixture: {examples: 24, steps_per_task: 4}
network: {hidden: [8, 6], activation: tanh, init: glorot_normal}
optimizer: {name: sgd}
supervised: {lr: 0.3, steps_per_update: 2}
diagnostics: {margins: {neurons_every: 1}}
"""


@pytest.fixture(autouse=True)
def _grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mixture.yaml").write_text(GRID)


IMAGES = ("problem=labelled_images", "total_steps=20000")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("problem=ant",), "algorithm = supervised: problem ant is an environment to act in; use ppo"),
        (
            ("algorithm=ppo",),
            "algorithm = ppo: problem gaussian_mixture is a stream of supervised tasks; use supervised",
        ),
        (("supervised.lrr=1",), "unknown key 'supervised.lrr'; did you mean 'supervised.lr'?"),
        (("supervised.minibatch_size=8",), "minibatch_size = 8: the problem shows all 24 examples of a task at every"),
        (
            (*IMAGES, "supervised.minibatch_size=5000"),
            "is larger than the data, a task has 1437 examples; choose a sma",
        ),
        (("resources.env_runners=1",), "resources.env_runners = 1: supervised training has none; leave it out"),
        (("supervised.fresh_steps=9",), "fresh_steps has no effect with fresh_baseline: 0"),
        (
            ("diagnostics.trust_region={}",),
            "diagnostics.trust_region: needs ratios of the training, which algorithm 's",
        ),
        (
            ("interventions.c_chain={}",),
            "c_chain.networks: there is no network or head 'policy'; this training has cla",
        ),
        (
            ("interventions.adam_rel={}",),
            "adam_rel needs Adam's count of steps, which SGD does not have; use optimizer",
        ),
        (("network.kind=conv",), "an image network reads observations [height, width, channels], not [4]; use network"),
        (
            ("resources.seeds_per_trial=2", "interventions.spectral_norm={}"),
            "resources.seeds_per_trial above 1 is not ",
        ),
        (("resources.seeds_per_trial=2", "network.normalisation=layernorm"), "needs network.normalisation none"),
        (("resources.seeds_per_trial=0",), "resources.seeds_per_trial = 0: should be greater than or equal to 1"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    sets: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if sets[0] == IMAGES[0]:
        Path("mixture.yaml").write_text(GRID.replace("gaussian_mixture: {", "labelled_images: {}  # {"))
    assert main(["mixture.yaml", "--dry-run", "--set", *sets]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("results").exists()


def test_batches_of_seeds_are_not_for_environments() -> None:
    with pytest.raises(
        UserError, match="seeds run as one batched network with algorithm supervised alone, not with ppo"
    ):
        make_plan(load_grid("ant_grid", [_set("resources.seeds_per_trial=2")]), variants=["std"], seeds=[0])


def _set(text: str):
    from lop_ray.config.grid import parse_assignment

    return parse_assignment(text)


def test_seeds_that_run_together_differ_in_nothing_else() -> None:
    flags = [_set("resources.seeds_per_trial=2"), _set("grid.variant=[std,l2]"), _set("optimizer={name: adam}")]
    plan = make_plan(load_grid("mixture.yaml", flags), will_write=False)
    groups = [[(spec.variant, spec.seed) for spec in group] for group in plan.groups]
    assert groups == [
        [("std", 0), ("std", 1)],
        [("l2", 0), ("l2", 1)],
        [("std", 2), ("std", 3)],
        [("l2", 2), ("l2", 3)],
        [("std", 4)],
        [("l2", 4)],
    ]
    alone = make_plan(load_grid("mixture.yaml", flags[1:]), will_write=False)
    assert [spec.trial_id for spec in alone.to_run] == [spec.trial_id for spec in plan.to_run]  # ids are the same
    assert [len(group) for group in alone.groups] == [1] * 10
    plan.store.trial_writer(plan.to_run[0].trial_id).set_status("running")  # std, seed 0 has begun
    again = make_plan(load_grid("mixture.yaml", flags), will_write=False, results="elsewhere")
    assert again.groups == plan.groups


@pytest.mark.slow
def test_a_grid_runs_and_its_rows_are_those_of_the_trainings() -> None:
    together = ["--set", "resources.seeds_per_trial=3"]
    command = [sys.executable, "-m", "lop_ray.tune", "mixture.yaml"]
    for more in (["--results", "one"], ["--results", "batched", *together]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "mixture: 5 finished" in done.stdout
    done = subprocess.run([*command, "--results", "batched"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0
    assert "0 to run, 5 finished before" in done.stdout
    for spec in make_trials(load_grid("mixture.yaml")):
        training = SupervisedTraining(spec)
        updates = [training.update() for _ in range(8)]
        for name in ("updates", "tasks", "layers", "neurons"):
            wanted = [row for update in updates for row in update.get(name, [])]
            for place in ("one", "batched"):
                rows = read_table(place, "mixture", name, trials=[spec.trial_id]).to_pylist()
                assert len(rows) == len(wanted) > 0
                own = [{key: row[key] for key in like} for row, like in zip(rows, wanted, strict=True)]
                exact = place == "one" and name != "neurons"  # margins are float32 there
                assert_close([{name: own}], [{name: wanted}], 0 if exact else 1e-6)
