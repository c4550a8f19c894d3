"""Interventions that act now and then: at task changes, or every so many updates or gradient steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from lop_ray.interventions.base import GradientStep, Intervention, Training
from lop_ray.options import Options


class OccasionalOptions(Options):
    """When to act; subclasses say which moments there are, in `when`."""

    when: str
    every: Annotated[int, Ge(1)] = 1
    """k: act at every k-th of these moments."""


class Occasional(Intervention):
    """Calls `act` at every k-th of the moments named by the option `when`.

    Attributes:
        moments: How many of them there have been.
    """

    Options: ClassVar[type[OccasionalOptions]]
    options: OccasionalOptions

    def attach(self, training: Training) -> None:
        """Starts to count."""
        super().attach(training)
        self.moments = 0

    def act(self, step: GradientStep | None) -> None:
        """What happens; `step` is None at a task change."""
        raise NotImplementedError

    def after_gradient_step(self, step: GradientStep) -> None:
        """Acts if `when` is gradient_step."""
        self._moment("gradient_step", step)

    def after_update(self, step: GradientStep) -> None:
        """Acts if `when` is update."""
        self._moment("update", step)

    def at_task_change(self, task: int) -> None:
        """Acts if `when` is task_change."""
        self._moment("task_change", None)

    def _moment(self, name: str, step: GradientStep | None) -> None:
        if name == self.options.when:
            self.moments += 1
            if self.moments % self.options.every == 0:
                self.act(step)

    def state_dict(self) -> dict[str, Any]:
        """The count of moments."""
        return {"moments": self.moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.moments = state["moments"]
