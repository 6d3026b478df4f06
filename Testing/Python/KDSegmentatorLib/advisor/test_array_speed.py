from __future__ import annotations

import pytest

from KDSegmentatorLib.advisor import array_speed
from KDSegmentatorLib.advisor.array_speed import REFERENCE_SECONDS, array_trial


class Clock:
    """Time that goes on by what it is told, each time that it is asked; the last step stays."""

    def __init__(self, *steps: float) -> None:
        self._steps = list(steps)
        self._now = 0.0

    def __call__(self) -> float:
        self._now += self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        return self._now


def made_up(monkeypatch: pytest.MonkeyPatch, platform: str, wall: Clock, computed: Clock) -> None:
    monkeypatch.setattr(array_speed.sys, "platform", platform)
    monkeypatch.setattr(array_speed.time, "perf_counter", wall)
    monkeypatch.setattr(array_speed.time, "thread_time", computed)


def test_it_measures_something_here() -> None:
    trial = array_trial()
    assert 0.01 < trial.speed < 100
    assert trial.interruption > 0.9  # a thread does not compute for longer than time passes


def test_the_fastest_repetition_counts_in_time_that_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = Clock(1, 9e-3, 1, REFERENCE_SECONDS / 2, 1, 9e-3, 1, 9e-3, 9e-3)
    made_up(monkeypatch, "linux", Clock(18e-3), computed)
    assert array_trial().speed == pytest.approx(2.0)


def test_other_programs_show_as_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, "linux", Clock(3 * REFERENCE_SECONDS), Clock(REFERENCE_SECONDS))
    trial = array_trial()
    assert trial.speed == pytest.approx(1.0)
    assert trial.interruption == pytest.approx(3.0)


def test_windows_counts_a_threads_time_too_coarsely(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, "win32", Clock(REFERENCE_SECONDS), Clock(0.0))
    trial = array_trial()
    assert (trial.speed, trial.interruption) == (pytest.approx(1.0), 1.0)
