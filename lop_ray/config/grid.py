"""A grid file: its sections, its axes and the variants that it names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lop_ray.config import catalogue
from lop_ray.config.checks import show, unknown_key
from lop_ray.config.settings import NAMED, NOT_IDENTITY, Assignment, Settings, is_inside_member, resolve
from lop_ray.config.yaml12 import Document, parse_value, read_document
from lop_ray.errors import UserError, unknown


@dataclass(frozen=True)
class Grid:
    """A grid file with the command line's assignments.

    Attributes:
        name: The file's name without its ending; also the folder of its results.
        document: The file.
        axes: Values of each axis by dotted key, `variant` and `seed` among them.
        variants: The variants named by the axis.
        flags: What the command line sets.
        sources: Where each axis is written.
    """

    name: str
    document: Document
    axes: Mapping[str, tuple[Any, ...]]
    variants: Mapping[str, Document]
    flags: tuple[Assignment, ...]
    sources: Mapping[str, str]

    @property
    def description(self) -> str:
        """What the grid is for, on one line."""
        return " ".join(str(self.document.values.get("description", "")).split())

    @property
    def inner_axes(self) -> tuple[str, ...]:
        """The axes other than variant and seed."""
        return tuple(key for key in self.axes if key not in ("variant", "seed"))

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination of values of the inner axes.

        Yields:
            A value for each inner axis.
        """
        for values in itertools.product(*(self.axes[key] for key in self.inner_axes)):
            yield dict(zip(self.inner_axes, values, strict=True))

    def settings(self, variant: str | None, point: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
        """The settings of a variant (None: of the grid without any) at one point of the inner axes.

        Returns:
            The settings, and the part of `point` that took effect.

        Raises:
            UserError: If a key or value is wrong.
        """
        layers = [self.document] + ([] if variant is None else [self.variants[variant]])
        along = [Assignment(tuple(key.split(".")), value, self.sources[key]) for key, value in point.items()]
        settings, effective = resolve(layers, along, self.flags, map(str, self.axes.get("problem", ())))
        return settings, {".".join(each.path): each.value for each in effective}


def load_grid(name: str, flags: Sequence[Assignment] = ()) -> Grid:
    """Reads a grid by name or path, with its axes and variants.

    Args:
        name: A grid in `tune_configs/`, or a path to a YAML file.
        flags: What the command line sets; keys under `grid.` replace axes.

    Raises:
        UserError: If the file, an axis or a variant's name is wrong. Options are checked by `Grid.settings`.
    """
    path = catalogue.find_grid(name)
    document = read_document(path)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", path.stem):
        raise UserError(f"grid name '{path.stem}': only letters, digits, '_', '-' and '.' [{path}]")
    raw = document.values.get("grid", {})
    where = document.where(("grid",))
    if not isinstance(raw, Mapping):
        raise UserError(f"grid = {show(raw)}: should be a mapping of axes to their values [{where}]")
    raw, sources = dict(raw), {key: document.where(("grid", key)) for key in raw}
    for flag in flags:
        if flag.path[0] == "grid" and len(flag.path) > 1:
            key = ".".join(flag.path[1:])
            raw[key], sources[key] = flag.value, flag.source
    axes = {key: _parse_axis(key, values, sources[key]) for key, values in raw.items()}
    for key in ("variant", "seed"):
        if key not in axes:
            raise UserError(f"grid.{key}: missing; every grid has the axes variant and seed [{where}]")
    flags = tuple(flag for flag in flags if flag.path[0] != "grid")
    _refuse_flags_on_axes(flags, axes)
    file = str(document.values.get("variants", catalogue.VARIANTS_FILE))
    known = catalogue.variants(path, file, document.where(("variants",)))
    chosen = _choose_variants(axes["variant"], known, document, sources["variant"])
    grid = Grid(path.stem, document, axes, chosen, flags, sources)
    _refuse_unused_members(grid)
    return grid


def parse_seeds(value: Any, where: str = "--seeds") -> tuple[int, ...]:
    """Seeds from a number, a range `0..29` or `0-29`, parts joined by commas, or a list of these.

    Args:
        value: As read from YAML or the command line.
        where: The place, for messages.

    Raises:
        UserError: If it is none of these, a range runs backwards, or a seed comes twice.
    """
    seeds: list[int] = []
    parts = [value] if not isinstance(value, list | tuple) else value
    for part in itertools.chain.from_iterable(each.split(",") if isinstance(each, str) else [each] for each in parts):
        match = re.fullmatch(r"\s*(\d+)\s*(?:(?:\.\.|-)\s*(\d+)\s*)?", str(part))
        if match is None:
            raise UserError(f"seed = '{show(part)}': should be a number from 0, or a range such as 0..29 [{where}]")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"seed = '{show(part)}': the range runs backwards; did you mean {last}..{first}? [{where}]")
        seeds += range(first, last + 1)
    return _refuse_twice("seed", seeds, where)


def parse_assignment(text: str) -> Assignment:
    """`--set ppo.lr=3e-4`, without the flag, as an assignment.

    Raises:
        UserError: If it is not KEY=VALUE, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise UserError(f"--set {text}: should be KEY=VALUE with a dotted key, such as ppo.lr=3e-4")
    return Assignment(path, parse_value(value, f"--set {key}"), f"--set {text}")


def _parse_axis(key: str, values: Any, where: str) -> tuple[Any, ...]:
    path = tuple(key.split("."))
    if key in ("description", "algorithm") or path[0] in NOT_IDENTITY or (path[0] in NAMED and len(path) < 3):
        raise UserError(f"grid.{key}: can't be an axis; axes are variant, seed, problem, keys such as ppo.lr [{where}]")
    listed = values if isinstance(values, list) else [values]
    if not listed or values == "":
        raise UserError(f"grid.{key} is empty: the grid has no trials [{where}]")
    if key == "seed":
        return parse_seeds(values, where)
    if any(value is None or isinstance(value, Mapping) for value in listed):
        raise UserError(f"grid.{key} = {show(values)}: should be a value or a list of values [{where}]")
    if key in ("variant", "problem"):
        listed = [str(value) for value in listed]
    return _refuse_twice(f"grid.{key}", listed, where)


def _refuse_twice(key: str, values: Sequence[Any], where: str) -> tuple[Any, ...]:
    seen = set()
    for value in values:
        if repr(value) in seen:
            raise UserError(f"{key}: {show(value)} stands twice [{where}]")
        seen.add(repr(value))
    return tuple(values)


def _refuse_flags_on_axes(flags: Sequence[Assignment], axes: Mapping[str, Any]) -> None:
    choose = {"variant": "--variants", "seed": "--seeds"}
    for flag in flags:
        key = ".".join(flag.path)
        if key in axes:
            raise UserError(f"{key}: is an axis; choose its values with {choose.get(key, f'--set grid.{key}=[...]')} "
                            f"[{flag.source}]")  # fmt: skip


def _choose_variants(
    names: Sequence[str], known: Mapping[str, Document], document: Document, where: str
) -> dict[str, Document]:
    algorithms = catalogue.algorithms()
    allowed = ["description", "network", "optimizer", "interventions", *algorithms]
    chosen = {}
    for name in names:
        if name not in known:
            raise UserError(f"{unknown('variant', name, known)} [{where}]")
        variant = known[name]
        for key in variant.values:
            if key not in allowed:
                raise UserError(f"variant {name}: {unknown_key((key,), allowed)} [{variant.where((key,))}]")
        others = set(algorithms) - {document.values.get("algorithm")}  # options for another algorithm's grids
        values = {key: value for key, value in variant.values.items() if key != "description" and key not in others}
        chosen[name] = Document(variant.name, values, variant.lines)
    return chosen


def _refuse_unused_members(grid: Grid) -> None:
    """Refuses a flag or an axis inside an intervention or diagnostic that no variant has.

    Raises:
        UserError: Names the key.
    """
    paths = [(flag.path, flag.source) for flag in grid.flags]
    paths += [(tuple(key.split(".")), grid.sources[key]) for key in grid.inner_axes]
    paths = [(path, source) for path, source in paths if is_inside_member(path)]
    if not paths:
        return
    point = next(grid.points())
    having = [grid.settings(variant, point)[0] for variant in grid.axes["variant"]]
    for (kind, name, *_), source in paths:
        known = catalogue.named(kind)
        if name not in known:
            raise UserError(f"{unknown(kind.removesuffix('s'), name, known)} [{source}]")
        if not any(name in getattr(settings, kind) for settings in having):
            raise UserError(f"no variant of grid {grid.name} has the {kind.removesuffix('s')} '{name}' [{source}]")
