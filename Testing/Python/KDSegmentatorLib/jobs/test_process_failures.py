"""What can go wrong with a job, in words."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.errors import (
    EngineUnavailableError,
    InsufficientMemoryError,
    JobError,
    PackError,
    UnsuitableVolumeError,
)
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs import folder as folder_module
from KDSegmentatorLib.jobs.launcher import PythonLauncher
from KDSegmentatorLib.jobs.messages import Request
from KDSegmentatorLib.jobs.process import start_segmentation
from KDSegmentatorLib.jobs.worker_process import Workers
from support.job_processes import (
    Start,
    failure,
    names,
    segment,
)


def test_a_full_disk_when_the_volume_is_handed_over(
    start: Start, jobs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, array: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module, "_write_all", full)
    job = start()
    error = failure(job).error
    assert isinstance(error, JobError)
    assert "the disk is full" in str(error)
    assert names(jobs_folder) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process exist on Linux and macOS")
def test_a_full_disk_when_the_result_is_written(start: Start, jobs_folder: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    error = failure(start(code, stage="restore")).error
    assert isinstance(error, JobError)
    assert "the disk is full" in str(error)
    assert names(jobs_folder) == []


@pytest.mark.parametrize(
    ("changes", "sizes", "kind"),
    [
        ({"task": "spleen"}, ("x1",), PackError),
        ({"device": "cuda"}, ("x1",), EngineUnavailableError),
    ],
)
def test_errors_keep_their_kind(
    settings: Request, volume: Volume, jobs_folder: Path, changes: dict[str, Any], sizes: tuple[str, ...], kind: type
) -> None:
    request = segment(settings, **changes, sizes=sizes)
    assert (
        type(failure(start_segmentation(request, volume, workers=Workers(temporary_folder=jobs_folder))).error) is kind
    )
    assert names(jobs_folder) == []


def test_too_little_memory_is_said_so(start: Start) -> None:
    assert isinstance(failure(start("raise MemoryError", stage="windows")).error, InsufficientMemoryError)


def test_a_volume_that_is_no_scan(settings: Request, volume: Volume, jobs_folder: Path) -> None:
    labels = volume.with_voxels((volume.voxels > 100).astype(np.uint8))
    request = segment(settings, sizes=("x1",))
    assert isinstance(
        failure(start_segmentation(request, labels, workers=Workers(temporary_folder=jobs_folder))).error,
        UnsuitableVolumeError,
    )


def test_a_defect_of_the_worker_comes_with_its_log(start: Start) -> None:
    failed = failure(start("raise KeyError('surprise')", stage="windows"))
    assert "surprise" in str(failed.error)
    assert any(line.startswith("Traceback") for line in failed.log)


def test_a_python_that_is_not_there(settings: Request, volume: Volume, jobs_folder: Path, tmp_path: Path) -> None:
    request = segment(settings, sizes=("x1",))
    launcher = PythonLauncher(tmp_path / "no python")
    error = failure(start_segmentation(request, volume, workers=Workers(launcher, jobs_folder))).error
    assert isinstance(error, JobError)
    assert "Python cannot be started" in str(error)
    assert names(jobs_folder) == []


def test_a_python_that_cannot_load_the_library(start: Start) -> None:
    failed = failure(start("import sys; sys.modules['KDSegmentatorLib'] = None"))
    assert isinstance(failed.error, JobError)
    assert any("KDSegmentatorLib" in line for line in failed.log)


def test_another_version_of_the_library(start: Start, jobs_folder: Path) -> None:
    job = start("from KDSegmentatorLib.jobs import messages; messages.PROTOCOL_VERSION = 1")
    assert "restart the application" in str(failure(job).error)
    assert names(jobs_folder) == []


def test_a_folder_for_temporary_files_that_is_not_there(settings: Request, volume: Volume, tmp_path: Path) -> None:
    request = segment(settings, sizes=("x1",))
    error = failure(start_segmentation(request, volume, workers=Workers(temporary_folder=tmp_path / "missing"))).error
    assert isinstance(error, JobError)


def test_a_defect_of_our_own_does_not_leave_the_owner_waiting(
    settings: Request, volume: Volume, jobs_folder: Path
) -> None:
    def broken(folder: Path) -> Any:
        raise ZeroDivisionError

    request = segment(settings, sizes=("x1",))
    job = start_segmentation(request, volume, workers=Workers(broken, jobs_folder))
    assert "ZeroDivisionError" in str(failure(job).error)
    assert names(jobs_folder) == []
