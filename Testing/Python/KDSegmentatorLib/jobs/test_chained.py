"""Jobs whose pack has an earlier stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.errors import CancelledError, InvalidSettingsError, PackError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.progress import REGION_PREFIX
from KDSegmentatorLib.jobs.messages import RESULT_NAME, BatchRequest, Progressed, Request, Segmented
from KDSegmentatorLib.jobs.process import start_segmentation
from KDSegmentatorLib.jobs.run import read_segmented, run_segmentation, write_result
from KDSegmentatorLib.jobs.worker_process import Workers
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Segmenter
from support.batches import never, run_batch, states
from support.chained_packs import EARLIER, LATER, after_earlier, install_earlier, install_later
from support.job_processes import LONG_SECONDS, changed, segment

SIZES = ("x1/4", "x1/2")


@pytest.fixture
def chained(settings: Request, store: PackStore, tmp_path: Path) -> Request:
    """Return settings for a task of two sizes, both with the same earlier stage."""
    install_earlier(store, tmp_path)
    for seed, size in enumerate(SIZES):
        install_later(store, tmp_path, region=after_earlier(), size=size, seed=seed)
    return changed(settings, task="inside")


@pytest.fixture
def folder(jobs_folder: Path, volume: Volume) -> Path:
    """Return a job's folder with a volume handed over."""
    write_result(volume, jobs_folder / "input.json")
    return jobs_folder


def test_sizes_of_one_volume_run_the_earlier_stage_once(
    folder: Path, chained: Request, store: PackStore, volume: Volume, reporter: Any
) -> None:
    run_segmentation(segment(chained, sizes=SIZES), folder, reporter, never)
    runs = read_segmented(folder).results
    assert [run.segmentation.record.region is not None and run.segmentation.record.region.reused for run in runs] == [
        False,
        True,
    ]
    assert [reporter.reached(REGION_PREFIX + "windows", n) for n in (0, 1)] == [True, False]
    assert runs[0].segmentation.record.seconds["region"] == runs[1].segmentation.record.seconds["region"] > 0
    for run in runs:
        expected = Segmenter("inside", run.size, engine="onnxruntime", threads=1, store=store)(volume)
        np.testing.assert_array_equal(run.segmentation.volume.voxels, expected.volume.voxels)


def test_a_region_that_is_given_is_not_looked_for(
    folder: Path, chained: Request, store: PackStore, volume: Volume, reporter: Any
) -> None:
    given = changed(chained, region="given")
    run_segmentation(segment(given, sizes=("x1/4",)), folder, reporter, never)
    (run,) = read_segmented(folder).results
    assert run.segmentation.record.region is None
    assert not reporter.reached(REGION_PREFIX + "windows")
    alone = Segmenter("inside", "x1/4", engine="onnxruntime", threads=1, store=store, region="given")
    np.testing.assert_array_equal(run.segmentation.volume.voxels, alone(volume).volume.voxels)
    with pytest.raises(InvalidSettingsError, match="has no earlier stage"):
        run_segmentation(segment(given, task="bright"), folder, reporter, never)


def test_a_worker_reports_both_stages(chained: Request, volume: Volume, jobs_folder: Path) -> None:
    request = segment(chained, sizes=("x1/4",))
    job = start_segmentation(request, volume, workers=Workers(temporary_folder=jobs_folder))
    end = job.wait(LONG_SECONDS)
    stages = [event.stage for event in job.poll() if isinstance(event, Progressed)]
    later = ["preprocess", "windows", "restore"]
    assert list(dict.fromkeys(stages)) == ["load", *(REGION_PREFIX + stage for stage in later), *later, "write"]
    assert isinstance(end, Segmented)
    record = end.results[0].segmentation.record
    assert (record.pack_id, record.region and record.region.pack_id) == (LATER, EARLIER)


@pytest.mark.parametrize("stage", ["region-preprocess", "region-windows", "region-restore", "windows"])
def test_cancelled_in_either_stage(folder: Path, chained: Request, reporter: Any, stage: str) -> None:
    request = segment(chained, sizes=SIZES)
    with pytest.raises(CancelledError):
        run_segmentation(request, folder, reporter, lambda: reporter.reached(stage))
    assert not reporter.reached("write")
    assert not (folder / RESULT_NAME).exists()


def test_no_size_is_tried_where_nothing_was_found(
    folder: Path, chained: Request, store: PackStore, tmp_path: Path, reporter: Any
) -> None:
    install_earlier(store, tmp_path / "blind", threshold=1000, version="1.1.0")
    with pytest.raises(UnsuitableVolumeError, match="found nothing"):
        run_segmentation(segment(chained, sizes=SIZES), folder, reporter, never)
    assert [name for name, state in reporter.states if state == "running"] == ["x1/4"]


def test_a_missing_earlier_pack_is_named(folder: Path, chained: Request, store: PackStore, reporter: Any) -> None:
    store.remove(EARLIER)
    with pytest.raises(PackError, match=f"{LATER} needs {EARLIER}"):
        run_segmentation(segment(chained, sizes=SIZES), folder, reporter, never)


def test_a_batch_is_done_again_with_another_earlier_pack(
    request_: BatchRequest, chained: Request, store: PackStore, tmp_path: Path, jobs_folder: Path, output: Path,
    reporter: Any,
) -> None:  # fmt: skip
    batch = changed(request_, task="inside", options=chained.options)
    run_batch(batch, jobs_folder, reporter, never)
    assert list(states(jobs_folder).values()) == ["done", "done"]
    record = json.loads((output / "a-record.json").read_text(encoding="utf-8"))
    assert record["record"]["region"]["pack_id"] == EARLIER
    run_batch(batch, jobs_folder, reporter, never)
    assert list(states(jobs_folder).values()) == ["skipped", "skipped"]
    install_earlier(store, tmp_path / "new", threshold=0.5, version="1.1.0")
    run_batch(batch, jobs_folder, reporter, never)
    assert list(states(jobs_folder).values()) == ["done", "done"]


def test_a_batch_is_done_again_if_the_region_is_given(
    request_: BatchRequest, chained: Request, jobs_folder: Path, output: Path, reporter: Any
) -> None:
    found = changed(request_, task="inside", options=chained.options)
    given = changed(found, region="given")
    for batch, state in ((found, "done"), (given, "done"), (given, "skipped"), (found, "done")):
        run_batch(batch, jobs_folder, reporter, never)
        assert list(states(jobs_folder).values()) == [state, state]
        record = json.loads((output / "a-record.json").read_text(encoding="utf-8"))
        assert record["options"]["region"] == batch.options.region
        assert (record["record"]["region"] is None) == (batch is given)
