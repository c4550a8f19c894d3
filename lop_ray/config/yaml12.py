"""YAML as people expect it: the scalars of YAML 1.2's core schema, and no key twice.

PyYAML follows YAML 1.1, where `1e-4` and `1e8` are text, `on` and `no` are booleans, `010` is eight, `1:30` is
ninety, and the second of two equal keys silently wins. Here:

| written | read as |
|---|---|
| `true`, `false` | booleans; `on`, `off`, `yes`, `no` are text |
| `12`, `-3`, `010`, `0x1f`, `0o17` | whole numbers (12, -3, 10, 31, 15) |
| `1e8`, `1e-4`, `.5`, `1.`, `.inf`, `.nan` | floats |
| `null`, `~`, nothing | None |
| anything else | text |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lop_ray.errors import UserError

KeyPath = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """Only composes nodes; which scalar is what follows YAML 1.2 (section 10.3.2)."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own hook)


def _int(text: str) -> int:
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _int),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        _float,
    ),
}
for _name, (_pattern, _) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), None)


@dataclass(frozen=True)
class Document:
    """A YAML file, read.

    Attributes:
        name: What to call it in messages, such as its path.
        values: The mapping.
        lines: Line (from 1) of every key, by its path.
    """

    name: str
    values: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """`file:line` of the key at `path`, or of the nearest key above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines[path]}" if path in self.lines else self.name


def read_document(path: Path) -> Document:
    """Reads a YAML file whose top is a mapping.

    Raises:
        UserError: If it can't be read, is no YAML, has a key twice, or its top is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from error
    lines: dict[KeyPath, int] = {}
    values = _parse(text, str(path), lines)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a mapping of keys to values, not {type(values).__name__}")
    return Document(str(path), values, lines)


def parse_value(text: str, name: str) -> Any:
    """A value as it would be read from a YAML file, such as `1e-4`, `true` or `[64, 64]`; `name` is for messages.

    Raises:
        UserError: If it is no YAML.
    """
    return _parse(text, name, {})


def _parse(text: str, name: str, lines: dict[KeyPath, int]) -> Any:
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _construct(node, name, (), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{name}{line}: not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise UserError(f"{name}: not YAML: {' '.join(str(error).split())}") from error


def _construct(node: yaml.Node, name: str, path: KeyPath, lines: dict[KeyPath, int]) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, name, (*path, str(i)), lines) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{name}:{line}: a key must be text, not a list or mapping")
            key = str(key_node.value)
            here = (*path, key)
            if key in values:
                raise UserError(f"{name}:{line}: {'.'.join(here)} stands twice, first on line {lines[here]}")
            lines[here] = line
            values[key] = _construct(value_node, name, here, lines)
        return values
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == "str":
        return str(node.value)
    if kind not in _SCALARS:
        raise UserError(f"{name}:{node.start_mark.line + 1}: tag {node.tag} is not known here")
    try:
        return _SCALARS[kind][1](node.value)
    except ValueError as error:  # an explicit tag on the wrong text, such as `!!int x`
        raise UserError(f"{name}:{node.start_mark.line + 1}: '{node.value}' is no {kind}") from error
