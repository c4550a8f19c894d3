from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lop_ray.config import catalogue
from lop_ray.config.grid import load_grid, parse_assignment, parse_seeds
from lop_ray.config.yaml12 import parse_value, read_document
from lop_ray.errors import UserError, nearest

GRID = """\
problem: ant
algorithm: ppo
grid:
  variant: [std, cbp]
  seed: 0..1
total_steps: 1e5
"""


def write(folder: Path, text: str = GRID, name: str = "small.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def settings(folder: Path, text: str, variant: str | None = "std", *sets: str, **point: Any) -> Any:
    return load_grid(write(folder, text), [parse_assignment(each) for each in sets]).settings(variant, point)[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e8", 1e8),
        ("1e-4", 1e-4),
        ("-.5E+3", -500.0),
        ("1.", 1.0),
        (".inf", float("inf")),
        ("12", 12),
        ("+3", 3),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e4'", "1e4"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("0..29", "0..29"),
        ("0-29", "0-29"),
        ("[64, 1e2, no]", [64, 100.0, "no"]),
        ("{a: {b: 1}, 3: 2}", {"a": {"b": 1}, "3": 2}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = parse_value(text, "x")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "f.yaml:4: b.c stands twice, first on line 3"),
        ("a: [1,\n", "f.yaml:2: not YAML"),
        ("a: !!python/object:os.system x\n", "f.yaml:1: tag"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: not YAML"),
        ("[1]: 2\n", "f.yaml:1: a key must be text"),
        ("- 1\n", "f.yaml: must be a mapping"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        read_document(tmp_path / "f.yaml")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("value", "seeds"),
    [
        (3, (3,)),
        ("0..4", (0, 1, 2, 3, 4)),
        ("0-4", (0, 1, 2, 3, 4)),
        ("7..7", (7,)),
        ("0,3", (0, 3)),
        ("0-2, 5, 8..9", (0, 1, 2, 5, 8, 9)),
        ([0, 2], (0, 2)),
        ([0, "3..5", "7,9"], (0, 3, 4, 5, 7, 9)),
        ("5,1", (5, 1)),
    ],
)
def test_seeds(value: object, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(value) == seeds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x", "should be a number from 0"),
        (-1, "should be a number from 0"),
        (1.5, "should be a number from 0"),
        (True, "should be a number from 0"),
        (None, "should be a number from 0"),
        ("1..", "should be a number from 0"),
        ("0,,1", "should be a number from 0"),
        ("5..3", "did you mean 3..5?"),
        ("0-3,2", "2 stands twice"),
    ],
)
def test_bad_seeds(value: object, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?").replace("..", r"\.\.")):
        parse_seeds(value)


@pytest.mark.parametrize(
    ("name", "known", "guess"),
    [
        ("cpb", ["std", "cbp", "redo"], "cbp"),
        ("Layer-Norm", ["layernorm", "std"], "layernorm"),
        ("minibatch", ["batch_size", "minibatch_size"], "minibatch_size"),
        ("learning_rate", ["gamma", "lr"], "lr"),
        ("xyz", ["std", "cbp"], None),
        ("a", [], None),
    ],
)
def test_nearest_name(name: str, known: list[str], guess: str | None) -> None:
    assert nearest(name, known) == guess


def test_layers_beat_one_another_in_order(tmp_path: Path) -> None:
    # defaults < grid file < variant < axis < command line; the default of betas is (0.9, 0.999)
    assert settings(tmp_path, GRID).optimizer.betas == (0.9, 0.999)
    in_file = GRID + "optimizer: {betas: [0.5, 0.5], eps: 1e-5}\n"
    assert settings(tmp_path, in_file, None).optimizer.betas == (0.5, 0.5)
    by_variant = settings(tmp_path, in_file, "cbp").optimizer
    assert by_variant.betas == (0.99, 0.99)
    assert by_variant.eps == 1e-5
    with_axis = in_file.replace("  seed:", "  optimizer.betas: [[0.1, 0.1], [0.2, 0.2]]\n  seed:")
    point = {"optimizer.betas": [0.2, 0.2]}
    grid = load_grid(write(tmp_path, with_axis))
    assert list(grid.points()) == [{"optimizer.betas": [0.1, 0.1]}, point]
    assert grid.settings("cbp", point)[0].optimizer.betas == (0.2, 0.2)
    assert settings(tmp_path, in_file, "cbp", "optimizer.betas=[0.3, 0.3]").optimizer.betas == (0.3, 0.3)


def test_numbers_reach_the_options_with_their_types(tmp_path: Path) -> None:
    made = settings(tmp_path, GRID + "ppo: {lr: 1e-4, grad_clip: 1}\n")
    assert made.total_steps == 100_000
    assert type(made.total_steps) is int
    assert made.algorithm_options["lr"] == 1e-4
    assert type(made.algorithm_options["grad_clip"]) is float
    assert settings(tmp_path, GRID, "std", "total_steps=2e3").total_steps == 2000


def test_an_override_goes_into_its_section_only(tmp_path: Path) -> None:
    before, after = settings(tmp_path, GRID).flat(), settings(tmp_path, GRID, "std", "network.hidden=[64, 32]").flat()
    assert {key for key in after if after[key] != before[key]} == {"network.hidden"}
    assert after["network.hidden"] == [64, 32]


def test_an_override_inside_an_intervention_adds_it_to_no_variant(tmp_path: Path) -> None:
    override = "interventions.cbp.replacement_rate=0.5"
    assert settings(tmp_path, GRID, "std", override).interventions == {}
    assert settings(tmp_path, GRID, "cbp", override).interventions["cbp"]["replacement_rate"] == 0.5
    whole = settings(tmp_path, GRID, "std", "interventions.redo={period: 7}")
    assert whole.interventions["redo"]["period"] == 7


def test_false_takes_an_intervention_or_diagnostic_out(tmp_path: Path) -> None:
    text = GRID + "diagnostics: {margins: , ranks: {every: 2}}\n"
    assert list(settings(tmp_path, text).diagnostics) == ["margins", "ranks"]
    without = settings(tmp_path, text, "cbp", "diagnostics.ranks=false", "interventions.cbp=false")
    assert list(without.diagnostics) == ["margins"]
    assert without.interventions == {}


def test_variants_beside_the_grid_replace_our_own(tmp_path: Path) -> None:
    (tmp_path / "variants.yaml").write_text("mine:\n  description: d\n  ppo: {lr: 1e-2}\n")
    made = settings(tmp_path, GRID.replace("[std, cbp]", "mine"), "mine")
    assert made.algorithm_options["lr"] == 1e-2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo: {lr: -1}\n", "ppo.lr = -1: should be greater than 0 [{file}:7]"),
        ("ppo:\n  lr: 1\n  gama: 1\n", "unknown key 'ppo.gama'; did you mean 'ppo.gamma'?"),
        ("ppo:\n  lr: 1\n  gama: 1\n", "[{file}:9]"),
        ("gae_lambda: 1\n", "did you mean 'ppo.gae_lambda'?"),
        ("ppo: 3\n", "ppo = 3: should be a mapping of options [{file}:7]"),
        ("ppo: {lr: true}\n", "ppo.lr = true: should be a number"),
        ("ppo: {normalize_advantages: 3}\n", "ppo.normalize_advantages = 3: should be a valid boolean"),
        ("ppo: {num_epochs: 1.5}\n", "ppo.num_epochs = 1.5: should be a valid integer"),
        ("ppo: {grad_clip: x}\n", "ppo.grad_clip = x: should be a valid number"),
        ("ppo: {lr: .nan}\n", "ppo.lr = nan: should be"),
        ("ppo: {time_limit: bootstap}\n", "did you mean 'bootstrap'?"),
        ("ppo: {minibatch_size: 100}\n", "ppo: minibatch_size 100 does not divide batch_size 2048"),
        (
            "ant: {num_envs: 3}\n",
            "ant.num_envs = 3: does not divide ppo.batch_size = 2048; choose a divisor [{file}:7]",
        ),
        ("resources: {env_runners: 2}\n", "resources.env_runners = 2: does not divide ant.num_envs = 1"),
        ("optimizer: {betas: [0.9, 1.0]}\n", "optimizer.betas[1] = 1.0: should be less than 1 [{file}:7]"),
        ("optimizer: {betas: [0.9]}\n", "optimizer.betas"),
        ("network: {hidden: []}\n", "network.hidden = []"),
        ("interventions: {redoo: {}}\n", "unknown intervention 'redoo'; did you mean 'redo'? known: cbp"),
        ("interventions: {redo: {threshold: -1}}\n", "interventions.redo.threshold = -1: should be greater"),
        ("interventions: [redo]\n", "interventions = [redo]: should be a mapping"),
        ("diagnostics: {margin: {}}\n", "unknown diagnostic 'margin'; did you mean 'margins'?"),
        ("diagnostics: {margins: 3}\n", "diagnostics.margins = 3: should be a mapping"),
        ("checkpoints: {keep: 1}\n", "checkpoints.keep = 1: should be greater than or equal to 2"),
        ("description: [a]\n", "description = [a]: should be a valid string"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, GRID + text)
    with pytest.raises(UserError) as raised:
        load_grid(path).settings(None, {})
    assert message.format(file=path) in str(raised.value)
    assert "\n" not in str(raised.value)


def check_every_point(path: str) -> None:
    grid = load_grid(path)
    for point in grid.points():
        grid.settings(None, point)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("problem: ant", "problem: aunt", "unknown problem 'aunt'; did you mean 'ant'? known: ant, slippery_ant, "),
        ("problem: ant\n", "", "problem: missing [{file}]"),
        (
            "algorithm: ppo",
            "algorithm: pro",
            "unknown algorithm 'pro'; did you mean 'ppo'? known: ppo, supervised [{file}:2]",
        ),
        ("total_steps: 1e5", "total_steps: 0", "total_steps = 0: should be greater than or equal to 1 [{file}:6]"),
        ("total_steps: 1e5", "total_steps: 1.5", "total_steps = 1.5: should be a valid integer"),
        ("total_steps: 1e5", "total_step: 1", "unknown key 'total_step'; did you mean 'total_steps'?"),
        ("[std, cbp]", "[std, cpb]", "unknown variant 'cpb'; did you mean 'cbp'?"),
        ("[std, cbp]", "[]", "grid.variant is empty"),
        ("[std, cbp]", "[std, std]", "grid.variant: std stands twice [{file}:4]"),
        ("0..1", "[]", "grid.seed is empty: the grid has no trials [{file}:5]"),
        ("0..1", "1..0", "the range runs backwards; did you mean 0..1? [{file}:5]"),
        ("  seed: 0..1\n", "", "grid.seed: missing"),
        ("  seed: 0..1\n", "  seed: 0\n  resources.cpus: [1, 2]\n", "grid.resources.cpus: can't be an axis"),
        ("  seed: 0..1\n", "  seed: 0\n  ppo.lrr: [1, 2]\n", "unknown key 'ppo.lrr'; did you mean 'ppo.lr'?"),
        ("  seed: 0..1\n", "  seed: 0\n  ppo.lr: [1, -2]\n", "ppo.lr = -2: should be greater than 0 [{file}:6]"),
        ("  seed: 0..1\n", "  seed: 0\n  ppo.lr: {a: 1}\n", "should be a value or a list of values"),
        ("  seed: 0..1\n", "  seed: 0\n  interventions.redo.period: [1]\n", "has the intervention 'redo'"),
    ],
)
def test_a_wrong_grid_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path, GRID.replace(old, new))
    with pytest.raises(UserError) as raised:
        check_every_point(path)
    assert message.format(file=path) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("std: {optimizer: {beta: 1}}", "unknown key 'optimizer.beta'; did you mean 'optimizer.betas'?"),
        ("std: {optimiser: {}}", "variant std: unknown key 'optimiser'; did you mean 'optimizer'?"),
        ("std: {total_steps: 3}", "variant std: unknown key 'total_steps'"),
        ("std: 3", "variant std = 3: must be a mapping"),
        ("std:\n  optimizer:\n    eps: 0", "optimizer.eps = 0: should be greater than 0 [{file}:3]"),
    ],
)
def test_a_wrong_variant_is_refused_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "variants.yaml").write_text(text)
    path = write(tmp_path, GRID.replace("[std, cbp]", "std"))
    with pytest.raises(UserError) as raised:
        load_grid(path).settings("std", {})
    assert message.format(file=tmp_path / "variants.yaml") in str(raised.value)


def test_the_papers_grid() -> None:
    # Numbers from Dohare et al. 2024 and rl/cfg/ant/*.yml of shibhansh/loss-of-plasticity.
    grid = load_grid("ant_grid")
    assert grid.axes["variant"] == ("std", "ns", "l2", "cbp", "redo", "layernorm", "specnorm")
    assert grid.axes["seed"] == tuple(range(30))
    made = {variant: grid.settings(variant, {})[0] for variant in grid.axes["variant"]}
    assert {each.total_steps for each in made.values()} == {100_000_000}
    std = made["std"].flat()
    expected = {
        "ant.observation": 111,
        "ant.num_envs": 1,
        "ant.clip_actions": False,
        "ppo.lr": 1e-4,
        "ppo.batch_size": 2048,
        "ppo.minibatch_size": 2048 // 16,
        "ppo.num_epochs": 10,
        "ppo.gamma": 0.99,
        "ppo.gae_lambda": 0.95,
        "ppo.clip_param": 0.2,
        "ppo.value_loss_coefficient": 1.0,
        "ppo.entropy_coefficient": 0.0,
        "ppo.grad_clip": None,
        "ppo.time_limit": "cut",
        "network.hidden": [256, 256],
        "network.activation": "relu",
        "network.init": "lecun_uniform",
        "network.log_std_init": 0.0,
        "network.normalisation": "none",
        "optimizer.betas": [0.9, 0.999],
        "optimizer.weight_decay": 0.0,
        "interventions": [],
        "diagnostics": ["margins", "dormant", "ranks", "weights"],
        **{f"diagnostics.{name}.every": 1 for name in ("margins", "dormant", "ranks", "weights")},
    }
    assert {key: std[key] for key in expected} == expected
    assert {(each.resources.cpus, each.resources.gpus) for each in made.values()} == {(1, 0.0)}

    def change(variant: str, of: str) -> dict[str, Any]:
        before, after = made[of].flat(), made[variant].flat()
        return {key: value for key, value in after.items() if key not in before or before[key] != value}

    assert change("ns", "std") == {"optimizer.betas": [0.99, 0.99]}
    assert change("l2", "ns") == {"optimizer.weight_decay": 1e-3}
    assert not made["l2"].optimizer.decoupled
    assert change("layernorm", "ns") == {"network.normalisation": "layernorm"}
    cbp = change("cbp", "ns")
    assert cbp["optimizer.weight_decay"] == change("redo", "ns")["optimizer.weight_decay"] == 1e-4
    assert cbp["interventions"] == ["cbp"]
    names = ("replacement_rate", "maturity_threshold", "decay_rate", "utility")
    assert [cbp[f"interventions.cbp.{name}"] for name in names] == [1e-4, 10_000, 0.99, "contribution"]
    redo = change("redo", "ns")
    assert [redo[f"interventions.redo.{name}"] for name in ("threshold", "period")] == [0.1, 100]
    specnorm = change("specnorm", "ns")
    assert specnorm["interventions"] == ["spectral_norm"]
    assert specnorm["interventions.spectral_norm.heads"] is False
    assert all(key.startswith("interventions") for key in specnorm)


@pytest.mark.parametrize("name", sorted(catalogue.grids()))
def test_every_shipped_grid_is_valid(name: str) -> None:
    grid = load_grid(name)
    assert grid.description
    for point in grid.points():
        for variant in grid.axes["variant"]:
            grid.settings(variant, point)


@pytest.mark.parametrize("name", sorted(catalogue.variants()))
def test_every_shipped_variant_is_valid_and_described(tmp_path: Path, name: str) -> None:
    assert catalogue.variants()[name].values["description"]
    assert settings(tmp_path, GRID.replace("[std, cbp]", name), name).flat()
