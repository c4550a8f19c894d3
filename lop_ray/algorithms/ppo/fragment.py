"""A rollout of N env copies over T steps, as plain arrays.

It is what the env runner's `sample()` returns, in a list of one, in place of RLlib's episodes, and
has the few methods that RLlib calls on those: length, step counts and slicing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np


@dataclass(eq=False)
class Fragment:
    """T steps of N env copies.

    Attributes:
        obs: Observation that each action was computed from [T, N, observation].
        actions: As drawn, unclipped [T, N, action].
        logp: Log density of the actions [T, N].
        rewards: [T, N].
        terminateds: The episode ended in a terminal state [T, N].
        truncateds: The episode ended at its time limit [T, N].
        final_values_at: Steps (t, n) at which a time limit struck [K, 2].
        final_obs: Last observation of those episodes [K, observation].
        last_obs: Observation after the last step [N, observation].
        tasks: Task that each step was made in [T, N], int32.
        task: Task that each copy is in after the last step, and so the next step's [N], int32.
        values: V of each observation acted on [T, N], where acting gave it.
    """

    obs: np.ndarray
    actions: np.ndarray
    logp: np.ndarray
    rewards: np.ndarray
    terminateds: np.ndarray
    truncateds: np.ndarray
    final_values_at: np.ndarray
    final_obs: np.ndarray
    last_obs: np.ndarray
    tasks: np.ndarray
    task: np.ndarray
    values: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of env steps, T N."""
        return self.rewards.size

    def env_steps(self) -> int:
        """Number of env steps, T N."""
        return len(self)

    def agent_steps(self) -> int:
        """The same: one agent."""
        return len(self)

    def __getitem__(self, steps: slice) -> Fragment:
        """Cuts along the copies, so that trajectories stay whole; RLlib shards over learners with it.

        Args:
            steps: Slice over env steps; both ends multiples of T.

        Returns:
            The fragment of the copies in the slice.

        Raises:
            ValueError: The slice would cut a trajectory.
        """
        length, copies = self.rewards.shape
        start, stop, step = steps.indices(len(self))
        if step != 1 or start % length or stop % length:
            raise ValueError(
                f"a fragment of {copies} env copies x {length} steps cannot be cut at {start}:{stop}; "
                "choose env copies a runner as a multiple of the learners"
            )
        start, stop = start // length, stop // length
        struck = self.final_values_at[:, 1]
        keep = (struck >= start) & (struck < stop)
        whole = {f.name: getattr(self, f.name) for f in fields(self) if f.name in _TIME_MAJOR}
        by_copy = {name: array[:, start:stop] for name, array in whole.items() if array is not None}
        return replace(
            self,
            **by_copy,
            final_values_at=self.final_values_at[keep] - np.array([0, start]),
            final_obs=self.final_obs[keep],
            last_obs=self.last_obs[start:stop],
            task=self.task[start:stop],
        )

    def slice(self, steps: slice, *, len_lookback_buffer: int | None = None) -> Fragment:
        """The same as indexing; there is no look-back."""
        return self[steps]


_TIME_MAJOR = {"obs", "actions", "logp", "rewards", "terminateds", "truncateds", "tasks", "values"}
