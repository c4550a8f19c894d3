"""Networks, problems and files of variants that fit together or are refused, before anything runs."""

from pathlib import Path

import pytest

from lop_ray.config import catalogue
from lop_ray.config.grid import load_grid
from lop_ray.errors import UserError
from lop_ray.networks.conv import ConvOptions
from lop_ray.networks.impala import ImpalaOptions

GRID = """problem: procgen
algorithm: ppo
variants: pixel_variants.yaml
grid: {variant: [baseline], seed: 0}
total_steps: 10240
ppo: {batch_size: 1024, minibatch_size: 64}
"""
FLAT = GRID.replace("procgen", "ant").replace("1024, ", "2048, ")


def settings(tmp_path: Path, text: str):
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return load_grid(str(path)).settings("baseline", {})[0]


@pytest.fixture(autouse=True)
def _procgen() -> None:
    pytest.importorskip("procgen")


def test_the_kind_decides_the_keys(tmp_path: Path) -> None:
    conv = settings(tmp_path, GRID + "network: {kind: conv, channels: [8, 8]}\n").network
    assert conv == ConvOptions(channels=(8, 8))
    impala = settings(tmp_path, GRID + "network: {kind: impala, blocks: 1}\n").network
    assert impala == ImpalaOptions(blocks=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GRID, "network.kind = mlp: reads flat vectors, but problem procgen shows images [64, 64, 3]; use kind: conv"),
        (FLAT + "network: {kind: conv}\n", "network.kind = conv: reads images, but problem ant shows flat vectors"),
        (GRID + "network: {kind: cov}\n", "network.kind: unknown kind 'cov'; did you mean 'conv'? known: mlp, conv"),
        (GRID + "network: {kind: conv, blocks: 1}\n", "unknown key 'network.blocks'"),
        (
            GRID + "network: {kind: conv, channels: [8, 8, 8, 8, 8, 8, 8]}\n",
            "network.channels: 7 convolutions that each halve the image need at least 128 x 128 pixels, not 64 x 64",
        ),
        (GRID + "network: {kind: conv}\nprocgen: {game: coinrunn}\n", "did you mean 'coinrun'?"),
        (GRID + "network: {kind: conv}\nprocgen: {num_levels: 0}\n", "the range of levels is empty"),
        (
            GRID + "network: {kind: conv}\nprocgen: {shift: {kind: permute, tiles: 24}}\n",
            "tiles=24 does not divide the image's 64 pixels",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        settings(tmp_path, text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_evaluation_needs_something_held_out(tmp_path: Path) -> None:
    text = FLAT.replace("minibatch_size: 64", "minibatch_size: 64, evaluation: {episodes: 3}")
    with pytest.raises(UserError, match=r"ppo\.evaluation: problem ant holds nothing out; take it away"):
        settings(tmp_path, text)


def test_evaluation_is_no_part_of_a_trial_that_has_none(tmp_path: Path) -> None:
    assert "evaluation" not in settings(tmp_path, FLAT).algorithm_options


def test_a_missing_file_of_variants_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        settings(tmp_path, GRID.replace("pixel_variants", "pixels_variants"))
    assert "variants = pixels_variants.yaml: no such file of variants" in str(raised.value)
    assert "pixel_variants.yaml" in str(raised.value)
    assert "small.yaml:3" in str(raised.value)


def test_files_of_variants_are_no_grids() -> None:
    assert {"variants.yaml", "pixel_variants.yaml"} <= {path.name for path in catalogue.variants_files()}
    assert not [name for name in catalogue.grids() if name.endswith("variants")]


@pytest.mark.parametrize("grid", ["coinrun_grid", "coinrun_quick", "coinrun_shifts", "procgen_games"])
def test_every_trial_of_our_pixel_grids_is_valid(grid: str) -> None:
    loaded = load_grid(grid)
    for variant in loaded.axes["variant"]:
        for point in loaded.points():
            assert loaded.settings(variant, point)[0].total_steps == 3_072_000


def test_every_pixel_variant_is_valid() -> None:
    from lop_ray.config.grid import parse_assignment

    names = ",".join(catalogue.variants(file="pixel_variants.yaml"))
    loaded = load_grid("coinrun_quick", [parse_assignment(f"grid.variant=[{names}]")])
    made = {name: loaded.settings(name, {})[0] for name in loaded.axes["variant"]}
    assert len({repr(each.flat()) for each in made.values()}) == len(made)  # no two are the same
