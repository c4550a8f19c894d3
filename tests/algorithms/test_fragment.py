import numpy as np
import pytest

from lop_ray.algorithms.ppo.fragment import Fragment


def make(steps=4, copies=6):
    grid = np.arange(steps * copies, dtype=np.float32).reshape(steps, copies)
    return Fragment(
        obs=np.stack([grid, -grid], -1),
        actions=grid[..., None],
        logp=grid,
        rewards=grid,
        terminateds=np.zeros((steps, copies), bool),
        truncateds=grid == 9,
        final_values_at=np.array([[1, 3]]),
        final_obs=np.array([[7.0, 8.0]], np.float32),
        last_obs=np.arange(copies * 2.0, dtype=np.float32).reshape(copies, 2),
        tasks=grid.astype(np.int32) // 10,
        task=np.arange(copies),
    )


def test_counts_steps():
    assert len(make()) == make().env_steps() == make().agent_steps() == 24


def test_shards_keep_trajectories_whole_and_together_are_everything():
    whole = make()
    parts = [whole[:8], whole.slice(slice(8, None))]
    assert [part.rewards.shape for part in parts] == [(4, 2), (4, 4)]
    for name in ("obs", "actions", "logp", "rewards", "terminateds", "truncateds", "tasks"):
        joined = np.concatenate([getattr(part, name) for part in parts], 1)
        assert np.array_equal(joined, getattr(whole, name))
    assert np.array_equal(np.concatenate([part.last_obs for part in parts]), whole.last_obs)
    assert len(parts[0].final_obs) == 0
    assert parts[1].final_values_at.tolist() == [[1, 1]]
    assert parts[1].truncateds[1, 1]


def test_refuses_to_cut_a_trajectory():
    with pytest.raises(ValueError, match="cannot be cut at 0:6"):
        make()[:6]
