"""One bar and one remaining time that only move forward."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from KDSegmentatorLib.jobs.messages import Progressed
from KDSegmentatorPanel.run_progress import RunProgress
from support.panel_doubles import Clock

STAGES = ("load", "region-windows", "preprocess", "windows", "restore", "write")


def at(stage: str, done: int, total: int, run: int = 0, runs: int = 1) -> Progressed:
    return Progressed(run=run, runs=runs, stage=stage, done=done, total=total, seconds_left=None)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.sampled_from(STAGES), st.integers(0, 9), st.floats(0, 30))),
    st.one_of(st.none(), st.floats(0.1, 600)),
    st.booleans(),
)
def test_nothing_ever_goes_back(steps: list[tuple[str, int, float]], expected: float | None, warm: bool) -> None:
    clock = Clock()
    progress = RunProgress(warm=warm, chained=True, expected=expected, clock=clock)
    share, said = 0.0, float("inf")
    for stage, done, seconds in steps:
        clock.now += seconds
        progress.take(at(stage, done, 9))
        assert share <= progress.share <= 1
        share = progress.share
        left = progress.seconds_left()
        if left is not None:
            assert 0 <= left <= said
            said = left


def test_the_last_step_of_the_last_size_is_all() -> None:
    progress = RunProgress(runs=2, clock=Clock())
    progress.take(at("write", 1, 1, run=0, runs=2))
    assert 0.4 < progress.share < 0.6
    progress.take(at("write", 1, 1, run=1, runs=2))
    assert progress.share > 0.999


def test_the_estimate_counts_until_the_run_shows_its_pace() -> None:
    clock = Clock()
    progress = RunProgress(expected=20.0, clock=clock)
    assert progress.seconds_left() == 20
    clock.now = 5
    assert progress.seconds_left() == 15
    progress.take(at("windows", 12, 12))  # nearly done, long before its time
    left = progress.seconds_left()
    assert left is not None
    assert left < 2


def test_a_run_that_is_late_says_no_time_rather_than_a_growing_one() -> None:
    clock = Clock()
    progress = RunProgress(expected=10.0, clock=clock)
    clock.now = 9
    assert progress.seconds_left() == 1
    clock.now = 30
    progress.take(at("windows", 3, 12))
    assert progress.seconds_left() is None
