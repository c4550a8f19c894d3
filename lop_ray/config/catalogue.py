"""What can be named in a grid: problems, algorithms, interventions, diagnostics, variants, and the grids themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lop_ray.algorithms.registry import ALGORITHMS, load
from lop_ray.config.yaml12 import Document, read_document
from lop_ray.errors import UserError, unknown
from lop_ray.options import Options

if TYPE_CHECKING:
    from lop_ray.algorithms.spec import TrialSpec
    from lop_ray.diagnostics.base import DiagnosticOptions
    from lop_ray.diagnostics.boundaries import BoundaryOptions

VARIANTS_FILE = "variants.yaml"


@cache
def algorithms() -> dict[str, type[Options]]:
    """Options class of each algorithm, by name."""
    return {name: load(algorithm.options) for name, algorithm in ALGORITHMS.items()}


def offers(algorithm: str) -> frozenset[str]:
    """What an algorithm offers to diagnostics besides networks and observations, as they name it in `needs`."""
    diagnosis = ALGORITHMS[algorithm].diagnosis
    found: frozenset[str] = load(diagnosis).offers() if diagnosis else frozenset()
    return found


def check_trial(trial: TrialSpec) -> None:
    """Refuses a trial that its algorithm cannot train.

    Raises:
        UserError: It cannot.
    """
    algorithm = ALGORITHMS[trial.algorithm]
    if trial.resources.seeds_per_trial > 1 and not algorithm.batches_seeds:
        able = " or ".join(name for name, each in ALGORITHMS.items() if each.batches_seeds)
        raise UserError(
            f"resources.seeds_per_trial = {trial.resources.seeds_per_trial}: seeds run as one batched network with "
            f"algorithm {able} alone, not with {trial.algorithm}; leave it out"
        )
    if algorithm.check is None:
        return
    try:
        load(algorithm.check)(trial)
    except ValueError as error:
        raise UserError(f"variant {trial.variant}: {' '.join(str(error).split())}") from error


@cache
def problems() -> dict[str, type[Options]]:
    """Options class of each problem, by name; also the name of its section in a grid file."""
    from lop_ray.problems import PROBLEMS

    return {name: problem.Options for name, problem in PROBLEMS.items()}


@cache
def interventions() -> dict[str, type[Options]]:
    """Options class of each intervention, by name."""
    from lop_ray.interventions import INTERVENTIONS

    return {name: intervention.Options for name, intervention in INTERVENTIONS.items()}


@cache
def diagnostics() -> dict[str, type[DiagnosticOptions] | type[BoundaryOptions]]:
    """Options class of each diagnostic, by name."""
    from lop_ray.diagnostics import DIAGNOSTICS
    from lop_ray.diagnostics.boundaries import BoundaryOptions

    return {**DIAGNOSTICS, "boundaries": BoundaryOptions}


def config_folders() -> list[Path]:
    """Where grids are looked for: `tune_configs/` here, then beside the package."""
    here, ours = Path("tune_configs"), Path(__file__).resolve().parents[2] / "tune_configs"
    folders = [here] if here.is_dir() else []
    if ours.is_dir() and not (folders and here.resolve() == ours):
        folders.append(ours)
    return folders


def _files() -> list[Path]:
    """Every YAML file of the folders; of one name the first folder's."""
    found: dict[str, Path] = {}
    for folder in config_folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.name, path)
    return list(found.values())


def grids() -> dict[str, Path]:
    """All grids that have a name, and their files."""
    return {path.stem: path for path in _files() if not _holds_variants(path)}


def find_grid(name: str) -> Path:
    """The file of a grid given by name, or by path when it ends in .yaml or .yml.

    Raises:
        UserError: If there is none.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"grid file {name} does not exist; give a path, or one of: {', '.join(grids())}")
        return Path(name)
    known = grids()
    if name not in known:
        raise UserError(unknown("grid", name, known))
    return known[name]


def _holds_variants(path: Path) -> bool:
    return path.name == VARIANTS_FILE or path.name.endswith(f"_{VARIANTS_FILE}")


def variants_files() -> list[Path]:
    """All files of variants that a grid can name, each name once."""
    return sorted(filter(_holds_variants, _files()), key=lambda path: (path.name != VARIANTS_FILE, path.name))


def variants(beside: Path | None = None, file: str = VARIANTS_FILE, where: str = "") -> dict[str, Document]:
    """All variants of a file by name, each with where it is written.

    Args:
        beside: A grid's file. A file of this name in its folder is used in place of lop_ray's own.
        file: Its name: `variants.yaml`, or one that ends in `_variants.yaml`.
        where: The place that names it, for messages.

    Raises:
        UserError: If the file is missing or a variant is no mapping.
    """
    folders = ([beside.parent] if beside else []) + config_folders()
    path = next((folder / file for folder in folders if (folder / file).is_file()), None)
    if path is None or not _holds_variants(path):
        known = ", ".join(each.name for each in variants_files())
        raise UserError(
            f"variants = {file}: no such file of variants in {', '.join(map(str, folders)) or 'tune_configs'}; "
            f"known: {known or 'none'}" + (f" [{where}]" if where else "")
        )
    document = read_document(path)
    found = {}
    for name, values in document.values.items():
        if not isinstance(values, dict):
            raise UserError(f"variant {name} = {values!r}: must be a mapping [{document.where((name,))}]")
        lines = {at[1:]: line for at, line in document.lines.items() if at[0] == name}
        found[name] = Document(document.name, values, lines)
    return found


def named(kind: str) -> Mapping[str, type[Options]]:
    """`interventions` or `diagnostics`, by the name of the section."""
    return interventions() if kind == "interventions" else diagnostics()
