"""Jobs with real workers, from start to end."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from KDSegmentatorLib.errors import (
    PackError,
)
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.batch_files import TABLE_NAME
from KDSegmentatorLib.jobs.messages import (
    BatchFinished,
    BatchRequest,
    Event,
    Log,
    Progressed,
    Request,
    RunChanged,
    Segmented,
    Started,
)
from KDSegmentatorLib.jobs.process import start_batch, start_segmentation
from KDSegmentatorLib.jobs.worker_process import Workers
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Segmenter
from support.generated_family import write_scan
from support.job_processes import (
    LONG_SECONDS,
    Start,
    changed,
    names,
    segment,
    worker_of,
)


def test_a_segmentation_from_start_to_end(start: Start, volume: Volume, store: PackStore, jobs_folder: Path) -> None:
    job = start(entropy=True)
    end = job.wait(LONG_SECONDS)
    assert isinstance(end, Segmented), end
    assert not job.running
    assert end.failures == ()
    (result,) = end.results
    expected = Segmenter("generated", "x1/4", engine="onnxruntime", threads=1, store=store, entropy=True)(volume)
    assert np.array_equal(result.segmentation.volume.voxels, expected.volume.voxels)
    assert result.segmentation.volume.voxels.dtype == expected.volume.voxels.dtype
    assert result.segmentation.volume.affine.tolist() == volume.affine.tolist()
    assert result.segmentation.entropy is not None
    assert expected.entropy is not None
    assert np.array_equal(result.segmentation.entropy.voxels, expected.entropy.voxels)
    assert result.segmentation.labels == expected.labels
    assert replace(result.segmentation.record, seconds={}) == replace(expected.record, seconds={})
    assert [row.name for row in result.statistics] == ["structure 1", "structure 2", "structure 3"]
    assert result.peak_memory is None or result.peak_memory > 10_000_000
    events = job.poll()
    assert isinstance(events[0], Started)
    assert events[-1] is end
    assert job.poll() == []
    stages = [event.stage for event in events if isinstance(event, Progressed)]
    assert list(dict.fromkeys(stages)) == ["load", "preprocess", "windows", "restore", "write"]
    assert [event.state for event in events if isinstance(event, RunChanged)] == ["running", "done"]
    assert names(jobs_folder) == []


def test_several_sizes_one_of_which_there_is_not(start: Start) -> None:
    end = start(sizes=("x1", "x1/8", "x1/4")).wait(LONG_SECONDS)
    assert isinstance(end, Segmented), end
    assert [result.segmentation.record.size for result in end.results] == ["x1", "x1/4"]
    assert not np.array_equal(*(result.segmentation.volume.voxels for result in end.results))
    (failed,) = end.failures
    assert failed.size == "x1/8"
    assert isinstance(failed.error, PackError)


def test_an_image_file_and_this_process_own_python(settings: Request, scan: Path, jobs_folder: Path) -> None:
    request = segment(settings, sizes=("auto",), input=str(scan))
    end = start_segmentation(request, workers=Workers(temporary_folder=jobs_folder)).wait(LONG_SECONDS)
    assert isinstance(end, Segmented), end
    assert end.results[0].size == "auto"
    assert end.results[0].size_reason is not None


def test_two_jobs_at_once(start: Start, jobs_folder: Path) -> None:
    jobs = [start(sizes=("x1",)), start(sizes=("x1/4",))]
    sizes = []
    for job in jobs:
        end = job.wait(LONG_SECONDS)
        assert isinstance(end, Segmented), end
        sizes.append(end.results[0].segmentation.record.size)
    assert sizes == ["x1", "x1/4"]
    assert names(jobs_folder) == []


@pytest.mark.skipif(sys.platform == "win32", reason="libc's sleep is found on Linux and macOS")
def test_an_application_that_keeps_pythons_lock_gets_its_result(start: Start) -> None:
    """As 3D Slicer does: other threads run while its timers call Python, and only then."""
    sleep = ctypes.PyDLL(None).usleep
    job = start()
    events: list[Event] = []
    for _ in range(6000):
        if events and isinstance(events[-1], Segmented):
            break
        sleep(20_000)
        events += job.poll()
    assert isinstance(events[-1], Segmented), events
    assert any(isinstance(event, Progressed) and event.stage == "windows" for event in events)


def nested(folder: Path) -> Path:
    """Return a folder whose path has more than a thousand characters."""
    for n in range(8):
        folder = folder / f"{n}{'x' * 120}"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="the working directory of a process is limited on Windows")
def test_very_long_paths(store: PackStore, settings: Request, volume: Volume, tmp_path: Path) -> None:
    folder = nested(tmp_path)
    shutil.copytree(store.user_folder, folder / "packs")
    settings = changed(settings, user_packs=str(folder / "packs"))
    job = start_segmentation(segment(settings, sizes=("x1/4",)), volume, workers=Workers(temporary_folder=folder))
    assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()
    write_scan(folder / "scan.nii.gz")
    request = BatchRequest(
        **msgspec.structs.asdict(settings),
        input_folder=str(folder),
        inputs=("scan.nii.gz",),
        output_folder=str(folder / "results"),
    )
    end = start_batch(request, workers=Workers(temporary_folder=folder)).wait(LONG_SECONDS)
    assert isinstance(end, BatchFinished), end
    assert [file.state for file in end.files] == ["done"]
    assert names(folder) == ["packs", "results", "scan.nii.gz"]


def test_spaces_and_other_letters(store: PackStore, settings: Request, volume: Volume, tmp_path: Path) -> None:
    folder = tmp_path / "Jürgen's Gehirn & Ω 脑 (1)"
    folder.mkdir()
    shutil.copytree(store.user_folder, folder / "packs")
    settings = changed(settings, user_packs=str(folder / "packs"))
    job = start_segmentation(segment(settings, sizes=("x1/4",)), volume, workers=Workers(temporary_folder=folder))
    assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()
    write_scan(folder / "scan.nii.gz").rename(folder / "Müller 脑.nii.gz")
    request = BatchRequest(
        **msgspec.structs.asdict(settings),
        input_folder=str(folder),
        inputs=("Müller 脑.nii.gz",),
        output_folder=str(folder / "Ergebnisse ß"),
    )
    end = start_batch(request, workers=Workers(temporary_folder=folder)).wait(LONG_SECONDS)
    assert isinstance(end, BatchFinished), end
    assert [file.message for file in end.files] == [""]
    assert names(folder / "Ergebnisse ß") == ["Müller 脑-labels.nii.gz", "Müller 脑-record.json", TABLE_NAME]


def test_what_native_libraries_print_harms_nothing(start: Start) -> None:
    job = start(r"""
        import os, threading, time
        def print_on():
            while True:
                os.write(1, b"native \xff junk without an end ")
                os.write(2, b'{"kdseg": 1, "event": ')
                time.sleep(0.001)
        threading.Thread(target=print_on, daemon=True).start()
    """)
    end = job.wait(LONG_SECONDS)
    assert isinstance(end, Segmented), end
    events = job.poll()
    assert any(isinstance(event, Log) and "native \ufffd junk" in event.message for event in events)
    assert [event.state for event in events if isinstance(event, RunChanged)] == ["running", "done"]


def test_a_worker_that_stays_does_the_next_job(
    settings: Request, volume: Volume, jobs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(temporary_folder=jobs_folder, keep_seconds=120)
    pids, ends = [], []
    for _ in range(2):
        job = start_segmentation(segment(settings), volume, workers=workers)
        pids.append(worker_of(job))
        ends.append(job.wait(LONG_SECONDS))
        assert isinstance(ends[-1], Segmented), ends
        assert workers.warm
    assert pids[0] == pids[1]
    first, second = (end.results[0].segmentation.volume.voxels for end in ends if isinstance(end, Segmented))
    assert np.array_equal(first, second)
    job = start_segmentation(segment(settings, threads=2), volume, workers=workers)
    assert worker_of(job) != pids[0]  # the number of threads is fixed when the libraries are loaded
    assert isinstance(job.wait(LONG_SECONDS), Segmented)
    workers.end()
    assert not workers.warm
    assert names(jobs_folder) == []


def test_a_worker_that_stayed_and_was_killed_is_replaced(settings: Request, volume: Volume, jobs_folder: Path) -> None:
    workers = Workers(temporary_folder=jobs_folder, keep_seconds=120)
    job = start_segmentation(segment(settings), volume, workers=workers)
    pid = worker_of(job)
    assert isinstance(job.wait(LONG_SECONDS), Segmented)
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    job = start_segmentation(segment(settings), volume, workers=workers)
    assert isinstance(job.wait(LONG_SECONDS), Segmented), job.poll()
    workers.end()
    assert names(jobs_folder) == []
