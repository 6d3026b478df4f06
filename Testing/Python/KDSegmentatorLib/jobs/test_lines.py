from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from KDSegmentatorLib.errors import JobError
from KDSegmentatorLib.jobs.events import Log, Progressed, RunChanged, Started
from KDSegmentatorLib.jobs.lines import Broken, Complete, Message, format_line, parse_line

PROGRESS = Progressed(run=0, runs=2, stage="windows", done=5, total=8, seconds_left=2.1)
MESSAGES: list[Message] = [
    Started(pid=12, version="0.1.0"),
    Log(level="warning", message="two\nlines, 中文 and \x1b"),
    PROGRESS,
    Progressed(run=1, runs=2, stage="load", done=0, total=2, seconds_left=None),
    RunChanged(run=1, runs=2, name="ü/scan.nii.gz", state="failed", message="cannot read it"),
    Complete(),
    Broken(kind="PackError", message="no such pack"),
]


def received(stream: bytes) -> list[Message]:
    messages = [parse_line(line) for line in stream.decode("utf-8", errors="replace").splitlines(keepends=True)]
    return [message for message in messages if message is not None]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert received(format_line(message)) == [message]


def test_a_line_is_one_line_of_ascii() -> None:
    for message in MESSAGES:
        text = format_line(message).decode("ascii")
        assert text.startswith("\n")
        assert text.endswith("\n")
        assert text.count("\n") == 2


def test_the_format_is_what_the_documentation_says() -> None:
    assert json.loads(format_line(PROGRESS)) == {
        "kdseg": 1, "event": "progress",
        "run": 0, "runs": 2, "stage": "windows", "done": 5, "total": 8, "seconds_left": 2.1,
    }  # fmt: skip


def test_what_libraries_print_goes_to_the_log_and_harms_no_message() -> None:
    stream = b"[W] no GPU" + format_line(PROGRESS) + b"100% \xff\xfe\r\n" + format_line(Complete()) + b"bye"
    assert received(stream) == [
        Log(level="output", message="[W] no GPU"),
        PROGRESS,
        Log(level="output", message="100% \ufffd\ufffd"),
        Complete(),
        Log(level="output", message="bye"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        '{"event": "result"}',
        '{"kdseg": 1, "event": "result"',
        '{"kdseg": 1, "event": "dance"}',
        '{"kdseg": 1, "event": ["result"]}',
        '{"kdseg": 1}',
        '{"kdseg": 1, "event": "progress", "run": 0}',
        '{"kdseg": 1, "event": "started", "pid": "12", "version": "1"}',
        '{"kdseg": 1, "event": "result", "event": "result"}',
        '{"kdseg": 1, "event": "result", "extra": 1}',
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_message_goes_to_the_log(line: str) -> None:
    assert parse_line(line + "\n") == Log(level="output", message=line)


@given(st.text())
def test_no_text_at_all_is_a_reason_to_fail(text: str) -> None:
    message = parse_line(text)
    assert message is None or message == Log(level="output", message=text.strip())


@pytest.mark.parametrize("line", ["", "\n", " \r\n"])
def test_empty_lines_are_nothing(line: str) -> None:
    assert parse_line(line) is None


def test_another_version_is_refused() -> None:
    with pytest.raises(JobError, match="restart the application"):
        parse_line('{"kdseg": 2, "event": "started"}')
