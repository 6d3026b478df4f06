from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from KDSegmentatorLib.errors import InvalidSettingsError, JobError, PackError
from KDSegmentatorLib.jobs.messages import (
    REQUEST_NAME,
    BatchRequest,
    Broken,
    Complete,
    Log,
    Message,
    Progressed,
    Request,
    RunChanged,
    SegmentRequest,
    Started,
    format_line,
    parse_line,
    read_request,
    write_request,
)
from KDSegmentatorLib.options import RunOptions
from support.job_processes import changed

PACKS = {"task": "hippocampus", "user_packs": "/home/Jürgen Müller/packs 中文", "shipped_packs": "C:\\Program Files"}
OPTIONS = RunOptions(
    size="x1/4",
    engine="openvino",
    precision="int8",
    device="cpu",
    threads=3,
    mirroring=True,
    labels=("Anterior hippocampus", "Hippocampe postérieur"),
    entropy=True,
    check_input=False,
    region="given",
)
SEGMENT = SegmentRequest(**PACKS, options=OPTIONS, sizes=("x1", "x1/4"), input="/data/ß scan.nrrd")
BATCH = BatchRequest(
    **PACKS, options=OPTIONS, input_folder="/in", inputs=("a.nii", "b/ü.nrrd"), output_folder="/out", suffix=".mha"
)
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


@pytest.mark.parametrize("request_", [SEGMENT, BATCH])
def test_a_request_comes_back_as_it_was(tmp_path: Path, request_: Request) -> None:
    write_request(request_, tmp_path)
    assert read_request(tmp_path) == request_
    assert [path.name for path in tmp_path.iterdir()] == [REQUEST_NAME]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": 1}, "two versions of KDSegmentator"),
        ({"protocol": None}, "two versions of KDSegmentator"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"request": None}, "request"),
    ],
)
def test_what_is_no_request_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_request(SEGMENT, tmp_path)
    path = tmp_path / REQUEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(JobError, match=message):
        read_request(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"protocol": 2'])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / REQUEST_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(JobError):
        read_request(tmp_path)


def test_a_request_that_makes_no_sense_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no input is named"):
        changed(BATCH, inputs=())
    with pytest.raises(JobError, match=r"'a\.nii' is there twice"):
        changed(BATCH, inputs=("a.nii", "a.nii"))
    with pytest.raises(InvalidSettingsError, match="threads must be"):
        changed(SEGMENT, threads=0)
    with pytest.raises(JobError, match="suffix"):
        write_request(changed(BATCH, suffix=".png"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_request_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be read"):
        read_request(tmp_path)


def test_reading_a_request_does_not_load_numpy() -> None:
    """Its libraries look at the number of threads when they are loaded: too early would be for ever."""
    code = "import sys, KDSegmentatorLib.jobs.worker; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


@pytest.mark.parametrize("kind", ["SystemExit", "KDSegmentator", "annotations", ""])
def test_an_error_of_an_unknown_kind_is_an_error_of_the_job(kind: str) -> None:
    assert type(Broken(kind=kind, message="strange").error()) is JobError
    assert type(Broken.of(PackError("none")).error()) is PackError


def received(stream: bytes) -> list[Message]:
    messages = [parse_line(line) for line in stream.decode("utf-8", errors="replace").splitlines(keepends=True)]
    return [message for message in messages if message is not None]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was_on_a_line_of_ascii(message: Message) -> None:
    line = format_line(message)
    assert received(line) == [message]
    assert line.isascii() and line.startswith(b"\n") and line.endswith(b"\n") and line.count(b"\n") == 2


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
        '{"kdseg": 2, "message": {"event": "result"}',
        '{"kdseg": 2, "message": {"event": "dance"}}',
        '{"kdseg": 2, "message": {"event": ["result"]}}',
        '{"kdseg": 2}',
        '{"kdseg": 2, "message": {"event": "progress", "run": 0}}',
        '{"kdseg": 2, "message": {"event": "started", "pid": "12", "version": "1"}}',
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_message_goes_to_the_log(line: str) -> None:
    assert parse_line(line + "\n") == Log(level="output", message=line)


@given(st.text())
def test_no_text_at_all_is_a_reason_to_fail(text: str) -> None:
    message = parse_line(text)
    assert message is None or message == Log(level="output", message=text.strip())


def test_another_version_is_refused() -> None:
    with pytest.raises(JobError, match="restart the application"):
        parse_line('{"kdseg": 1, "event": "started"}')
