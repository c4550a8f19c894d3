import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lop_ray.diagnose import main
from lop_ray.diagnostics import DIAGNOSTICS
from lop_ray.results import Checkpoints, connect, read_table
from lop_ray.results.checkpoints import MARKER
from tests.algorithms.small import small_trial
from tests.stored_trial import OBSERVATIONS, Life, _bytes

FAST = ("--set", "probe.steps=3", "probe.targets=2", "hessian_density.order=4", "top_eigenvalues.k=1")


@pytest.fixture
def life(tmp_path: Path) -> Life:
    found = Life(tmp_path / "results")
    found.train(2)
    found.train(2)
    return found


def rows(life: Life, table: str, **where) -> list[dict]:
    results = str(life.store.location).rpartition("/")[0]
    found = read_table(results, life.spec.grid, f"diagnosed_{table}").to_pylist()
    return [row for row in found if all(row[key] == value for key, value in where.items())]


def files(folder: Path | str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_margins_of_both_checkpoints_are_those_of_the_networks(life, capsys):
    assert main([life.folder, "--diagnostics", "margins"]) == 0
    found = rows(life, "layers")
    assert [(row["update"], row["env_steps"], row["task"]) for row in found[::4]] == [(2, 200, 4), (4, 400, 4)]
    assert {row["trial_id"] for row in found} == {life.spec.trial_id}
    seen = torch.from_numpy(life.buffers[0])
    for row in rows(life, "layers", update=4):
        network = life.networks[row["network"]]
        z = network.body[: 1 + 2 * row["layer"]](seen).detach()
        assert row["dead"] == int((z.amax(0) < 0).sum())
        assert row["mean_margin"] == pytest.approx(float(z.amax(0).mean()), rel=1e-5)
        (neurons,) = rows(life, "neurons", update=4, network=row["network"], layer=row["layer"])
        assert neurons["margin"] == pytest.approx(z.amax(0).tolist())
    out = capsys.readouterr().out
    assert f"ant_grid: std seed 0 ({life.spec.trial_id}) update 4, 60 observations (checkpoint)" in out
    assert "policy 1" in out
    assert str(rows(life, "layers", update=4)[0]["dead"]) in out


def test_a_checkpoint_can_be_named_alone(life):
    folder = Path(life.folder, "checkpoints", "000001-update-2")
    assert main([f"{folder}/", "--diagnostics", "margins,dormant"]) == 0
    assert {row["update"] for row in rows(life, "layers")} == {2}
    assert {row["diagnostic"] for row in rows(life, "layers")} == {"margins", "dormant"}


def test_all_that_a_checkpoint_serves_runs_by_default(life, capsys):
    assert main([life.folder, *FAST]) == 0
    made = {row["diagnostic"] for table in ("layers", "probes", "neurons") for row in rows(life, table)}
    assert made == set(DIAGNOSTICS) - {"churn", "predictive_margins", "trust_region", "spectral_norm_error"}
    assert {row["spectrum"] for row in rows(life, "spectra")} >= {"weight_singular_values", "hessian_density"}
    assert json.loads(rows(life, "probes", diagnostic="hessian_density")[0]["options"])["loss"] == "perturbed_output"
    assert "epsilon_rank" in capsys.readouterr().out


def test_running_again_replaces_its_own_rows_and_nothing_else(life):
    before = files(f"{life.store.location}/data") | files(life.folder)
    assert main([life.folder, "--diagnostics", "margins,weight_spectrum"]) == 0
    first = rows(life, "layers", diagnostic="weight_spectrum")
    assert main([life.folder, "--diagnostics", "margins", "--set", "margins.at_risk=100"]) == 0
    assert len(rows(life, "layers", diagnostic="margins")) == 8
    assert {json.loads(row["options"])["at_risk"] for row in rows(life, "layers", diagnostic="margins")} == {100.0}
    assert rows(life, "layers", diagnostic="weight_spectrum") == first
    assert files(f"{life.store.location}/data") | files(life.folder) == before
    # Rows that the new options do not make go away, too.
    assert len(rows(life, "spectra")) == 8
    assert main([life.folder, "--diagnostics", "weight_spectrum", "--set", "weight_spectrum.store=false"]) == 0
    assert rows(life, "spectra") == []


def test_a_death_while_writing_leaves_the_old_rows(life, monkeypatch):
    assert main([life.folder, "--diagnostics", "margins"]) == 0
    before = rows(life, "layers") + rows(life, "neurons")

    def die(*args, **kwargs):
        args[1].write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", die)
    assert main([life.folder, "--diagnostics", "margins"]) == 130
    assert rows(life, "layers") + rows(life, "neurons") == before


def test_sql_sees_the_rows_beside_those_of_the_run(life):
    assert main([life.folder, "--diagnostics", "weights"]) == 0
    results = str(life.store.location).rpartition("/")[0]
    query = """SELECT variant, seed, update, layers.env_steps, sum(weight_norm)
               FROM diagnosed_layers AS layers JOIN trials USING (trial_id) GROUP BY ALL ORDER BY update"""
    found = connect(results, life.spec.grid).sql(query).fetchall()
    assert [row[:4] for row in found] == [("std", 0, 2, 200), ("std", 0, 4, 400)]
    with_trials = read_table(results, life.spec.grid, "diagnosed_layers", columns=["update"], with_trials=True)
    assert with_trials.column_names == ["update", "variant", "seed", "problem"]
    assert read_table(results, life.spec.grid, "layers").num_rows == 0


def test_distance_from_the_start_is_from_the_weights_of_the_seed(life):
    assert main([life.folder, "--diagnostics", "weights"]) == 0
    first = Life(Path(str(life.store.location)) / "elsewhere").networks
    for row in rows(life, "layers", update=4):
        now, then = (nets[row["network"]].body[2 * row["layer"]].weight.detach() for nets in (life.networks, first))
        assert row["init_distance"] == pytest.approx(float((now - then).norm()), rel=1e-6)
        assert row["weight_change"] is None  # there is no network from before the update


def test_another_checkpoint_stands_for_the_network_before(life):
    chosen = [f"{life.folder}/checkpoints/000002-update-4", "--diagnostics", "churn,weights,predictive_margins"]
    assert main([*chosen, "--before", "000001-update-2"]) == 0
    old = Life(Path(str(life.store.location)) / "elsewhere")
    old.train(2)
    seen = torch.from_numpy(life.buffers[0])
    for row in rows(life, "probes", metric="distance"):
        moved = life.networks[row["network"]](seen) - old.networks[row["network"]](seen)
        assert row["value"] == pytest.approx(float(moved.detach().norm(dim=1).mean()), rel=1e-5)
        assert row["before_update"] == 2
    for row in rows(life, "layers", diagnostic="weights"):
        now, then = (n.networks[row["network"]].body[2 * row["layer"]].weight.detach() for n in (life, old))
        assert row["weight_change"] == pytest.approx(float((now - then).abs().sum()), rel=1e-5)
    assert len(rows(life, "layers", diagnostic="predictive_margins")) == 4


def test_observations_of_a_file_are_measured_instead(life, tmp_path):
    given = np.random.default_rng(0).normal(size=(9, OBSERVATIONS))
    np.savez(tmp_path / "held_out.npz", observations=given)
    chosen = ["--diagnostics", "margins", "--observations", str(tmp_path / "held_out.npz")]
    assert main([f"{life.folder}/checkpoints/000002-update-4", *chosen]) == 0
    for row in rows(life, "layers", layer=0):
        z = life.networks[row["network"]].body[0](torch.from_numpy(given).float()).detach()
        assert row["mean_margin"] == pytest.approx(float(z.amax(0).mean()), rel=1e-5)
        assert row["observations"].startswith("held_out.npz ")


def test_several_runners_give_an_equal_share(tmp_path):
    life = Life(tmp_path / "results", buffers=3)
    life.train()
    assert main([life.folder, "--diagnostics", "margins"]) == 0
    seen = torch.from_numpy(np.concatenate([buffer[-20:] for buffer in life.buffers]))
    for row in rows(life, "layers", layer=0):
        z = life.networks[row["network"]].body[0](seen).detach()
        assert row["mean_margin"] == pytest.approx(float(z.amax(0).mean()), rel=1e-5)


@pytest.mark.parametrize("variant", ["specnorm", "layernorm", "cbp"])
def test_networks_that_a_variant_changes_are_rebuilt(tmp_path, variant):
    life = Life(tmp_path / "results", variant, seed=3)
    life.train(2)
    assert main([life.folder, "--diagnostics", "weights,ranks"]) == 0
    for row in rows(life, "layers", diagnostic="weights"):
        layer = life.networks[row["network"]].hidden_layers()[row["layer"]]
        assert row["weight_norm"] == pytest.approx(float(layer.incoming.weight.detach().norm()), rel=1e-5)


def test_the_probe_uses_the_checkpoints_optimiser(life, monkeypatch):
    from lop_ray.diagnostics import probe

    seen = []
    stacked = probe.stacked_optimizer
    monkeypatch.setattr(probe, "stacked_optimizer", lambda *args: seen.append(stacked(*args)) or seen[-1])
    chosen = [f"{life.folder}/checkpoints/000002-update-4", "--diagnostics", "probe", "--set", "probe.targets=2"]
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, closure=None: None)  # as it is at the first step
    assert main([*chosen, "probe.steps=1"]) == 0
    assert [type(each) for each in seen] == [torch.optim.Adam] * 2
    for made, network in zip(seen, life.networks.values(), strict=True):
        leaves = [leaf for group in made.param_groups for leaf in group["params"]]
        for leaf, parameter in zip(leaves, network.parameters(), strict=True):
            for copied in made.state[leaf]["exp_avg"]:
                assert torch.equal(copied, life.optimizer.state[parameter]["exp_avg"])
            assert made.state[leaf]["step"] == 12


def test_an_object_store_will_do(tmp_path, monkeypatch):
    import fsspec

    memory = fsspec.get_filesystem_class("memory")
    monkeypatch.setattr(memory, "store", {})
    monkeypatch.setattr(memory, "pseudo_dirs", [""])
    life = Life("fsspec+memory://bucket/results")
    life.train(1)
    place = f"fsspec+memory://bucket/results/ant_grid/trials/{life.spec.trial_id}"
    assert main([place, "--diagnostics", "margins"]) == 0
    found = read_table("fsspec+memory://bucket/results", "ant_grid", "diagnosed_layers")
    assert found.num_rows == 4


def test_ray_is_not_even_loaded(life):
    code = f"""
import sys
from lop_ray.diagnose import main
assert main([{life.folder!r}, "--diagnostics", "probe,hessian_density", *{FAST[:4]!r}]) == 0
assert not [name for name in sys.modules if name.split(".")[0] in ("ray", "mujoco")], "loaded"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, timeout=120)


def test_a_trial_that_is_being_written_is_read_at_its_last_checkpoint(life):
    life.writer.append("updates", {"update": 5, "env_steps": 500, "task": 4})
    unfinished = Path(life.folder, "checkpoints", "000003-update-6")
    unfinished.mkdir()
    (unfinished / "networks.pt").write_bytes(b"half of")
    assert main([life.folder, "--diagnostics", "margins"]) == 0
    assert {row["update"] for row in rows(life, "layers")} == {2, 4}


def test_a_damaged_checkpoint_is_passed_over_and_said(life, capsys):
    Path(life.folder, "checkpoints/000001-update-2/networks.pt").write_bytes(b"x")
    assert main([life.folder, "--diagnostics", "margins"]) == 0
    assert "000001-update-2 was passed over: networks.pt has 1 bytes" in capsys.readouterr().err
    assert {row["update"] for row in rows(life, "layers")} == {4}
    assert main([f"{life.folder}/checkpoints/000001-update-2"]) == 2
    assert "000001-update-2 was passed over: networks.pt has 1 bytes" in error_of(capsys)


def test_weights_that_are_not_finite_fail_what_they_touch_and_nothing_else(life, capsys):
    with torch.no_grad():
        life.networks["value"].body[0].weight[0, 0] = float("nan")
    life.train(1)
    assert main([f"{life.folder}/checkpoints/000003-update-5", "--diagnostics", "margins,weight_spectrum"]) == 1
    (failed,) = rows(life, "probes", metric="failed", diagnostic="margins")
    assert failed["network"] == "value"
    assert "hold NaN or infinity" in failed["reason"]
    assert [row["network"] for row in rows(life, "layers", diagnostic="margins") if row["dead"] is not None] == [
        "policy",
        "policy",
    ]
    assert "hold NaN or infinity" in capsys.readouterr().out


BAD = [
    ([], "TRIAL_DIR is missing"),
    (["nowhere"], "nowhere: should be RESULTS/GRID/trials/ID"),
    (["{results}/ant_gird/trials/t1"], "no trials of grid 'ant_gird' in .*; grids with trials there: ant_grid"),
    (["{results}/ant_grid/trials/{almost}"], "no trial '{almost}' of grid 'ant_grid' .*did you mean '{trial}'"),
    (["{folder}/checkpoints/000009-update-9"], "has no checkpoint '000009-update-9'; it has: 000001-update-2, 0000"),
    (["{folder}", "--diagnostics", "margin"], "unknown diagnostic 'margin'; did you mean 'margins'"),
    (["{folder}", "--diagnostics", "boundaries"], "unknown diagnostic 'boundaries'"),
    (["{folder}", "--set", "porbe.steps=3"], "unknown diagnostic 'porbe'; did you mean 'probe'"),
    (["{folder}", "--set", "probe=3"], "--set probe=3: should be NAME.KEY=VALUE"),
    (["{folder}", "--set", "probe.stesp=3"], r"unknown key 'probe.stesp'; did you mean 'probe.steps'.*\[--set probe.s"),
    (["{folder}", "--set", "probe.steps=0"], r"probe.steps = 0: .*greater than or equal to 1 \[--set probe.steps=0\]"),
    (["{folder}", "--diagnostics", "ranks", "--set", "probe.steps=3"], "probe is not among --diagnostics ranks"),
    (["{folder}", "--diagnostics", "churn"], "churn: needs the network from before an update: .* --before"),
    (["{folder}", "--diagnostics", "trust_region"], "trust_region: needs the batch of an update"),
    (["{folder}", "--set", "gradients.loss=training"], "gradients: needs the run's loss and batch.*perturbed_output"),
    (["{folder}", "--set", "ranks.samples=100"], r"ranks.samples = 100: there are 60 observations; lower it"),
    (["{folder}", "--before", "000007-update-7"], "has no checkpoint '000007-update-7'"),
    (["{folder}", "--observation", "x"], "unrecognized arguments: --observation"),
    (["{folder}", "--observations", "none.npz"], "--observations none.npz: there is no such file"),
    (["s4://bucket/ant_grid/trials/t1"], "s4://bucket/ant_grid/trials/t1: .*give a local path, or a URI"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_input_is_one_line_and_writes_nothing(life, arguments, message, capsys):
    trial = life.spec.trial_id
    names = {
        "folder": life.folder,
        "results": str(life.store.location).rpartition("/")[0],
        "trial": trial,
        "almost": trial[:-1],
    }
    before = files(str(life.store.location))
    assert main([each.format(**names) for each in arguments]) == 2
    assert re.search(message.format(**names), error_of(capsys))
    assert files(str(life.store.location)) == before


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"observations": np.zeros((5, 3))}, r"shape \[5, 3\], but the networks read \[N, 7\]"),
        ({"observations": np.zeros((0, 7))}, r"should be numbers \[N, ...\] with N >= 1, not float64 \[0, 7\]"),
        ({"observations": np.zeros(7)}, r"should be numbers \[N, ...\]"),
        ({"observations": np.full((3, 7), np.nan)}, "holds NaN or infinity"),
        ({"observations": np.array([["a"] * 7])}, "should be numbers"),
        ({"obs": np.zeros((3, 7))}, "has no array 'observations'; it has: obs"),
        ({"observations": np.array([[None] * 7], dtype=object)}, "not an .npz file of numbers"),
    ],
)
def test_observations_that_cannot_be_are_said(life, tmp_path, arrays, message, capsys):
    np.savez(tmp_path / "x.npz", **arrays)
    assert main([life.folder, "--observations", str(tmp_path / "x.npz")]) == 2
    assert re.search(message, error_of(capsys))


def test_a_file_that_is_no_archive_is_said(life, tmp_path, capsys):
    for content in (b"text", b""):
        (tmp_path / "x.npz").write_bytes(content)
        assert main([life.folder, "--observations", str(tmp_path / "x.npz")]) == 2
        assert "not an .npz file of numbers" in error_of(capsys)
    np.save(tmp_path / "x.npy", np.zeros((3, 7)))
    assert main([life.folder, "--observations", str(tmp_path / "x.npy")]) == 2
    assert "not an .npz file of numbers" in error_of(capsys)


def test_a_checkpoint_without_observations_asks_for_some(tmp_path, capsys):
    life = Life(tmp_path / "results")
    seen, life.buffers = life.buffers[0], []
    Checkpoints(life.store.location, life.spec.trial_id).save(2, 200, life.files(), {})
    assert main([life.folder, "--diagnostics", "margins"]) == 2
    assert "holds no observations" in error_of(capsys)
    np.savez(tmp_path / "x.npz", observations=seen)
    assert main([life.folder, "--diagnostics", "margins", "--observations", str(tmp_path / "x.npz")]) == 0


def test_checkpoints_of_other_versions_are_said(life, capsys):
    marker = Path(life.folder, "checkpoints/000002-update-4", MARKER)
    whole = marker.read_text()
    marker.write_text(json.dumps(json.loads(whole) | {"format": 9}))
    assert main([life.folder]) == 2
    assert "has format 9, this lop_ray reads 1: use the versions that wrote it (lop_ray 0.1)" in error_of(capsys)
    marker.write_text(whole)
    other = life.files() | {"networks.pt": _bytes({"policy": {}, "value": {}})}
    Checkpoints(life.store.location, life.spec.trial_id).save(6, 600, other, {"lop_ray": "9.9"})
    assert main([life.folder]) == 2
    assert "000003-update-6 was written by another version (lop_ray 9.9): use that one" in error_of(capsys)


def test_a_configuration_of_another_version_is_said(life, capsys):
    config = json.loads(life.config())
    config["network"]["wings"] = 2
    life.writer.set_status("finished", config=json.dumps(config))
    assert main([life.folder]) == 2
    said = f"trial {life.spec.trial_id} was written by another version: its configuration has network"
    assert said in error_of(capsys)


def test_a_trial_without_checkpoints_is_said(tmp_path, capsys):
    life = Life(tmp_path / "results")
    assert main([life.folder]) == 2
    assert f"trial {life.spec.trial_id} has no valid checkpoint in " in error_of(capsys)


def test_the_diagnostics_can_be_listed(capsys):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("hessian_density ") for line in lines)
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


IN_BOTH = {  # with the same options, the run and the command look at the same numbers
    "margins": "neurons_every: 1",
    "dormant": "",
    "ranks": "spectra_every: 1",
    "features": "",
    "weight_spectrum": "store: true",
    "hessian_density": "loss: perturbed_output, order: 6",
    "gradients": "loss: perturbed_output, samples: 64",
    "probe": "targets: 2, steps: 5",
}


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("variant", ["std", "specnorm"])
def test_a_real_checkpoint_gives_the_rows_that_the_run_wrote(tmp_path, variant):
    """Weights, observations, initial networks, optimiser and random streams are all those of the run."""
    from callbacks.plasticity import PlasticityCallback
    from lop_ray.algorithms import make_training
    from lop_ray.algorithms.trial import Trial
    from lop_ray.results import Store

    chosen = {**IN_BOTH, "weights": ""}
    flags = [f"diagnostics.{name}={{every: 1, {options}}}" for name, options in chosen.items()]
    flags += ["network.hidden=[16, 12]", "checkpoints.every_steps=512", "total_steps=1024"]
    spec = small_trial(variant, flags=tuple(flags))
    store = Store(tmp_path, spec.grid)
    trial = Trial(spec, store, lambda spec: make_training(spec, [PlasticityCallback]))
    while trial.at_work:
        trial.advance()
    folder = f"{store.location}/trials/{spec.trial_id}"
    options = ["hessian_density.order=6", "gradients.samples=64", "probe.targets=2", "probe.steps=5"]
    assert main([folder, "--diagnostics", ",".join(chosen), "--set", *options]) == 0
    for table, key in (("layers", ["layer"]), ("neurons", ["layer"]), ("probes", ["probe", "metric"]),
                       ("spectra", ["spectrum", "layer"])):  # fmt: skip
        key = ["update", "network", *key]
        of_run = {tuple(row[k] for k in key): row for row in read_table(tmp_path, spec.grid, table).to_pylist()}
        later = read_table(tmp_path, spec.grid, f"diagnosed_{table}").to_pylist()
        assert later
        assert {row["update"] for row in later} == {2, 4}
        for row in later:
            same = of_run[tuple(row[k] for k in key)]
            compared = [k for k in same if row[k] is not None and same[k] is not None]
            assert {k: row[k] for k in compared} == {k: same[k] for k in compared}
