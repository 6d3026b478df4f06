"""Batches in processes of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from KDSegmentatorLib.errors import (
    JobError,
)
from KDSegmentatorLib.jobs.batch_files import TABLE_NAME
from KDSegmentatorLib.jobs.launcher import PythonLauncher
from KDSegmentatorLib.jobs.messages import (
    BatchFinished,
    BatchRequest,
    Cancelled,
    Progressed,
    Request,
)
from KDSegmentatorLib.jobs.process import start_batch
from KDSegmentatorLib.jobs.worker_process import Workers
from support.generated_family import write_scan
from support.job_processes import (
    LONG_SECONDS,
    WAIT_FOR_CANCEL,
    failure,
    names,
    until,
    worker_of,
)


@pytest.fixture
def batch(settings: Request, scan: Path, tmp_path: Path) -> BatchRequest:
    write_scan(scan.with_name("b.nii.gz"))
    scan.with_name("bad.nii").write_bytes(b"no image")
    return BatchRequest(
        **msgspec.structs.asdict(settings),
        input_folder=str(scan.parent),
        inputs=("scan.nii.gz", "bad.nii", "b.nii.gz"),
        output_folder=str(tmp_path / "results"),
    )


def test_a_batch_is_ended_and_resumed(batch: BatchRequest, jobs_folder: Path, tmp_path: Path, faulty: Any) -> None:
    output = tmp_path / "results"
    launcher = PythonLauncher(environment=faulty(WAIT_FOR_CANCEL, stage="write", run=2, done=1))
    job = start_batch(batch, workers=Workers(launcher, jobs_folder))
    pid = worker_of(job)
    until(job, lambda event: isinstance(event, Progressed) and (event.run, event.stage) == (2, "write"))
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    assert isinstance(failure(job).error, JobError)
    assert names(output) == ["scan-labels.nii.gz", "scan-record.json"]
    job = start_batch(batch, workers=Workers(launcher, jobs_folder))
    until(job, lambda event: isinstance(event, Progressed) and (event.run, event.stage) == (2, "write"))
    job.cancel()
    assert job.wait(LONG_SECONDS) == Cancelled()
    assert names(output) == ["scan-labels.nii.gz", "scan-record.json"]
    end = start_batch(batch, workers=Workers(temporary_folder=jobs_folder)).wait(LONG_SECONDS)
    assert isinstance(end, BatchFinished), end
    assert [(file.input, file.state) for file in end.files] == [
        ("scan.nii.gz", "skipped"), ("bad.nii", "failed"), ("b.nii.gz", "done"),
    ]  # fmt: skip
    assert end.table == str(output / TABLE_NAME)
    assert names(jobs_folder) == []
