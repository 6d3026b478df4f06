"""The worker, in this process; as a process of its own it is in test_process.py."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from KDSegmentatorLib.errors import CancelledError, PackError
from KDSegmentatorLib.jobs import worker
from KDSegmentatorLib.jobs.messages import CANCEL_NAME, RESULT_NAME, Broken, Job, Request, write_request
from KDSegmentatorLib.jobs.run import write_result
from KDSegmentatorLib.jobs.worker import Cancellation
from support.job_processes import segment


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return the other end of the worker's standard input; signals are as before afterwards."""
    reading, writing = os.pipe()
    monkeypatch.setattr(worker, "_STDIN", reading)
    monkeypatch.setattr(worker, "_received", bytearray())
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield writing
    for number, handler in before.items():
        signal.signal(number, handler)
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)


@pytest.fixture
def folder(jobs_folder: Path, volume: Any, settings: Request) -> Path:
    """Return a job's folder with a request and a volume."""
    write_request(segment(settings, threads=None), jobs_folder)
    write_result(volume, jobs_folder / "input.json")
    return jobs_folder


def last(reporter: Any) -> Any:
    return reporter.messages[-1]


def test_a_job_leaves_its_result(folder: Path, owner: int, reporter: Any) -> None:
    assert worker._do(folder, reporter) == worker.SUCCESS
    assert (folder / RESULT_NAME).exists()


def test_a_cancel_file_stops_it(folder: Path, owner: int, reporter: Any) -> None:
    (folder / CANCEL_NAME).touch()
    assert worker._do(folder, reporter) == worker.CANCELLED
    assert last(reporter) == Broken.of(CancelledError("cancelled; nothing was written"))
    assert not (folder / RESULT_NAME).exists()


def test_an_owner_who_has_gone_stops_it(folder: Path, owner: int, reporter: Any) -> None:
    os.close(owner)
    assert worker._do(folder, reporter) == worker.CANCELLED
    assert not (folder / RESULT_NAME).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_system_may_ask_to_stop(tmp_path: Path, owner: int, number: signal.Signals) -> None:
    cancellation = Cancellation(tmp_path / CANCEL_NAME)
    cancellation.listen()
    assert not cancellation.requested()
    signal.raise_signal(number)
    assert cancellation.requested()


def test_the_cancel_file_is_a_reason_to_stop_for_good(tmp_path: Path, owner: int) -> None:
    cancellation = Cancellation(tmp_path / CANCEL_NAME)
    (tmp_path / CANCEL_NAME).touch()
    assert cancellation.requested()
    (tmp_path / CANCEL_NAME).unlink()
    assert cancellation.requested()


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (PackError("no pack"), "PackError", "no pack"),
        (MemoryError(), "InsufficientMemoryError", "close other programs"),
        (KeyError("surprise"), "JobError", "failed unexpectedly (KeyError: 'surprise')"),
    ],
)
def test_an_error_keeps_its_kind(
    folder: Path, owner: int, reporter: Any, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: str, words: str
) -> None:
    def failing(*arguments: Any) -> None:
        raise raised

    monkeypatch.setattr(worker, "_run", failing)
    assert worker._do(folder, reporter) == worker.FAILURE
    assert last(reporter).kind == kind
    assert words in last(reporter).message


def test_jobs_come_one_after_another_until_nobody_sends_any(owner: int) -> None:
    jobs = [Job(folder="1", stay=2.5), Job(folder="2")]
    os.write(owner, b"".join(msgspec.json.encode(job) + b"\n" for job in jobs))
    assert [worker._next_job(5), worker._next_job(5)] == jobs
    os.close(owner)
    assert worker._next_job(5) is None


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of another kind")
def test_a_worker_that_waits_ends_in_time_and_with_its_owner(owner: int) -> None:
    assert worker._next_job(0.05) is None
    os.close(owner)
    assert worker._next_job(600) is None


def test_a_worker_that_waits_ends_when_memory_is_short(owner: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_memory_is_short", lambda: True)
    assert worker._next_job(30) is None
