"""Event study: known steps are found, drift is not taken for a response, and numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lop_ray.analysis.causality.event_study import event_study, rises


def stepped(seed: int, drop: float, drift: float = 0.0, points: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A series that falls by `drop` at each of three events, over a drift and noise."""
    draw = np.random.default_rng(seed)
    events = np.array([15, 30, 45])
    fallen = (np.arange(points)[:, None] >= events).sum(axis=1)
    return drift * np.arange(points) - drop * fallen + 0.2 * draw.normal(size=points), events


def test_by_hand():
    study = event_study([np.array([1.0, 3.0, 2.0, 6.0, 8.0, 8.0])], [[3]], 2)
    # Before: (3 + 2) / 2 = 2.5; after: (6 + 8) / 2 = 7.
    assert study.effects[0] == pytest.approx(4.5)
    assert study.paths[0] == pytest.approx([0.5, -0.5, 3.5, 5.5])
    assert study.offsets.tolist() == [-2, -1, 0, 1]
    assert study.events.tolist() == [1]
    # Times 2 and 4 are the only others with a whole window, and both are within 2 of the event.
    placebos = [(2 + 6) / 2 - (1 + 3) / 2, (8 + 8) / 2 - (2 + 6) / 2]
    assert min(placebos) <= study.placebos[0] <= max(placebos)


def test_a_step_at_events_is_found_with_its_size():
    runs = [stepped(seed, 2.0) for seed in range(6)]
    found = event_study([y for y, _ in runs], [e for _, e in runs], 4).effect
    assert found.low < -2.0 < found.high
    assert found.high < -1.5
    assert found.n == 6


def test_a_drift_without_a_response_is_no_effect():
    runs = [stepped(seed, 0.0, drift=-0.5) for seed in range(8)]
    study = event_study([y for y, _ in runs], [e for _, e in runs], 4)
    assert study.effects.mean() == pytest.approx(-2.0, abs=0.2)  # 4 points at -0.5 each
    assert study.effect.low < 0 < study.effect.high
    assert abs(study.effect.value) < 0.2


def test_placebo_paths_have_no_step():
    y, events = stepped(0, 2.0)
    study = event_study([y], [events], 4)
    assert study.path().value[4] < -1.5
    assert abs(study.path(placebo=True).value[4]) < 0.3


def test_events_without_a_whole_window_do_not_count():
    study = event_study([np.arange(6.0), np.arange(6.0)], [[1, 6], [3]], 2)
    assert study.events.tolist() == [0, 1]
    assert np.isnan(study.effects[0])
    assert study.effect.n == 1


def test_rises_are_the_first_points_after():
    assert rises([0, 0, 3, 3, 2, 4], 1).tolist() == [2, 5]
    assert rises([0, 0, 3, 3, 2, 4], 3).tolist() == [2]
    with pytest.raises(ValueError, match="least is 0"):
        rises([0, 1], 0)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="1 series and 2 lists of events"):
        event_study([np.zeros(5)], [[1], [2]])
    with pytest.raises(ValueError, match="window is 0"):
        event_study([np.zeros(5)], [[1]], 0)
