"""The manifest of a grid's results: which trials belong to it, and what its definition was.

`grid.yaml` at the top of a grid's results:

| key | holds |
|---|---|
| format | version of this layout |
| grid, description | name and purpose |
| axes | every value that an axis had so far |
| settings | the resolved options without variant, problem options and axes, as dotted keys |
| problems | the options of each problem |
| variants | what each variant changes in `settings` |
| trials | by id: variant, seed, and the trial's place on further axes |
| runs | each command that ran here, with commit and time |

A grid may grow (new seeds, variants, axis values, problems); what stands in `settings`, and of problems and
variants that it already has, may not change. An axis may be added on any key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.config.checks import show
from lop_ray.config.grid import Grid
from lop_ray.config.settings import Settings
from lop_ray.errors import UserError

FORMAT = 1
Manifest = dict[str, Any]


def describe(grid: Grid, trials: Sequence[TrialSpec]) -> Manifest:
    """The manifest of a grid that holds `trials`.

    Args:
        grid: The grid.
        trials: Which of its trials; variants and problems without a trial are left out.

    Returns:
        The manifest, without runs.
    """
    point = next(grid.points())
    base, _ = grid.settings(None, point)
    settings = _about(base, grid.axes)
    variants = {}
    for variant in dict.fromkeys(trial.variant for trial in trials):
        own = _about(grid.settings(variant, point)[0], grid.axes)
        variants[variant] = {key: value for key, value in own.items() if key not in settings or settings[key] != value}
    problems: dict[str, dict[str, Any]] = {}
    for trial in trials:
        options = {f"{trial.problem}.{key}": value for key, value in trial.problem_options.items()}
        problems[trial.problem] = {key: value for key, value in options.items() if not _covered(key, grid.axes)}
    places = {trial.trial_id: place_of(grid, trial) for trial in trials}
    return {
        "format": FORMAT,
        "grid": grid.name,
        "description": grid.description,
        "axes": {key: _distinct(place[key] for place in places.values() if key in place) for key in grid.axes},
        "settings": settings,
        "problems": problems,
        "variants": variants,
        "trials": places,
    }


def place_of(grid: Grid, trial: TrialSpec) -> dict[str, Any]:
    """Where a trial stands on the axes of its grid, those that change nothing in it left out."""
    flat = Settings.of(trial).flat()
    inner = {key: flat[key] for key in grid.inner_axes if key in flat}
    return {"variant": trial.variant, "seed": trial.seed} | inner


def differences(stored: Manifest, current: Manifest) -> list[str]:
    """What changed in the definition of a grid, a line for each key; empty if it only grew.

    Args:
        stored: The manifest of the results.
        current: The manifest of the grid as it is now.
    """
    axes = {**stored["axes"], **current["axes"]}
    lines = list(_changes("", stored["settings"], current["settings"], axes))
    for name in [each for each in stored["problems"] if each in current["problems"]]:
        lines += _changes("", stored["problems"][name], current["problems"][name], axes)
    for name in [each for each in stored["variants"] if each in current["variants"]]:
        keys = {**stored["variants"][name], **current["variants"][name]}
        old, new = ({**each["settings"], **each["variants"][name]} for each in (stored, current))
        lines += _changes(f"variant {name}: ", _only(old, keys), _only(new, keys), axes)
    return lines


def check_format(manifest: Manifest, place: str) -> None:
    """Refuses a manifest that this code can't read.

    Raises:
        UserError: It was written by another version, or is damaged.
    """
    wanted = {"format", "grid", "axes", "settings", "problems", "variants", "trials"}
    missing = wanted - set(manifest)
    if manifest.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{place}: format = {show(manifest['format'])}: this lop_ray reads format {FORMAT}; "
            "use the version that wrote it, or another --results"
        )
    if missing:
        raise UserError(f"{place}: damaged, {', '.join(sorted(missing))} missing; restore it, or use another --results")


def grown(stored: Manifest | None, current: Manifest) -> Manifest:
    """The manifest that holds the trials of both, in the order in which they came."""
    if stored is None:
        return {**current, "runs": []}
    merged = {**current, "runs": list(stored.get("runs", []))}
    for kind in ("problems", "variants", "trials"):
        merged[kind] = {**stored[kind], **current[kind]}
    merged["axes"] = {
        key: _distinct([*stored["axes"].get(key, []), *current["axes"].get(key, [])])
        for key in {**stored["axes"], **current["axes"]}
    }
    merged["settings"] = {key: value for key, value in current["settings"].items() if not _covered(key, merged["axes"])}
    return merged


def _about(settings: Settings, axes: Mapping[str, Any]) -> dict[str, Any]:
    """What settings say beside the problem's options and the axes."""
    own = f"{settings.problem}."
    flat = settings.flat().items()
    return {key: value for key, value in flat if not key.startswith(own) and not _covered(key, axes)}


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({repr(value): value for value in values}.values())


def _only(flat: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: flat[key] for key in keys if key in flat}


def _covered(key: str, axes: Mapping[str, Any]) -> bool:
    return any(key == axis or key.startswith(f"{axis}.") for axis in axes)


def _changes(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any], axes: Mapping[str, Any]) -> Iterator[str]:
    for key in {**old, **new}:
        if not _covered(key, axes) and (key not in old or key not in new or old[key] != new[key]):
            before, after = (show(each[key]) if key in each else "absent" for each in (old, new))
            yield f"{prefix}{key}: {before} -> {after}"
