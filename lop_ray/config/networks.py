"""The `network:` section: keys by its kind, and whether such a network can read what the problem shows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol, runtime_checkable

from lop_ray.config.checks import Blame, show
from lop_ray.errors import UserError, unknown
from lop_ray.networks import NetworkOptions
from lop_ray.networks.kinds import NETWORK_KINDS, make_image_network
from lop_ray.options import Options


@runtime_checkable
class ShowsShape(Protocol):
    """Options of a problem whose observations are no flat vectors, or may be none."""

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of one observation: [features], or [height, width, channels]."""
        ...


def network_options(section: Any, blame: Blame) -> type[Options]:
    """The class of the section's options.

    Args:
        section: What the grid says under `network`.
        blame: Names the place a key's value came from.

    Returns:
        That of its `kind`, without one of mlp.

    Raises:
        UserError: There is no such kind.
    """
    kind = section.get("kind", "mlp") if isinstance(section, Mapping) else "mlp"
    if not isinstance(kind, str) or kind not in NETWORK_KINDS:
        raise UserError(f"network.kind: {unknown('kind', show(kind), NETWORK_KINDS)} [{blame(('network', 'kind'))}]")
    return NETWORK_KINDS[kind]


def check_network(name: str, problem: Options, network: Any, blame: Blame) -> None:
    """Refuses a network that cannot read the problem's observations.

    Args:
        name: The problem's.
        problem: Its options.
        network: Options of its kind.
        blame: Names the place a key's value came from.

    Raises:
        UserError: They do not fit.
    """
    shape = problem.observation_shape if isinstance(problem, ShowsShape) else None
    where = blame(("network", "kind"))
    if isinstance(network, NetworkOptions):
        if shape is not None and len(shape) > 1:
            raise UserError(
                f"network.kind = mlp: reads flat vectors, but problem {name} shows images {list(shape)}; "
                f"use kind: conv or impala [{where}]"
            )
    elif shape is None or len(shape) == 1:
        raise UserError(
            f"network.kind = {network.kind}: reads images, but problem {name} shows flat vectors; "
            f"use kind: mlp [{where}]"
        )
    else:
        misfit = _misfit(network, tuple(shape))
        if misfit is not None:
            raise UserError(f"network.channels: {misfit} [{blame(('network', 'channels'))}]")


@cache
def _misfit(network: Any, shape: tuple[int, ...]) -> str | None:
    """Why such images do not fit the network. Found by building it, which many trials of a grid need once."""
    try:
        make_image_network(network, shape, {"output": 1}, seed=0)
    except ValueError as error:
        return str(error)
    return None
