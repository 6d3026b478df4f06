from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.advice import Choice
from KDSegmentatorLib.errors import (
    CancelledError,
    EngineUnavailableError,
    ImageReadError,
    ImageWriteError,
    InsufficientMemoryError,
    InvalidSettingsError,
    JobError,
    KDSegmentatorError,
    PackError,
    UnsuitableVolumeError,
)
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io import files
from KDSegmentatorLib.jobs import folder as folder_module
from KDSegmentatorLib.jobs import run as module
from KDSegmentatorLib.jobs.messages import RESULT_NAME, Request
from KDSegmentatorLib.jobs.run import read_segmented, run_segmentation, write_result
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Segmenter
from support.dicom_series import write_series
from support.job_processes import changed, segment


def never() -> bool:
    return False


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(jobs_folder: Path, volume: Volume) -> Path:
    """Return a job's folder with a volume handed over."""
    write_result(volume, jobs_folder / "input.json")
    return jobs_folder


def test_the_result_is_that_of_the_library(
    folder: Path, settings: Request, volume: Volume, store: PackStore, reporter: Any
) -> None:
    request = segment(settings, entropy=True, sizes=("x1/4",))
    run_segmentation(request, folder, reporter, never)
    (run,) = read_segmented(folder).results
    expected = Segmenter("generated", "x1/4", engine="onnxruntime", threads=1, store=store, entropy=True)(volume)
    found = run.segmentation.volume
    assert np.array_equal(found.voxels, expected.volume.voxels)
    assert found.voxels.any()
    assert (found.spacing, found.origin, found.direction) == (volume.spacing, volume.origin, volume.direction)
    assert run.segmentation.entropy is not None
    assert expected.entropy is not None
    assert np.array_equal(run.segmentation.entropy.voxels, expected.entropy.voxels)
    assert run.segmentation.labels == expected.labels
    assert replace(run.segmentation.record, seconds={}) == replace(expected.record, seconds={})
    assert [row.voxels for row in run.statistics] == [int((found.voxels == value).sum()) for value in (1, 2, 3)]
    assert run.size_reason is None
    assert "onnxruntime" in run.engine_reason


def test_a_dicom_series_is_read(
    jobs_folder: Path, tmp_path: Path, settings: Request, volume: Volume, reporter: Any
) -> None:
    series = tmp_path / "study" / "series"
    series.mkdir(parents=True)
    whole = volume.with_voxels(volume.voxels.astype(np.int16))
    write_series(whole, series, modality="MR", edit=lambda image, k: setattr(image, "SeriesNumber", 7))
    request = segment(settings, input=str(tmp_path / "study"), series="7", sizes=("x1/4",))
    run_segmentation(request, jobs_folder, reporter, never)
    assert read_segmented(jobs_folder).results[0].segmentation.volume.same_grid(whole)
    with pytest.raises(InvalidSettingsError, match="there is no series '8'"):
        run_segmentation(changed(request, series="8"), jobs_folder, reporter, never)
    with pytest.raises(CancelledError):
        run_segmentation(request, jobs_folder, reporter, lambda: True)


def test_an_image_file_is_read(jobs_folder: Path, settings: Request, scan: Path, reporter: Any) -> None:
    run_segmentation(segment(settings, sizes=("x1/4",), input=str(scan)), jobs_folder, reporter, never)
    assert names(jobs_folder) == [RESULT_NAME, "size-0-0.npy", "size-0.json"]


def test_labels_can_be_left_out(folder: Path, settings: Request, reporter: Any) -> None:
    request = segment(settings, labels=("Structure 3",), sizes=("x1/4",))
    run_segmentation(request, folder, reporter, never)
    assert set(np.unique(read_segmented(folder).results[0].segmentation.volume.voxels)) == {0, 3}


def test_several_sizes_in_the_order_of_the_request(folder: Path, settings: Request, reporter: Any) -> None:
    run_segmentation(segment(settings, sizes=("x1/4", "auto", "x1")), folder, reporter, never)
    results = read_segmented(folder).results
    assert [(run.size, run.segmentation.record.size) for run in results] == [
        ("x1/4", "x1/4"),
        ("auto", "x1"),
        ("x1", "x1"),
    ]
    assert results[1].size_reason is not None
    assert not np.array_equal(*(results[n].segmentation.volume.voxels for n in (0, 2)))
    assert reporter.states == [
        ("x1/4", "running"), ("x1/4", "done"), ("auto", "running"), ("auto", "done"), ("x1", "running"), ("x1", "done"),
    ]  # fmt: skip


def test_a_size_that_fails_does_not_stop_the_others(folder: Path, settings: Request, reporter: Any) -> None:
    run_segmentation(segment(settings, sizes=("x1/8", "x1/4")), folder, reporter, never)
    found = read_segmented(folder)
    assert [run.size for run in found.results] == ["x1/4"]
    assert [(failure.size, type(failure.error)) for failure in found.failures] == [("x1/8", PackError)]
    assert reporter.states[:2] == [("x1/8", "running"), ("x1/8", "failed")]


def test_a_size_that_needs_too_much_memory_does_not_stop_the_others(
    folder: Path, settings: Request, reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.segment_with

    def large(segmenter: Segmenter, *rest: Any) -> Any:
        if segmenter.options.size == "x1":
            raise MemoryError
        return original(segmenter, *rest)

    monkeypatch.setattr(module, "segment_with", large)
    run_segmentation(segment(settings, sizes=("x1", "x1/4")), folder, reporter, never)
    (failure,) = read_segmented(folder).failures
    assert isinstance(failure.error, InsufficientMemoryError)
    assert "take a smaller size" in str(failure.error)
    with pytest.raises(InsufficientMemoryError):
        run_segmentation(segment(settings, sizes=("x1",)), folder, reporter, never)


@pytest.mark.parametrize(
    ("changes", "sizes", "error"),
    [
        ({"task": "spleen"}, ("x1",), PackError),
        ({}, ("x1/8", "x1/16"), PackError),
        ({"engine": "openvino", "device": "cuda"}, ("x1",), EngineUnavailableError),
        ({"labels": ("spleen",)}, ("x1",), KDSegmentatorError),
    ],
)
def test_what_no_size_can_do_is_an_error(
    folder: Path, settings: Request, reporter: Any, changes: dict[str, Any], sizes: tuple[str, ...], error: type
) -> None:
    with pytest.raises(error):
        run_segmentation(segment(settings, **changes, sizes=sizes), folder, reporter, never)
    assert names(folder) == ["input-0.npy", "input.json"]


def test_an_unsuitable_volume_is_not_tried_with_every_size(
    jobs_folder: Path, settings: Request, volume: Volume, reporter: Any
) -> None:
    labels = volume.with_voxels((volume.voxels > 100).astype(np.uint8))
    write_result(labels, jobs_folder / "input.json")
    request = segment(settings, sizes=("x1/4", "x1"))
    with pytest.raises(UnsuitableVolumeError, match="label map"):
        run_segmentation(request, jobs_folder, reporter, never)
    assert reporter.states == [("x1/4", "running")]
    run_segmentation(changed(request, check_input=False), jobs_folder, reporter, never)


def test_a_volume_that_is_missing_or_truncated(
    jobs_folder: Path, settings: Request, volume: Volume, reporter: Any
) -> None:
    request = segment(settings, sizes=("x1",))
    with pytest.raises(JobError, match="not complete"):
        run_segmentation(request, jobs_folder, reporter, never)
    (jobs_folder / "input.json").write_bytes(b"PK")
    with pytest.raises(JobError, match="not complete"):
        run_segmentation(request, jobs_folder, reporter, never)
    with pytest.raises(ImageReadError, match="there is no such file"):
        run_segmentation(changed(request, input=str(jobs_folder / "a.nii")), jobs_folder, reporter, never)


@pytest.mark.parametrize("stage", ["load", "preprocess", "windows", "restore", "write"])
@pytest.mark.parametrize("run", [0, 1])
def test_cancelling_at_each_stage(folder: Path, settings: Request, reporter: Any, stage: str, run: int) -> None:
    request = segment(settings, sizes=("x1/4", "x1"))
    with pytest.raises(CancelledError):
        run_segmentation(request, folder, reporter, lambda: reporter.reached(stage, run))
    last = reporter.messages[-1]
    assert (last.run, last.stage) == (run, stage)
    assert not (folder / RESULT_NAME).exists()


@pytest.mark.parametrize("name", ["size-0-0.npy", "size-0-1.npy"])
def test_a_full_disk_is_said_so(
    folder: Path, settings: Request, reporter: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original = folder_module._write_all

    def full(file: Any, array: Any) -> None:
        original(file, array)
        if Path(file.name).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module, "_write_all", full)
    request = segment(settings, entropy=True, sizes=("x1/4",))
    with pytest.raises(JobError, match="the disk is full"):
        run_segmentation(request, folder, reporter, never)
    assert name not in names(folder)
    assert RESULT_NAME not in names(folder)


def test_a_disk_that_fills_up_at_the_very_end(
    folder: Path, settings: Request, reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_sync_file", full)
    with pytest.raises(ImageWriteError, match="the disk is full"):
        run_segmentation(segment(settings, sizes=("x1/4",)), folder, reporter, never)
    assert not (folder / RESULT_NAME).exists()


@pytest.mark.parametrize("entropy", [False, True])
def test_the_advice_knows_of_the_entropy(
    folder: Path, settings: Request, reporter: Any, monkeypatch: pytest.MonkeyPatch, entropy: bool
) -> None:
    asked: list[bool] = []
    choose = Segmenter.choose

    def spy(self: Segmenter, *arguments: Any, **named: Any) -> Choice:
        asked.append(self.options.entropy)
        assert named["cancel"] is never
        return choose(self, *arguments, **named)

    monkeypatch.setattr(Segmenter, "choose", spy)
    request = segment(settings, entropy=entropy, sizes=("x1/4",))
    run_segmentation(request, folder, reporter, never)
    assert asked == [entropy]
