"""Workers that are several processes, and workers whose owner is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.folder import owned_folder
from KDSegmentatorLib.jobs.launcher import PythonLauncher
from KDSegmentatorLib.jobs.messages import (
    Cancelled,
    Log,
    Request,
    Segmented,
)
from KDSegmentatorLib.jobs.process import JobProcess, start_segmentation
from KDSegmentatorLib.jobs.worker_process import Workers
from support.job_processes import (
    HANG,
    LONG_SECONDS,
    failure,
    launching_program,
    names,
    released,
    segment,
    until,
)


@pytest.fixture
def two_processes(tmp_path: Path) -> Path:
    return launching_program(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="a script is a program on Linux and macOS")
class TestPythonSlicer:
    """A worker that is the child of another process."""

    def start(
        self, program: Path, environment: dict[str, str], settings: Request, volume: Volume, folder: Path
    ) -> JobProcess:
        return start_segmentation(
            segment(settings, sizes=("x1/4",)),
            volume,
            workers=Workers(PythonLauncher(program, environment), folder),
        )

    def test_it_works(
        self, two_processes: Path, settings: Request, volume: Volume, jobs_folder: Path, faulty: Any
    ) -> None:
        job = self.start(two_processes, faulty(""), settings, volume, jobs_folder)
        assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()

    def test_both_are_ended(
        self, two_processes: Path, settings: Request, volume: Volume, jobs_folder: Path, faulty: Any, tmp_path: Path
    ) -> None:
        locks = tmp_path / "child.lock", tmp_path / "worker.lock"
        code = HANG.format(child=str(locks[0]), worker=str(locks[1]))
        job = self.start(two_processes, faulty(code, stage="windows"), settings, volume, jobs_folder)
        until(job, lambda event: isinstance(event, Log) and event.message == "hanging")
        job.cancel()
        assert job.wait(LONG_SECONDS) == Cancelled()
        assert all(released(lock) for lock in locks)

    def test_a_worker_whose_launcher_was_killed_is_ended(
        self, two_processes: Path, settings: Request, volume: Volume, jobs_folder: Path, faulty: Any, tmp_path: Path
    ) -> None:
        locks = tmp_path / "child.lock", tmp_path / "worker.lock"
        hang = HANG.format(child=str(locks[0]), worker=str(locks[1])).replace(
            'print("hanging", flush=True)', 'import os; print("launcher", os.getppid(), flush=True)'
        )
        job = self.start(two_processes, faulty(hang, stage="windows"), settings, volume, jobs_folder)
        event = until(job, lambda event: isinstance(event, Log) and event.message.startswith("launcher"))
        assert isinstance(event, Log)
        os.kill(int(event.message.split()[1]), signal.SIGKILL)
        assert "stopped before it was done" in str(failure(job).error)
        assert all(released(lock) for lock in locks)
        assert names(jobs_folder) == []


OWNER = """
import os, sys
from pathlib import Path
import numpy as np
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.messages import Log
from KDSegmentatorLib.jobs.process import start_segmentation
from KDSegmentatorLib.jobs.messages import read_request
from KDSegmentatorLib.jobs.worker_process import Workers
request = read_request(Path(sys.argv[1]))
volume = Volume(np.random.default_rng(3).gamma(2, 100, size=(20, 24, 18)).astype(np.float32), (1, 1, 1))
job = start_segmentation(request, volume, workers=Workers(temporary_folder=Path(sys.argv[1])))
while job.running:
    if any(isinstance(event, Log) and event.message == "held" for event in job.poll()):
        os._exit(7)
    job.wait(0.01)
"""


def test_a_worker_whose_owner_is_gone_stops_and_the_next_job_removes_what_is_left(
    settings: Request, jobs_folder: Path, tmp_path: Path, faulty: Any
) -> None:
    """The work goes on as soon as the owner is gone, to its next step, at which the worker has to notice."""
    from KDSegmentatorLib.jobs.messages import write_request

    lock, after = tmp_path / "worker.lock", tmp_path / "after"
    environment = faulty(
        f"""
        import atexit, contextlib, time
        from pathlib import Path
        from KDSegmentatorLib.jobs.worker import stdin_closed
        from KDSegmentatorLib.io.lock import locked
        globals()["lock"] = contextlib.ExitStack()
        lock.enter_context(locked(Path({str(lock)!r}), 60))
        print("held", flush=True)
        while not stdin_closed():
            time.sleep(0.01)
        import sys
        from KDSegmentatorLib.jobs import worker
        main = sys.modules["__main__"]
        gave_up = main._gave_up
        def giving_up(error, *rest):
            Path({str(after)!r}).write_text(type(error).__name__)
            return gave_up(error, *rest)
        main._gave_up = giving_up
        """,
        stage="windows",
    )
    write_request(segment(settings, sizes=("x1/4",)), jobs_folder)
    owner = subprocess.run(
        [sys.executable, "-c", OWNER, str(jobs_folder)], env=environment, timeout=LONG_SECONDS, check=False
    )
    assert owner.returncode == 7
    assert released(lock)
    assert after.read_text() == "CancelledError"
    (jobs_folder / "request.json").unlink()
    assert len(names(jobs_folder)) == 2
    with owned_folder(jobs_folder):
        pass
    assert names(jobs_folder) == []
