from __future__ import annotations

import io

import pytest

from KDSegmentatorLib.cli.terminal import ProgressLine, describe, describe_seconds
from KDSegmentatorLib.inference.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def step(done: int, stage: str = "windows", left: float | None = 8.0) -> Progress:
    return Progress(stage=stage, done=done, total=10, seconds_left=left)


def test_words() -> None:
    assert describe(step(3)) == "Segmenting 3/10, 8 s left"
    assert describe(step(0, left=None)) == "Segmenting 0/10"
    assert describe(step(10, left=0.0)) == "Segmenting 10/10"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (4800, "1 h 20 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert describe_seconds(seconds) == words


def test_a_terminal_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("KDSegmentatorLib.cli.terminal._TERMINAL_SECONDS", 0.0)
    stream = Terminal()
    line = ProgressLine(stream)
    for progress in (step(0, "preprocess"), step(1), step(10, left=0.0)):
        line(progress)
    line.clear()
    shown = stream.getvalue()
    assert "\n" not in shown
    assert shown.count("\r") == 5
    # the shorter text covers the longer one before it
    assert "\rSegmenting 10/10         " in shown
    assert shown.endswith("\r")


def test_a_file_gets_few_lines() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    for stage in ("preprocess", "windows", "restore"):
        for done in range(11):
            line(step(done, stage))
    line.clear()
    assert stream.getvalue().splitlines() == [
        "Preparing 0/10, 8 s left",
        "Segmenting 0/10, 8 s left",
        "Restoring 0/10, 8 s left",
    ]
