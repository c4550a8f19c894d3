import numpy as np
import pytest

from callbacks.plasticity import latest_observations


def observations(*values):
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_keeps_the_latest_in_order_however_they_arrive(size):
    everything = np.arange(23, dtype=np.float32)[:, None]
    kept = None
    for start, stop in ((0, 2), (2, 10), (10, 11), (11, 23)):
        kept = latest_observations(kept, everything[start:stop], size)
        assert np.array_equal(kept, everything[:stop][-size:])


def test_does_not_alias_the_fragment():
    new = observations(1, 2, 3)
    kept = latest_observations(None, new, 3)
    new[:] = 0
    assert kept.ravel().tolist() == [1, 2, 3]
