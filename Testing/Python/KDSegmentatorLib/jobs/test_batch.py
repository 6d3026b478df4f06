from __future__ import annotations

import errno
import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.errors import CancelledError, ImageWriteError, KDSegmentatorError, PackError
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.jobs import batch as module
from KDSegmentatorLib.jobs.batch_files import TABLE_NAME
from KDSegmentatorLib.jobs.batch_results import BatchRecord
from KDSegmentatorLib.jobs.messages import RESULT_NAME, BatchFinished, BatchRequest
from KDSegmentatorLib.jobs.run import read_result
from KDSegmentatorLib.packs.manifest import Expected, ExpectedLabel
from KDSegmentatorLib.packs.store import PackStore
from support.batches import ALL, names, never, rows, run_batch, states
from support.generated_family import build_size, write_scan
from support.generated_packs import label, write_pack
from support.job_processes import changed


def test_all_files_and_their_table(
    request_: BatchRequest, jobs_folder: Path, scans: Path, output: Path, reporter: Any
) -> None:
    run_batch(request_, jobs_folder, reporter, never)
    assert names(output) == ALL
    result = read_result(BatchFinished, jobs_folder / RESULT_NAME)
    assert result.table == str(output / TABLE_NAME)
    assert [(file.input, file.state, file.entropy) for file in result.files] == [
        ("a.nii.gz", "done", None),
        ("b ü.nrrd", "done", None),
    ]
    for file in result.files:
        assert file.labels is not None
        labels = read_volume(file.labels)
        assert labels.same_grid(read_volume(scans / file.input))
        for row in rows(output):
            if row["file"] == file.input:
                count = int((labels.voxels == int(row["label_value"])).sum())
                assert int(row["voxels"]) == count > 0
                assert (row["pack_id"], row["pack_version"], row["failure"]) == ("generated-x1_4", "1.0.0", "")
    assert len(rows(output)) == 6
    assert reporter.states == [
        ("a.nii.gz", "running"), ("a.nii.gz", "done"), ("b ü.nrrd", "running"), ("b ü.nrrd", "done"),
    ]  # fmt: skip


def test_the_record_says_how_the_result_came_about(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, store: PackStore
) -> None:
    run_batch(request_, jobs_folder, reporter, never)
    record = read_result(BatchRecord, output / "a-record.json")
    assert record.input == "a.nii.gz"
    assert record.record.pack_sha256 == store.get("generated-x1_4").manifest_sha256
    assert [each.name for each in record.labels] == ["structure 1", "structure 2", "structure 3"]
    assert record.options.engine == "onnxruntime"
    assert store.user_folder.as_posix() not in (output / "a-record.json").read_text(encoding="utf-8")


def test_results_stay_in_the_space_of_their_scan_and_have_names(
    request_: BatchRequest, jobs_folder: Path, scans: Path, output: Path, reporter: Any
) -> None:
    data = bytearray(gzip.decompress((scans / "a.nii.gz").read_bytes()))
    struct.pack_into("<2h", data, 252, 4, 4)  # qform and sform code: MNI
    (scans / "a.nii.gz").write_bytes(gzip.compress(data))
    run_batch(changed(request_, entropy=True, inputs=("a.nii.gz",)), jobs_folder, reporter, never)
    for name in ("a-labels.nii.gz", "a-entropy.nii.gz"):
        written = gzip.decompress((output / name).read_bytes())
        assert struct.unpack_from("<2h", written, 252) == (4, 4)
        assert (b"<![CDATA[structure 2]]>" in written) == (name == "a-labels.nii.gz")


def test_entropy_folders_and_other_formats(
    request_: BatchRequest, jobs_folder: Path, scans: Path, output: Path, reporter: Any
) -> None:
    (scans / "patient 1").mkdir()
    write_scan(scans / "patient 1" / "t1.mha")
    run_batch(
        changed(request_, entropy=True, inputs=("patient 1/t1.mha",), suffix=".mha"), jobs_folder, reporter, never
    )
    assert names(output) == [
        TABLE_NAME, "patient 1", "patient 1/t1-entropy.mha", "patient 1/t1-labels.mha", "patient 1/t1-record.json",
    ]  # fmt: skip
    assert read_volume(output / "patient 1" / "t1-entropy.mha").voxels.dtype == np.float32


def test_warnings_are_in_the_table_the_record_and_the_result(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, store: PackStore, tmp_path: Path
) -> None:
    labels = tuple(
        ExpectedLabel(value=value, cases=20, at_edge=20, smallest_ml=low, largest_ml=100.0)
        for value, low in ((1, 0.001), (2, 50.0), (3, 0.001))
    )
    expected = Expected(cases=20, smallest_ml=90.0, largest_ml=100.0, labels=labels, pairs=())
    manifest = replace(store.get("generated-x1_4").manifest, version="2.0.0", expected=expected)
    store.install(write_pack(tmp_path / "changed", manifest=manifest).folder)
    for state in ("done", "skipped"):
        run_batch(request_, jobs_folder, reporter, never)
        for file in read_result(BatchFinished, jobs_folder / RESULT_NAME).files:
            assert file.state == state
            assert "All structures together are smaller" in file.message and "structure 2 is cut off" in file.message
            assert (file.input, state) in reporter.states
        found = rows(output)
        assert all("All structures together are smaller than expected: " in row["warnings"] for row in found)
        assert [row["label_value"] for row in found if "structure 2 is cut off" in row["warnings"]] == ["2", "2"]
        assert {row["failure"] for row in found} == {""}
    record = read_result(BatchRecord, output / "a-record.json").record
    assert [(each.kind, each.labels) for each in record.warnings] == [("small", ()), ("cut off", ("structure 2",))]


def test_the_size_is_decided_once_for_all_volumes(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any
) -> None:
    run_batch(changed(request_, size="auto"), jobs_folder, reporter, never)
    assert {row["size"] for row in rows(output)} == {"x1"}
    assert {row["pack_id"] for row in rows(output)} == {"generated-x1"}
    run_batch(changed(request_, size="auto"), jobs_folder, reporter, never)
    assert set(states(jobs_folder).values()) == {"skipped"}


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_bad_files_do_not_stop_the_rest(
    request_: BatchRequest, jobs_folder: Path, scans: Path, output: Path, reporter: Any, content: bytes
) -> None:
    (scans / "=bad.nii").write_bytes(content)
    write_scan(scans / "labels.nii", np.ones((8, 8, 8), np.uint8))
    write_scan(scans / "four.nrrd", np.random.default_rng(0).random((2, 8, 8, 8)).astype(np.float32))
    inputs = ("=bad.nii", "missing.nii", "labels.nii", "four.nrrd", *request_.inputs)
    run_batch(changed(request_, inputs=inputs), jobs_folder, reporter, never)
    assert states(jobs_folder) == {
        "=bad.nii": "failed", "missing.nii": "failed", "labels.nii": "failed", "four.nrrd": "failed",
        "a.nii.gz": "done", "b ü.nrrd": "done",
    }  # fmt: skip
    assert names(output) == ALL
    failures = {row["file"]: row["failure"] for row in rows(output) if row["failure"]}
    assert set(failures) == {"'=bad.nii", "missing.nii", "labels.nii", "four.nrrd"}
    assert "there is no such file" in failures["missing.nii"] or "No such file" in failures["missing.nii"]


def test_a_file_that_takes_too_much_memory_does_not_stop_the_rest(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.segment_with

    def large(segmenter: Any, scan: Any, *rest: Any) -> Any:
        if scan.volume.size == (18, 24, 20):
            raise MemoryError
        return original(segmenter, scan, *rest)

    monkeypatch.setattr(module, "segment_with", large)
    run_batch(request_, jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "failed", "b ü.nrrd": "done"}


@pytest.mark.parametrize(
    "changes", [{"task": "spleen"}, {"engine": "openvino", "device": "cuda"}], ids=["no pack", "no engine"]
)
def test_what_would_happen_to_every_file_stops_the_batch(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, changes: dict[str, Any]
) -> None:
    with pytest.raises(KDSegmentatorError):
        run_batch(changed(request_, **changes), jobs_folder, reporter, never)
    assert names(output) == []
    assert not (jobs_folder / RESULT_NAME).exists()


def test_what_is_finished_is_skipped(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_batch(request_, jobs_folder, reporter, never)
    before = {name: (output / name).read_bytes() for name in ALL}
    monkeypatch.setattr(module, "make_segmenter", None)  # not even an engine is loaded
    run_batch(changed(request_, threads=2), jobs_folder, reporter, never)
    assert set(states(jobs_folder).values()) == {"skipped"}
    assert {name: (output / name).read_bytes() for name in ALL} == before


def change_input(scans: Path, output: Path, store: PackStore) -> None:
    write_scan(scans / "a.nii.gz", np.random.default_rng(9).gamma(2, 100, size=(20, 24, 18)).astype(np.float32))


def remove_labels(scans: Path, output: Path, store: PackStore) -> None:
    (output / "a-labels.nii.gz").unlink()


def change_version(scans: Path, output: Path, store: PackStore) -> None:
    record = json.loads((output / "a-record.json").read_text(encoding="utf-8"))
    record["record_version"] += 1
    (output / "a-record.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize("change", [change_input, remove_labels, change_version])
def test_what_is_not_as_it_was_is_done_again(
    request_: BatchRequest, jobs_folder: Path, scans: Path, output: Path, reporter: Any, store: PackStore, change: Any
) -> None:
    run_batch(request_, jobs_folder, reporter, never)
    change(scans, output, store)
    run_batch(request_, jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "done", "b ü.nrrd": "skipped"}
    assert names(output) == ALL
    run_batch(request_, jobs_folder, reporter, never)
    assert set(states(jobs_folder).values()) == {"skipped"}


@pytest.mark.parametrize(
    "changes", [{"mirroring": True}, {"entropy": True}, {"labels": ("structure 1",)}, {"engine": "auto"}]
)
def test_other_settings_are_another_result(
    request_: BatchRequest, jobs_folder: Path, reporter: Any, changes: dict[str, Any]
) -> None:
    request_ = changed(request_, inputs=request_.inputs[:1])
    run_batch(request_, jobs_folder, reporter, never)
    run_batch(changed(request_, **changes), jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "done"}


def test_another_pack_size_or_wish_is_another_result(
    request_: BatchRequest, jobs_folder: Path, reporter: Any, store: PackStore, tmp_path: Path
) -> None:
    request_ = changed(request_, inputs=request_.inputs[:1])
    run_batch(request_, jobs_folder, reporter, never)
    run_batch(changed(request_, resume=False), jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "done"}
    store.install(build_size(tmp_path / "new", "x1/4", version="2.0.0").folder)
    run_batch(request_, jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "done"}
    run_batch(changed(request_, size="x1"), jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "done"}


@pytest.mark.parametrize("stage", ["load", "preprocess", "windows", "restore", "write"])
def test_cancelling_at_each_stage_keeps_what_is_finished(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, stage: str
) -> None:
    with pytest.raises(CancelledError):
        run_batch(request_, jobs_folder, reporter, lambda: reporter.reached(stage, 1))
    assert names(output) == ALL[:2]
    assert not (jobs_folder / RESULT_NAME).exists()
    run_batch(request_, jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "skipped", "b ü.nrrd": "done"}
    assert names(output) == ALL


def test_a_full_disk_stops_the_batch_and_leaves_nothing_unfinished(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.write_volume

    def full(volume: Any, path: Path, **options: Any) -> None:
        if path.name.startswith("b ü"):
            path.write_bytes(b"half")
            raise ImageWriteError(f"cannot write {path}: full") from OSError(errno.ENOSPC, "No space left on device")
        original(volume, path, **options)

    monkeypatch.setattr(module, "write_volume", full)
    with pytest.raises(ImageWriteError, match="full") as caught:
        run_batch(request_, jobs_folder, reporter, never)
    assert str(caught.value) == f"cannot write {output / 'b ü-labels.nii.gz'}: full"
    assert names(output) == ALL[:2]


def test_a_name_under_which_itk_would_show_another_file_is_refused(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any
) -> None:
    output.mkdir()
    (output / "a-labels.nii").touch()
    run_batch(request_, jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "failed", "b ü.nrrd": "done"}


def test_the_output_folder_may_be_the_input_folder(
    request_: BatchRequest, jobs_folder: Path, scans: Path, reporter: Any
) -> None:
    run_batch(changed(request_, output_folder=str(scans)), jobs_folder, reporter, never)
    assert names(scans) == sorted([*ALL, *request_.inputs])


def test_an_output_folder_that_cannot_be_made(
    request_: BatchRequest, jobs_folder: Path, scans: Path, reporter: Any
) -> None:
    with pytest.raises(ImageWriteError, match="cannot be made"):
        run_batch(changed(request_, output_folder=str(scans / "a.nii.gz")), jobs_folder, reporter, never)


def test_a_spreadsheet_does_not_run_a_label(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, store: PackStore, tmp_path: Path
) -> None:
    pack = store.get("generated-x1_4")
    labels = (label(1, "=1+1"), *pack.manifest.labels[1:])
    manifest = replace(pack.manifest, version="2.0.0", modality="CT", labels=labels)
    store.install(write_pack(tmp_path / "changed", manifest=manifest).folder)
    run_batch(changed(request_, check_input=False), jobs_folder, reporter, never)
    assert rows(output)[0]["label_name"] == "'=1+1"
    assert "mean_intensity_HU" in rows(output)[0]


def test_a_pack_that_is_damaged_is_not_used(
    request_: BatchRequest, jobs_folder: Path, reporter: Any, store: PackStore
) -> None:
    (store.get("generated-x1_4").folder / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises((PackError, KDSegmentatorError)):
        run_batch(request_, jobs_folder, reporter, never)
