"""Margins at task boundaries: which units the shift of the data kills, and which the adaptation of the weights.

Three moments, of the same units on two sets of M observations each (so that the largest of M pre-activations is
compared with the largest of M):

| moment | weights | observations |
|---|---|---|
| old | from before the first update with a step of the new task | the last M of the old task |
| predictive | the same | the first M of the new task |
| actual | after the first update that the new task had to itself | the first M of the new task |

From old to predictive only the data differ: units dead (margin < 0) in one and alive in the other are killed or
revived *by the shift*. From predictive to actual only the weights differ: killed or revived *by adaptation*. So

    actual_dead = old_dead + killed_by_shift - revived_by_shift + killed_by_adaptation - revived_by_adaptation.

**When a boundary is complete.** Tasks change within an update's data, mostly. The first update after that learns from
both tasks; the new one has an update to itself when every step of it is of the new task, in all copies. The boundary
is complete after the first such update by which the new task has also given `samples` observations: `update` is that
one, and `adaptation_updates` counts from the first update with a step of the new task. M is `samples`, or fewer if the
old task was shorter. If the next change comes before, the boundary is closed with the weights after the update in
which it came. One that is open when the run ends leaves no row. What interventions do at a change comes after the
update in which the change took place, and so counts as adaptation.

Where copies change at different times, the first one's change is the boundary; the others' last steps in the old task
belong to neither set.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import nn

from lop_ray.diagnostics.base import Row
from lop_ray.diagnostics.units import Margins, count_states, margins_of
from lop_ray.options import Options

Networks = Mapping[str, nn.Module]


class BoundaryOptions(Options):
    """Margins at every change of task; table `boundaries`."""

    samples: Annotated[int, Ge(1)] = 1000
    """Observations of either task: the last of the old one and the first of the new one."""
    at_risk: Annotated[float, Gt(0.0)] = 0.1
    """As of `margins`."""

    def needs(self) -> frozenset[str]:
        """The networks from before every update, and every update's steps with their tasks."""
        return frozenset({"before", "steps"})


def boundary_columns(old: Margins, predictive: Margins, actual: Margins, at_risk: float = 0.1) -> Row:
    """One layer's counts at the three moments, and what happened to units between them.

    Args:
        old: Margins of the old weights on the old task's observations.
        predictive: Of the old weights on the new task's.
        actual: Of the new weights on the new task's.
        at_risk: A unit is at risk when 0 <= margin < at_risk.

    Returns:
        Columns old_dead, old_at_risk, old_mean_margin, the same for predictive and actual, killed_by_shift,
        revived_by_shift, killed_by_adaptation, revived_by_adaptation.
    """
    row: Row = {}
    for name, found in (("old", old), ("predictive", predictive), ("actual", actual)):
        counts = count_states(found, at_risk)
        row[f"{name}_dead"], row[f"{name}_at_risk"] = counts.dead, counts.at_risk
        row[f"{name}_mean_margin"] = counts.mean_margin
    for cause, before, after in (("shift", old, predictive), ("adaptation", predictive, actual)):
        row[f"killed_by_{cause}"] = int(((before.highest >= 0) & (after.highest < 0)).sum())
        row[f"revived_by_{cause}"] = int(((before.highest < 0) & (after.highest >= 0)).sum())
    return row


@dataclass(eq=False)
class Boundary:
    """A change of task, from its first step on.

    Attributes:
        task: The new one.
        networks: Old weights.
        old: [K, ...], the last observations of the old task.
        new: [L, ...], the first of the new task so far.
        first_update: The first with a step of the new task; None while there is none.
        superseded: Whether the next change came.
    """

    task: int
    networks: Networks
    old: np.ndarray
    new: np.ndarray
    first_update: int | None = None
    superseded: bool = False

    def rows(self, update: int, networks: Networks, at_risk: float) -> list[Row]:
        """A row per network and hidden layer, with the weights of `networks`, after `update`, as the new ones."""
        assert self.first_update is not None
        samples = min(len(self.old), len(self.new))
        rows: list[Row] = []
        for name, network in networks.items():
            device = next(network.parameters()).device
            old, new = (torch.from_numpy(each).to(device) for each in (self.old[-samples:], self.new[:samples]))
            pairs = ((self.networks[name], old), (self.networks[name], new), (network, new))
            layers = zip(*(margins_of(*pair) for pair in pairs), strict=True)
            for layer, (before, predictive, actual) in enumerate(layers):
                place = {"task": self.task, "network": name, "layer": layer, "units": len(before.highest)}
                counts = {"samples": samples, "adaptation_updates": update - self.first_update + 1}
                rows.append({**place, **counts, **boundary_columns(before, predictive, actual, at_risk)})
        return rows


class BoundaryWatch:
    """Follows a run's steps, keeps the observations around every change of task, and makes the rows.

    Args:
        options: How many observations, and what is at risk.
    """

    def __init__(self, options: BoundaryOptions):
        self.options = options
        self._last_tasks: np.ndarray | None = None  # [N], of the next step
        self._task = -1
        self._latest: np.ndarray | None = None  # [<= samples, ...], of that task
        self._open: list[Boundary] = []

    def follow(
        self, update: int, observations: np.ndarray, tasks: np.ndarray, *, before: Networks, now: Networks
    ) -> list[Row]:
        """Takes in the steps of an update, after it.

        Args:
            update: Its number.
            observations: [T, N, ...], of N copies over T steps.
            tasks: [T + 1, N], task of each step, and of the step that follows.
            before: The networks before the update; kept if a task began in it, so they must stay as they are.
            now: The networks after it; copied if a task begins with the next step.

        Returns:
            Rows of the boundaries that this update completes, by network and layer.

        Raises:
            ValueError: Shapes that do not fit.
        """
        steps = len(observations)
        if tasks.shape != (steps + 1, *observations.shape[1:2]):
            raise ValueError(f"tasks must be [T + 1, N], not {list(tasks.shape)} for {list(observations.shape)}")
        if self._last_tasks is None:
            self._task = int(tasks[0].max())
            self._last_tasks = tasks[0]
        changed = tasks != np.concatenate([self._last_tasks[None], tasks[:-1]])
        start = 0
        for t in np.flatnonzero(changed.any(1)).tolist():
            entered = int(tasks[t][changed[t]].max())
            if entered != self._task:
                self._take(update, observations[start:t], tasks[start:t])
                self._begin(entered, before if t < steps else copy.deepcopy(dict(now)))
                start = t
        self._take(update, observations[start:], tasks[start:steps])
        self._last_tasks = tasks[steps].copy()
        return self._complete(update, tasks[:steps], now)

    def _take(self, update: int, observations: np.ndarray, tasks: np.ndarray) -> None:
        """Adds the steps that are of the present task."""
        chosen = tasks == self._task
        some = observations.reshape(-1, *observations.shape[2:]) if chosen.all() else observations[chosen]
        if not len(some):
            return
        samples = self.options.samples
        for boundary in self._open:
            if boundary.superseded:
                continue
            if boundary.first_update is None:
                boundary.first_update = update
            if len(boundary.new) < samples:
                boundary.new = np.concatenate([boundary.new, some[: samples - len(boundary.new)]])
        kept = self._latest
        if kept is None or len(some) >= samples:
            self._latest = some[-samples:].copy()
        else:
            self._latest = np.concatenate([kept[max(0, len(kept) + len(some) - samples) :], some])

    def _begin(self, task: int, networks: Networks) -> None:
        for boundary in self._open:
            boundary.superseded = True
        if self._latest is not None:
            self._open.append(Boundary(task, networks, self._latest, self._latest[:0]))
        self._task, self._latest = task, None

    def _complete(self, update: int, tasks: np.ndarray, now: Networks) -> list[Row]:
        samples, alone = self.options.samples, bool((tasks == self._task).all())
        done = [each for each in self._open if each.superseded or (alone and len(each.new) >= samples)]
        self._open = [each for each in self._open if each not in done]
        return [
            row
            for boundary in done
            if boundary.first_update is not None
            for row in boundary.rows(update, now, self.options.at_risk)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive a restart."""
        return {
            "last_tasks": self._last_tasks,
            "task": self._task,
            "latest": self._latest,
            "open": [
                vars(boundary) | {"networks": {name: net.state_dict() for name, net in boundary.networks.items()}}
                for boundary in self._open
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any], networks: Networks) -> None:
        """Takes back what `state_dict` gave.

        Args:
            state: From `state_dict`.
            networks: The networks in training, whose copies take the old weights.
        """
        self._last_tasks, self._task, self._latest = state["last_tasks"], state["task"], state["latest"]
        self._open = [
            Boundary(**saved | {"networks": _with_weights(networks, saved["networks"])}) for saved in state["open"]
        ]


def _with_weights(networks: Networks, weights: Mapping[str, Mapping[str, Any]]) -> Networks:
    copies = {name: copy.deepcopy(network) for name, network in networks.items()}
    for name, network in copies.items():
        network.load_state_dict(weights[name])
    return copies
