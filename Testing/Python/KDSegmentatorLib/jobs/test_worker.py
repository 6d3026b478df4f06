"""The worker as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.events import Log, Started
from KDSegmentatorLib.jobs.exchange import write_exchange
from KDSegmentatorLib.jobs.lines import Broken, Complete, Message, parse_line
from KDSegmentatorLib.jobs.request import CANCEL_NAME, INPUT_NAME, REQUEST_NAME, SegmentRequest, Settings, write_request
from KDSegmentatorLib.jobs.stored import RESULT_NAME

COMMAND = [sys.executable, "-m", "KDSegmentatorLib.jobs.worker", REQUEST_NAME]


@pytest.fixture
def folder(jobs_folder: Path, volume: Volume, settings: Settings) -> Path:
    """Return a job's folder with a request and a volume."""
    write_request(SegmentRequest(settings=settings, sizes=("x1/4",)), jobs_folder)
    write_exchange(volume, jobs_folder / INPUT_NAME)
    return jobs_folder


def run(folder: Path, environment: dict[str, str], *options: str) -> tuple[int, list[Message]]:
    """Run a worker whose standard input is closed; return its exit code and messages."""
    done = subprocess.run(
        [*COMMAND, *options],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    lines = done.stdout.decode("utf-8", errors="replace").splitlines()
    return done.returncode, [message for line in lines if (message := parse_line(line)) is not None]


def test_a_job_from_start_to_end(folder: Path, faulty: Any) -> None:
    code, messages = run(folder, faulty(""))
    assert code == 0, messages
    assert isinstance(messages[0], Started)
    assert messages[-1] == Complete()
    assert sorted(path.name for path in folder.iterdir()) == [INPUT_NAME, "labels-0.npy", REQUEST_NAME, RESULT_NAME]


def test_the_libraries_are_told_the_number_of_threads_before_they_are_loaded(folder: Path, faulty: Any) -> None:
    print_threads = "import os, numpy; print(*(os.environ[n] for n in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS')))"
    code, messages = run(folder, faulty(print_threads, stage="load"))
    assert code == 0
    assert Log(level="output", message="1 1") in messages


def test_a_cancel_file_stops_it(folder: Path, faulty: Any) -> None:
    (folder / CANCEL_NAME).touch()
    code, messages = run(folder, faulty(""))
    assert code == 130
    assert messages[-1] == Broken(kind="CancelledError", message="cancelled; nothing was written")
    assert not (folder / RESULT_NAME).exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("stage", ["load", "windows"])
def test_the_system_stops_it(folder: Path, faulty: Any, name: str, stage: str) -> None:
    code, messages = run(folder, faulty(f"import signal; signal.raise_signal(signal.{name})", stage=stage))
    assert code == 130
    assert isinstance(messages[-1], Broken)
    assert messages[-1].kind == "CancelledError"
    assert not (folder / RESULT_NAME).exists()


def test_an_owner_who_has_gone_stops_it(folder: Path, faulty: Any) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading) as closed:
        process = subprocess.run(
            [*COMMAND, "--until-stdin-closes"],
            cwd=folder,
            env=faulty(""),
            stdin=closed,
            stdout=subprocess.PIPE,
            timeout=300,
            check=False,
        )
    assert process.returncode == 130
    assert not (folder / RESULT_NAME).exists()


def test_nobody_to_talk_to_is_no_reason_to_fail(folder: Path, faulty: Any) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as broken:
        process = subprocess.run(
            COMMAND, cwd=folder, env=faulty(""), stdin=subprocess.DEVNULL, stdout=broken, timeout=300, check=False
        )
    assert process.returncode == 0
    assert (folder / RESULT_NAME).exists()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"task": "spleen"}, "PackError"), ({"device": "cuda"}, "EngineUnavailableError")],
)
def test_an_error_keeps_its_kind(
    folder: Path, settings: Settings, faulty: Any, changes: dict[str, str], kind: str
) -> None:
    write_request(SegmentRequest(settings=replace(settings, **changes), sizes=("x1",)), folder)  # type: ignore[arg-type]
    code, messages = run(folder, faulty(""))
    assert code == 1
    assert isinstance(messages[-1], Broken)
    assert messages[-1].kind == kind


def test_a_request_that_is_damaged(folder: Path, faulty: Any) -> None:
    (folder / REQUEST_NAME).write_text("{", encoding="utf-8")
    code, messages = run(folder, faulty(""))
    assert code == 1
    assert isinstance(messages[-1], Broken)
    assert messages[-1].kind == "JobError"


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        ("MemoryError()", "InsufficientMemoryError", "close other programs"),
        ("KeyError('surprise')", "JobError", "failed unexpectedly (KeyError: 'surprise')"),
    ],
)
def test_an_error_that_nobody_thought_of(folder: Path, faulty: Any, raised: str, kind: str, words: str) -> None:
    code, messages = run(folder, faulty(f"raise {raised}", stage="load"))
    assert code == 1
    assert isinstance(messages[-1], Broken)
    assert messages[-1].kind == kind
    assert words in messages[-1].message
    if kind == "JobError":
        assert any(isinstance(each, Log) and "Traceback" in each.message for each in messages)


def test_warnings_of_the_library_are_passed_on(folder: Path, faulty: Any) -> None:
    code, messages = run(folder, faulty("import warnings; warnings.warn('old', UserWarning)", stage="windows"))
    assert code == 0
    assert any(isinstance(each, Log) and each.level == "warning" and "old" in each.message for each in messages)
