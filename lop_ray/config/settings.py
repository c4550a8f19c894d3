"""How the layers of a grid make one trial's settings.

Layers, each merged over the one before it (mappings into mappings; anything else replaces):

1. the defaults of the options classes;
2. the grid file;
3. the variant (`variants.yaml`, or the file that the grid names under `variants:`);
4. the axis values of the trial (`grid:`);
5. the command line (`--set`, `--total-steps`, ...). It beats the variant, so that what is typed is what runs.

Two rules for `interventions:` and `diagnostics:`, which map names to options. `NAME: false` takes one out again.
An axis or `--set` on a key *inside* one (`interventions.cbp.replacement_rate`) changes the trials that have it and
adds it to none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Annotated, Any

from annotated_types import Ge

from lop_ray.algorithms.registry import ALGORITHMS
from lop_ray.algorithms.spec import CheckpointOptions, OptimizerOptions, Resources, TrialSpec
from lop_ray.config import catalogue
from lop_ray.config.catalogue import VARIANTS_FILE
from lop_ray.config.checks import Blame, check, dotted, show, unknown_key
from lop_ray.config.networks import check_network, network_options
from lop_ray.config.tasks import check_tasks
from lop_ray.config.yaml12 import Document, KeyPath
from lop_ray.errors import UserError, unknown
from lop_ray.networks.kinds import AnyNetworkOptions
from lop_ray.options import Options
from lop_ray.problems import PROBLEMS

SECTIONS: dict[str, type[Options]] = {
    "optimizer": OptimizerOptions,
    "resources": Resources,
    "checkpoints": CheckpointOptions,
}
"""Sections that every grid has; each algorithm and problem has one of its own name as well, and `network` has the
keys of its kind."""

NAMED = ("interventions", "diagnostics")
"""Sections that map names to options."""

NOT_IDENTITY = ("resources", "checkpoints")
"""Sections that say where and how a trial runs; they are not part of what it is."""


class Top(Options):
    """The single values of a grid file."""

    description: str = ""
    """What the grid is for; shown by `--list`."""
    variants: str = VARIANTS_FILE
    """The file, beside the grid or in `tune_configs/`, whose variants its axis names."""
    problem: str
    """Where data come from; its options stand in the section of this name."""
    algorithm: str
    """How networks are trained; its options stand in the section of this name."""
    total_steps: Annotated[int, Ge(1)]
    """Environment steps a trial (examples, for supervised problems)."""


@dataclass(frozen=True)
class Assignment:
    """One key set from outside the sections: an axis value, or a flag.

    Attributes:
        path: The key.
        value: Its value.
        source: What to call the place in messages, such as "--set ppo.lr=1".
    """

    path: KeyPath
    value: Any
    source: str


@dataclass(frozen=True)
class Settings:
    """The options of one trial, checked and complete; plain values where the owner builds its own class."""

    problem: str
    problem_options: dict[str, Any]
    algorithm: str
    algorithm_options: dict[str, Any]
    network: AnyNetworkOptions
    optimizer: OptimizerOptions
    interventions: dict[str, dict[str, Any]]
    diagnostics: dict[str, dict[str, Any]]
    total_steps: int
    resources: Resources
    checkpoints: CheckpointOptions

    @classmethod
    def of(cls, trial: TrialSpec) -> Settings:
        """The settings that made a trial."""
        return cls(**{field.name: getattr(trial, field.name) for field in fields(cls)})

    def flat(self) -> dict[str, Any]:
        """What the trial is, as dotted keys. The names and the order of the interventions are a value too."""
        flat: dict[str, Any] = dict(
            _flatten(
                {
                    "problem": self.problem,
                    "algorithm": self.algorithm,
                    "total_steps": self.total_steps,
                    self.problem: self.problem_options,
                    self.algorithm: self.algorithm_options,
                    "network": self.network.model_dump(mode="json"),
                    "optimizer": self.optimizer.model_dump(mode="json"),
                }
            )
        )
        for kind, members in (("interventions", self.interventions), ("diagnostics", self.diagnostics)):
            flat[kind] = list(members)
            flat.update(_flatten({kind: members}))
        return flat


def resolve(
    layers: Sequence[Document],
    axis_values: Sequence[Assignment],
    flags: Sequence[Assignment],
    problems: Iterable[str] = (),
) -> tuple[Settings, list[Assignment]]:
    """Merges the layers and checks what comes out.

    Args:
        layers: The grid file, then the variant if there is one.
        axis_values: The trial's place on the axes.
        flags: What the command line sets.
        problems: Problems of other trials of the grid, whose sections may stand in the file too.

    Returns:
        The settings, and the axis values that took effect.

    Raises:
        UserError: If a key or value is wrong.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge(merged, layer.values)
    merged.pop("grid", None)
    effective = [each for each in axis_values if _assign(merged, each)]
    overrides = [*effective, *(each for each in flags if _assign(merged, each))]

    def blame(path: KeyPath) -> str:
        """Which layer the value at `path` came from; for a section, the last that says anything in it."""
        for each in reversed(overrides):
            shared = min(len(path), len(each.path))
            if path[:shared] == each.path[:shared]:
                return each.source
        for layer in reversed(layers):
            if path in layer.lines:
                return layer.where(path)
        return layers[0].where(path)

    return _check_all(merged, blame, list(problems)), effective


def is_inside_member(path: KeyPath) -> bool:
    """Whether a key is an option of one intervention or diagnostic."""
    return path[0] in NAMED and len(path) > 2


def _check_all(merged: dict[str, Any], blame: Blame, other_problems: list[str]) -> Settings:
    # Names first: which sections are known depends on them.
    for what, known in (("problem", catalogue.problems()), ("algorithm", catalogue.algorithms())):
        if what in merged and str(merged[what]) not in known:
            raise UserError(f"{unknown(what, show(merged[what]), known)} [{blame((what,))}]")
    problem, algorithm = str(merged.get("problem", "")), str(merged.get("algorithm", ""))
    _check_kind(problem, algorithm, blame)
    sections = _sections([problem, *other_problems], algorithm)
    sections["network"] = network_options(_section(merged, "network"), blame)
    elsewhere = [f"{name}.{key}" for name, options in sections.items() for key in options.model_fields]
    for key in merged:
        allowed = [*Top.model_fields, "grid", *sections, *NAMED]
        if key not in allowed:
            raise UserError(f"{unknown_key((key,), allowed, elsewhere)} [{blame((key,))}]")
    top = check(Top, {key: merged[key] for key in Top.model_fields if key in merged}, (), blame)
    checked: dict[str, Any] = {
        name: check(options, _section(merged, name), (name,), blame, elsewhere) for name, options in sections.items()
    }
    _check_batch(checked[problem], checked[algorithm], checked["resources"], problem, algorithm, blame)
    _check_evaluation(problem, checked[algorithm], algorithm, blame)
    check_tasks(problem, checked[problem], top.total_steps, blame)
    if PROBLEMS[problem].kind == "env":  # streams are read when the grid is planned
        check_network(problem, checked[problem], checked["network"], blame)
    diagnostics = _members("diagnostics", merged, blame)
    _check_served(diagnostics, algorithm, blame)
    return Settings(
        problem=problem,
        problem_options=checked[problem].model_dump(mode="json"),
        algorithm=algorithm,
        algorithm_options=checked[algorithm].model_dump(mode="json"),
        interventions=_members("interventions", merged, blame),
        diagnostics=diagnostics,
        total_steps=top.total_steps,
        network=checked["network"],
        **{name: checked[name] for name in SECTIONS},
    )


def _check_kind(problem: str, algorithm: str, blame: Blame) -> None:
    """Refuses an algorithm that cannot learn from data of the problem's kind.

    Raises:
        UserError: It cannot.
    """
    if problem not in PROBLEMS or algorithm not in ALGORITHMS:
        return
    kind = PROBLEMS[problem].kind
    fitting = [name for name, each in ALGORITHMS.items() if each.learns_from == kind]
    if algorithm not in fitting:
        what = "a stream of supervised tasks" if kind == "stream" else "an environment to act in"
        raise UserError(
            f"algorithm = {algorithm}: problem {problem} is {what}; use {' or '.join(fitting)} "
            f"[{blame(('algorithm',))}]"
        )


def _check_batch(
    problem: Options, algorithm: Options, resources: Resources, problem_name: str, algorithm_name: str, blame: Blame
) -> None:
    """What an RL algorithm would refuse only when it is built: env copies share out over runners and divide the batch.

    Raises:
        UserError: They do not.
    """
    copies, batch_size = getattr(problem, "num_envs", None), getattr(algorithm, "batch_size", None)
    if copies is None or batch_size is None:
        return
    key = f"{problem_name}.num_envs"
    if batch_size % copies:
        raise UserError(
            f"{key} = {copies}: does not divide {algorithm_name}.batch_size = {batch_size}; choose a divisor "
            f"[{blame((problem_name, 'num_envs'))}]"
        )
    if copies % max(1, resources.env_runners):
        raise UserError(
            f"resources.env_runners = {resources.env_runners}: does not divide {key} = {copies}; choose a divisor "
            f"[{blame(('resources', 'env_runners'))}]"
        )


def _check_evaluation(problem: str, algorithm: Options, algorithm_name: str, blame: Blame) -> None:
    if getattr(algorithm, "evaluation", None) is not None and not PROBLEMS[problem].holds_out:
        raise UserError(
            f"{algorithm_name}.evaluation: problem {problem} holds nothing out; take it away "
            f"[{blame((algorithm_name, 'evaluation'))}]"
        )


def _check_served(diagnostics: Mapping[str, Mapping[str, Any]], algorithm: str, blame: Blame) -> None:
    """Refuses a diagnostic that needs what the algorithm does not offer.

    Raises:
        UserError: Names the diagnostic and what it lacks.
    """
    for name, values in diagnostics.items():
        lacking = sorted(catalogue.diagnostics()[name](**values).needs() - catalogue.offers(algorithm))
        if lacking:
            key = f"diagnostics.{name}"
            raise UserError(
                f"{key}: needs {' and '.join(lacking)} of the training, which algorithm '{algorithm}' does not offer; "
                f"take it out with {key}: false [{blame(('diagnostics', name))}]"
            )


def _sections(problems: Iterable[str], algorithm: str) -> dict[str, type[Options]]:
    own = {name: catalogue.problems()[name] for name in problems if name in catalogue.problems()}
    if algorithm in catalogue.algorithms():
        own[algorithm] = catalogue.algorithms()[algorithm]
    return own | SECTIONS


def _section(values: Mapping[str, Any], name: str) -> Any:
    """What stands under `name`; nothing under it means all defaults."""
    return {} if values.get(name) is None else values[name]


def _members(kind: str, merged: Mapping[str, Any], blame: Blame) -> dict[str, dict[str, Any]]:
    known = catalogue.named(kind)
    members = _section(merged, kind)
    if not isinstance(members, Mapping):
        raise UserError(f"{kind} = {show(members)}: should be a mapping of names to options [{blame((kind,))}]")
    checked = {}
    for name in members:
        if name not in known:
            raise UserError(f"{kind}.{name}: {unknown(kind.removesuffix('s'), name, known)} [{blame((kind, name))}]")
        if members[name] is not False:
            checked[name] = check(known[name], _section(members, name), (kind, name), blame).model_dump(mode="json")
    return checked


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = deepcopy(value)


def _assign(values: dict[str, Any], each: Assignment) -> bool:
    """Sets one key; false if it is inside an intervention or diagnostic that is not there.

    Raises:
        UserError: A key above it is a single value.
    """
    if is_inside_member(each.path):
        members = _section(values, each.path[0])
        if not isinstance(members, dict) or members.get(each.path[1], False) is False:
            return False
    at = values
    for depth, part in enumerate(each.path[:-1]):
        if at.get(part) is None:
            at[part] = {}
        at = at[part]
        if not isinstance(at, dict):
            above = dotted(each.path[: depth + 1])
            raise UserError(f"{dotted(each.path)}: {above} is a single value and has no keys [{each.source}]")
    _merge(at, {each.path[-1]: each.value})
    return True


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
