"""Observations of held-out levels: whose they are, and what is measured on them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lop_ray.collection import collect, features_of_last_layer, last_layer_summary
from lop_ray.diagnose import main
from lop_ray.problems import find_problem
from lop_ray.results import read_table
from lop_ray.seeding import derive_seed
from tests.stored_pixels import PixelLife, pixel_trial
from tests.stored_trial import Life

pytest.importorskip("procgen")


def rows(life: Any, table: str, **where: Any) -> list[dict[str, Any]]:
    results = str(life.store.location).rpartition("/")[0]
    found = read_table(results, life.spec.grid, f"diagnosed_{table}").to_pylist()
    return [row for row in found if all(row[key] == value for key, value in where.items())]


class Always(torch.nn.Module):
    """Prefers one action by far; the value that stands behind the logits is larger still."""

    def __init__(self, action: int):
        super().__init__()
        self.register_buffer("output", torch.zeros(10))
        self.output[action], self.output[9] = 50.0, 1000.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.output.expand(len(images), 10)


def test_the_policy_acts_on_held_out_levels_of_the_task() -> None:
    trial = pixel_trial()
    found = collect(trial, Always(7), 7, task=1, update=5, actor="policy")
    assert found.dtype == torch.uint8
    assert found.shape == (7, 64, 64, 3)
    problem = find_problem("procgen")
    env = problem.make_held_out(problem.Options(**trial.problem_options), task=1, task_seed=trial.seed)
    images, _ = env.reset(seed=derive_seed(trial.seed, "collection", "env", 5))
    assert all(10_000 <= level < 10_100 for level in env.levels)
    expected = [images.copy()]
    for _ in range(3):
        expected.append(env.step(np.array([7, 7]))[0].copy())
    env.close()
    assert np.array_equal(found.numpy(), np.concatenate(expected)[:7])


def test_collecting_again_gives_the_same_and_another_update_something_else() -> None:
    trial, policy = pixel_trial(), Always(3)
    state = torch.get_rng_state()
    first, again, later, task, random = (
        collect(trial, policy, 40, task=task, update=update, actor=actor)  # type: ignore[arg-type]
        for task, update, actor in (
            (0, 1, "policy"),
            (0, 1, "policy"),
            (0, 2, "policy"),
            (1, 1, "policy"),
            (0, 1, "random"),
        )
    )
    assert torch.equal(first, again)
    assert torch.equal(first[:2], random[:2])  # the same levels, other actions
    assert not torch.equal(first, random)
    assert not torch.equal(first[:2], later[:2])
    assert not torch.equal(first[:2], task[:2])  # tiles in another order
    assert torch.equal(state, torch.get_rng_state())


@pytest.fixture
def life(tmp_path: Path) -> PixelLife:
    found = PixelLife(tmp_path / "results", "specnorm")
    found.save()
    return found


def test_by_default_ten_observations_a_feature_are_collected_and_all_are_looked_at(
    life: PixelLife, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([life.folder]) == 0
    out = capsys.readouterr().out
    assert f"coinrun_quick: specnorm seed 0 ({life.spec.trial_id}) update 1, 80 observations (held out, task 1" in out
    assert features_of_last_layer(life.network) == 8
    images = collect(life.spec, life.network, 80, task=1, update=1, actor="policy")
    features = life.network.features(images).detach()
    (row,) = rows(life, "layers", diagnostic="features", layer=2)
    never = int((features.amax(0) == 0).sum())
    assert row["never_active"] == never
    assert row["sparsity"] == pytest.approx(float((features == 0).double().mean()))
    assert re.search(rf"never active +{never} of 8 \({never / 8:.2%}\)", out)
    (row,) = rows(life, "layers", diagnostic="dormant", layer=2)
    assert row["activation_rate"] == pytest.approx(float((features > 0).double().mean()))
    assert f"{row['activation_rate']:.2%}" in out
    (row,) = rows(life, "layers", diagnostic="ranks", layer=2)
    sigma = np.linalg.svd((features - features.mean(0)).numpy(), compute_uv=False).astype(np.float64)
    shares = sigma[sigma > 0] / sigma.sum()
    assert row["centred_effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    (spectrum,) = rows(life, "spectra", spectrum="feature_singular_values", layer=2)
    np.testing.assert_allclose(spectrum["x"], np.linalg.svd(features.numpy(), compute_uv=False), rtol=1e-3, atol=1e-4)
    (row,) = rows(life, "layers", diagnostic="signal", layer=2)
    assert row["activation_norm"] == pytest.approx(float(features.norm(dim=1).mean()), rel=1e-5)
    assert all(row["gradient_norm"] > 0 for row in rows(life, "layers", diagnostic="gradients"))
    errors = rows(life, "probes", probe="spectral_norm_error")
    assert [row["metric"] for row in errors] == ["body.conv_0", "body.conv_1", "top.body.hidden_0"]
    assert re.search(r"power iteration below SVD +\S+% at most, of 3 weights", out)
    for table in ("layers", "spectra", "probes"):
        assert {row["observations"] for row in rows(life, table)} == {"held out, task 1, actions of policy"}
    assert json.loads(rows(life, "layers", diagnostic="margins")[0]["options"])["samples"] == 80


def test_how_many_whose_actions_and_which_diagnostics_can_be_said(life: PixelLife) -> None:
    chosen = ["--diagnostics", "margins,ranks", "--collect", "20", "--act", "random", "--set", "margins.samples=10"]
    assert main([life.folder, *chosen]) == 0
    images = collect(life.spec, life.network, 20, task=1, update=1, actor="random")
    (row,) = rows(life, "layers", diagnostic="margins", layer=2)
    linear = life.network.top.body.hidden_0
    z = linear(life.network.body(life.network.input(images[10:], torch.float32)).flatten(1))
    assert row["mean_margin"] == pytest.approx(float(z.detach().amax(0).mean()), rel=1e-5)
    assert row["observations"] == "held out, task 1, actions of random"
    assert {row["diagnostic"] for row in rows(life, "layers")} == {"margins", "ranks"}


def test_the_checkpoints_own_images_and_those_of_a_file_are_bytes(life: PixelLife, tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", observations=life.buffer[:4])
    for extra in (["--collect", "0"], ["--observations", str(tmp_path / "images.npz")]):
        assert main([life.folder, "--diagnostics", "signal", *extra]) == 0
        images = torch.from_numpy(life.buffer if extra[0] == "--collect" else life.buffer[:4])
        (row,) = rows(life, "layers", layer=2)
        assert row["activation_norm"] == pytest.approx(
            float(life.network.features(images).detach().norm(dim=1).mean()), rel=1e-5
        )


def test_bytes_for_a_network_that_reads_floats_become_floats(tmp_path: Path) -> None:
    ant = Life(tmp_path / "results")
    ant.train()
    given = np.random.default_rng(0).integers(0, 9, (5, 7), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", observations=given)
    assert main([ant.folder, "--diagnostics", "margins", "--observations", str(tmp_path / "x.npz")]) == 0
    (row,) = rows(ant, "layers", network="policy", layer=0)
    z = ant.networks["policy"].body[0](torch.from_numpy(given).float()).detach()
    assert row["mean_margin"] == pytest.approx(float(z.amax(0).mean()), rel=1e-5)


BAD = [
    (["--collect", "-3"], r"--collect -3: should be a number of observations, or 0"),
    (["--collect", "5", "--observations", "{file}"], "--collect and --observations both say what to measure on"),
    (["--collect", "many"], "argument --collect: invalid int value: 'many'"),
    (["--act", "best"], r"argument --act: invalid choice: 'best'"),
    (["--set", "ranks.samples=100"], r"ranks.samples = 100: there are 80 observations; lower it"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:20] for _, message in BAD])
def test_bad_input_is_one_line_and_writes_nothing(
    life: PixelLife, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", observations=life.buffer)
    assert main([life.folder, *(each.format(file=tmp_path / "x.npz") for each in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(message, err)
    assert not rows(life, "layers")


def test_a_problem_that_holds_nothing_out_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ant = Life(tmp_path / "results")
    ant.train()
    assert main([ant.folder, "--collect", "5"]) == 2
    assert "--collect: problem ant holds nothing out; measure on --observations FILE.npz" in capsys.readouterr().err


@pytest.mark.slow
def test_ray_is_not_even_loaded(life: PixelLife) -> None:
    code = f"""
import sys
from lop_ray.diagnose import main
assert main([{life.folder!r}, "--diagnostics", "margins", "--collect", "4"]) == 0
assert not [name for name in sys.modules if name.split(".")[0] in ("ray", "mujoco")], "loaded"
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_the_summary_by_hand() -> None:
    def layer(number: int, **columns: Any) -> dict[str, Any]:
        return {"network": "policy_value", "layer": number, "units": 8, **columns}

    errors = [
        {"network": "policy_value", "probe": probe, "metric": metric, "value": value}
        for probe, metric, value in (
            ("spectral_norm_error", "a", 0.01),
            ("spectral_norm_error", "b", -0.02),
            ("spectral_norm_exact", "b", 3.0),
        )
    ]
    found = {
        "features": {"layers": [layer(1, never_active=2, sparsity=0.5), layer(0, never_active=7, sparsity=0.9)]},
        "signal": {"layers": [layer(0, pre_activation_norm=4.0, activation_norm=2.0),
                              layer(1, pre_activation_norm=1.0, activation_norm=0.5)]},
        "ranks": {"layers": [layer(0, effective_rank=3.0), layer(1, effective_rank=4.25)]},
        "spectral_norm_error": {"probes": errors},
    }  # fmt: skip
    assert {number: cells["policy_value"] for number, cells in last_layer_summary(found).items()} == {
        "never active": "2 of 8 (25.00%)",
        "activations that are 0": "50.00%",
        "effective rank": "4.25",
        "norm of pre-activations, by layer": "4 1 (last / first 0.25)",
        "norm of activations, by layer": "2 0.5 (last / first 0.25)",
        "power iteration below SVD": "2.00% at most, of 2 weights",
    }
