"""Checks a section of a grid against its options class, and says what is wrong in one line."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from lop_ray.config.yaml12 import KeyPath
from lop_ray.errors import UserError, nearest
from lop_ray.options import Options

AnyOptions = TypeVar("AnyOptions", bound=Options)
Blame = Callable[[KeyPath], str]
"""Names the place that a key's value came from: a file and line, or a flag."""


def check(
    options: type[AnyOptions], values: Any, section: KeyPath, blame: Blame, elsewhere: Iterable[str] = ()
) -> AnyOptions:
    """`values` as an instance of `options`.

    Args:
        options: The section's class.
        values: What the grid says; a mapping.
        section: Where the section is, such as ("interventions", "cbp"); () for the top of the file.
        blame: Names the place a key's value came from.
        elsewhere: Dotted keys of other sections, offered when an unknown key resembles none of this one.

    Raises:
        UserError: Names key, value, what is allowed, and the nearest known key.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{dotted(section)} = {show(values)}: should be a mapping of options [{blame(section)}]")
    try:
        checked = options(**values)
    except ValidationError as error:
        raise UserError(_one_line(error, options, values, section, blame, elsewhere)) from error
    flag = _find_flag(values, checked.model_dump())
    if flag is not None:
        path = (*section, *flag)
        raise UserError(f"{dotted(path)} = {show(_at(values, flag))}: should be a number [{blame(path)}]")
    return checked


def _one_line(
    error: ValidationError,
    options: type[Options],
    values: Mapping[str, Any],
    section: KeyPath,
    blame: Blame,
    elsewhere: Iterable[str],
) -> str:
    details = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    inner = _existing(tuple(str(part) for part in details["loc"]), values)
    path = (*section, *inner)
    where = blame(path)
    if details["type"] == "extra_forbidden":
        return f"{unknown_key(path, _fields(options, inner[:-1]), elsewhere)} [{where}]"
    if details["type"] == "missing":
        return f"{dotted((*section, *map(str, details['loc'])))}: missing [{where}]"
    message = " ".join(details["msg"].removeprefix("Value error, ").removeprefix("Input ").split())
    choices = details.get("ctx", {}).get("expected")
    if details["type"] == "literal_error" and choices and isinstance(details["input"], str):
        guess = nearest(details["input"], [each.strip("' ") for each in choices.replace(" or ", ", ").split(",")])
        message += f"; did you mean '{guess}'?" if guess else ""
    if isinstance(details["input"], Mapping) and details["type"] == "value_error":  # several keys together
        return f"{dotted(path) or 'grid'}: {message} [{where}]"
    return f"{dotted(path)} = {show(details['input'])}: {message} [{where}]"


def unknown_key(path: KeyPath, siblings: Sequence[str], elsewhere: Iterable[str] = ()) -> str:
    """One line on an unknown key; the nearest is sought beside it first, then by its last part elsewhere."""
    guess = nearest(path[-1], siblings)
    best = dotted((*path[:-1], guess)) if guess else None
    if best is None:
        by_last_part = {key.rpartition(".")[2]: key for key in reversed(list(elsewhere))}
        guess = nearest(path[-1], by_last_part)
        best = by_last_part[guess] if guess else None
    hint = f"did you mean '{best}'? " if best else ""
    there = f"known in {dotted(path[:-1])}" if path[:-1] else "known"
    return f"unknown key '{dotted(path)}'; {hint}{there}: {', '.join(siblings) or 'nothing'}"


def dotted(path: KeyPath) -> str:
    """("optimizer", "betas", "0") -> "optimizer.betas[0]"."""
    text = ""
    for part in path:
        text += f"[{part}]" if part.isdigit() else f".{part}" if text else part
    return text


def show(value: Any, limit: int = 80) -> str:
    """A value as it would be written in YAML, cut at `limit` characters."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(show(each) for each in value)}]"
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{key}: {show(each)}' for key, each in value.items())}}}"
    else:
        text = str(value)
    text = " ".join(text.split()) if isinstance(value, str) else text
    return text if len(text) <= limit else text[: limit - 3] + "..."


def keys_of(options: type[Options], section: KeyPath) -> list[str]:
    """The dotted keys of a section."""
    return [dotted((*section, name)) for name in options.model_fields]


def _fields(options: type[Options], inner: KeyPath) -> list[str]:
    """Known keys of the (nested) options at `inner`."""
    for part in inner:
        found = options.model_fields.get(part)
        candidates = [] if found is None else [found.annotation, *typing.get_args(found.annotation)]
        nested = [each for each in candidates if isinstance(each, type) and issubclass(each, Options)]
        if not nested:
            return []
        options = nested[0]
    return list(options.model_fields)


def _existing(loc: KeyPath, values: Any) -> KeyPath:
    """The part of pydantic's location that is in `values`; it also names members of unions, which are not."""
    path: list[str] = []
    for part in loc:
        if isinstance(values, Mapping) and part in values:
            values = values[part]
        elif isinstance(values, list | tuple) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
        else:
            continue
        path.append(part)
    return tuple(path)


def _find_flag(raw: Any, checked: Any) -> KeyPath | None:
    """Where a boolean was taken for a number: pydantic reads `lr: true` as 1.0."""
    if isinstance(raw, bool):
        return () if isinstance(checked, int | float) and not isinstance(checked, bool) else None
    pairs: Iterable[tuple[Any, Any, Any]] = ()
    if isinstance(raw, Mapping) and isinstance(checked, Mapping):
        pairs = ((key, value, checked.get(key)) for key, value in raw.items())
    elif isinstance(raw, list | tuple) and isinstance(checked, list | tuple):
        pairs = ((str(i), *both) for i, both in enumerate(zip(raw, checked, strict=False)))
    for key, before, after in pairs:
        found = _find_flag(before, after)
        if found is not None:
            return (str(key), *found)
    return None


def _at(values: Any, path: KeyPath) -> Any:
    for part in path:
        values = values[int(part)] if isinstance(values, list | tuple) else values[part]
    return values
