from __future__ import annotations

import pytest

from KDSegmentatorLib.errors import CancelledError
from KDSegmentatorLib.inference import progress
from KDSegmentatorLib.inference.progress import Progress, Steps


def test_steps_that_took_no_work_do_not_count_for_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    reports: list[Progress] = []
    steps = Steps("windows", 10, reports.append, None)
    steps.skip(2)
    assert reports[-1].seconds_left is None
    now += 3
    steps.advance()
    steps.skip(4)
    assert [(report.done, report.seconds_left) for report in reports] == [(0, None), (2, None), (3, 21.0), (7, 9.0)]
    now += 3
    steps.advance()
    assert reports[-1].seconds_left == 6.0


def test_it_stops_at_a_step_that_took_no_work() -> None:
    with pytest.raises(CancelledError):
        Steps("windows", 2, None, lambda: True).skip(1)
