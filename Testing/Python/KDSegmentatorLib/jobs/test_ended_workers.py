"""Jobs that are cancelled, and workers that end too early, too late or not at all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import (
    JobError,
)
from KDSegmentatorLib.jobs import worker_process
from KDSegmentatorLib.jobs.messages import (
    Cancelled,
    Log,
    Progressed,
    Segmented,
)
from support.job_processes import (
    HANG,
    LONG_SECONDS,
    WAIT_FOR_CANCEL,
    Start,
    at,
    failure,
    names,
    released,
    until,
    worker_of,
)


@pytest.mark.parametrize("stage", ["load", "preprocess", "windows", "restore", "write"])
def test_cancelling_at_each_stage(start: Start, jobs_folder: Path, stage: str) -> None:
    job = start(WAIT_FOR_CANCEL, stage=stage)
    until(job, at(stage))
    job.cancel()
    job.cancel()
    end = job.wait(LONG_SECONDS)
    assert end == Cancelled()
    events = job.poll()
    assert events[-1] == end
    assert all(event.stage == stage for event in events if isinstance(event, Progressed))
    assert names(jobs_folder) == []


def test_cancelling_before_there_is_a_worker(start: Start, jobs_folder: Path) -> None:
    job = start()
    job.cancel()
    assert job.wait(LONG_SECONDS) == Cancelled()
    assert names(jobs_folder) == []


def test_cancelling_what_has_ended_changes_nothing(start: Start) -> None:
    job = start()
    end = job.wait(LONG_SECONDS)
    job.cancel()
    assert isinstance(end, Segmented)
    assert job.wait(0) is end
    assert job.poll()[-1] is end


def test_a_worker_that_does_not_listen_is_ended_with_its_processes(
    start: Start, jobs_folder: Path, tmp_path: Path
) -> None:
    locks = tmp_path / "child.lock", tmp_path / "worker.lock"
    job = start(HANG.format(child=str(locks[0]), worker=str(locks[1])), stage="windows")
    until(job, lambda event: isinstance(event, Log) and event.message == "hanging")
    job.cancel()
    assert job.wait(LONG_SECONDS) == Cancelled()
    assert all(released(lock) for lock in locks)
    assert names(jobs_folder) == []


def test_a_worker_that_was_killed(start: Start, jobs_folder: Path) -> None:
    job = start(WAIT_FOR_CANCEL, stage="windows")
    pid = worker_of(job)
    until(job, at("windows"))
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    error = failure(job).error
    assert isinstance(error, JobError)
    assert "stopped before it was done" in str(error)
    assert "take a smaller size" in str(error)
    assert names(jobs_folder) == []


def test_a_worker_that_crashes_leaves_its_place_in_the_log(start: Start, jobs_folder: Path) -> None:
    failed = failure(start("import ctypes; ctypes.string_at(0)", stage="windows"))
    assert isinstance(failed.error, JobError)
    assert "stopped before it was done" in str(failed.error)
    assert any("string_at" in line for line in failed.log)
    assert names(jobs_folder) == []


def test_a_worker_that_ends_without_a_result(start: Start) -> None:
    assert "stopped before it was done (exit code 0)" in str(
        failure(start("import os; os._exit(0)", stage="write")).error
    )


@pytest.mark.parametrize("name", ["result.json", "size-0.json", "size-0-0.npy"])
@pytest.mark.parametrize("change", ["path.write_bytes(path.read_bytes()[:-7])", "path.unlink()"])
def test_a_result_that_is_truncated_or_missing(start: Start, jobs_folder: Path, name: str, change: str) -> None:
    job = start(
        f"""
        from pathlib import Path
        from KDSegmentatorLib.jobs import reporter
        send = reporter.Reporter.send
        def sending(self, message):
            if type(message).__name__ == "Complete":
                path = Path("1", {name!r})
                {change}
            send(self, message)
        reporter.Reporter.send = sending
        """,
        entropy=True,
    )
    error = failure(job).error
    assert isinstance(error, JobError)
    assert "not complete" in str(error) or "stopped before it was done" in str(error)
    assert names(jobs_folder) == []


def test_a_worker_that_crashes_after_its_result_does_no_harm(start: Start) -> None:
    """Native libraries do so, when they are unloaded."""
    job = start("import atexit, ctypes; atexit.register(ctypes.string_at, 0)")
    assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()


def test_a_worker_that_does_not_end_after_its_result_does_no_harm(
    start: Start, monkeypatch: pytest.MonkeyPatch, jobs_folder: Path
) -> None:
    monkeypatch.setattr(worker_process, "ENDING_SECONDS", 0.1)
    job = start("import atexit, time; atexit.register(time.sleep, 600)")
    assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()
    assert names(jobs_folder) == []


def test_a_process_that_outlives_the_worker_is_ended(start: Start, tmp_path: Path) -> None:
    code = HANG.partition("from KDSegmentatorLib.io.lock import locked\nfrom pathlib")[0]
    lock = tmp_path / "child.lock"
    code = code.replace(", stdout=subprocess.PIPE)", ")").replace("child.stdout.readline()", "")
    job = start(code.format(child=str(lock)))
    until(job, lambda event: isinstance(event, Log) and event.message == "held")
    assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()
    assert released(lock)
