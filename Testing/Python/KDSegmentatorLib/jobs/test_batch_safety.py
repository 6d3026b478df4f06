"""What a batch replaces, and what it never overwrites."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Any

import pytest

from KDSegmentatorLib.errors import ImageWriteError
from KDSegmentatorLib.jobs import batch as module
from KDSegmentatorLib.jobs.batch_files import TABLE_NAME
from KDSegmentatorLib.jobs.messages import BatchRequest
from support.batches import names, never, rows, run_batch, states
from support.job_processes import changed


def remove_record(output: Path) -> None:
    (output / "a-record.json").unlink()


def truncate_record(output: Path) -> None:
    (output / "a-record.json").write_bytes((output / "a-record.json").read_bytes()[:-5])


def correct_labels(output: Path) -> None:
    (output / "a-labels.nii.gz").write_bytes(b"corrected by hand")


def correct_entropy(output: Path) -> None:
    (output / "a-entropy.nii.gz").write_bytes(b"looked at")


@pytest.mark.parametrize("change", [remove_record, truncate_record, correct_labels, correct_entropy])
@pytest.mark.parametrize("resume", [False, True], ids=["anew", "resumed"])
def test_what_is_not_as_a_batch_wrote_it_is_not_overwritten(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, change: Any, resume: bool
) -> None:
    request_ = changed(request_, entropy=True)
    run_batch(request_, jobs_folder, reporter, never)
    change(output)
    before = {path.name: path.read_bytes() for path in output.glob("a-*")}
    run_batch(changed(request_, resume=resume), jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "failed", "b ü.nrrd": "skipped" if resume else "done"}
    assert {path.name: path.read_bytes() for path in output.glob("a-*")} == before
    assert "is in the way" in next(row["failure"] for row in rows(output) if row["file"] == "a.nii.gz")


@pytest.mark.parametrize("in_place", [False, True], ids=["another folder", "folder of the scans"])
def test_what_was_drawn_by_hand_is_not_overwritten(
    request_: BatchRequest, jobs_folder: Path, scans: Path, output: Path, reporter: Any, in_place: bool
) -> None:
    folder = scans if in_place else output
    folder.mkdir(exist_ok=True)
    (folder / "a-labels.nii.gz").write_bytes(b"drawn by hand, three days of work")
    (folder / "b ü-entropy.nii.gz").write_bytes(b"no map is asked for: this one is not in the way")
    scan = (scans / "a.nii.gz").read_bytes()
    run_batch(changed(request_, output_folder=str(folder)), jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "failed", "b ü.nrrd": "done"}
    assert (folder / "a-labels.nii.gz").read_bytes() == b"drawn by hand, three days of work"
    assert (folder / "b ü-entropy.nii.gz").read_bytes().startswith(b"no map")
    assert (scans / "a.nii.gz").read_bytes() == scan
    assert not reporter.reached("windows", 0), "the file was segmented for nothing"


def test_what_comes_while_the_file_is_segmented_is_not_overwritten(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.segment_with

    def meanwhile(*arguments: Any) -> Any:
        (output / "a-labels.nii.gz").write_bytes(b"drawn by hand")
        return original(*arguments)

    monkeypatch.setattr(module, "segment_with", meanwhile)
    run_batch(changed(request_, inputs=("a.nii.gz",)), jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "failed"}
    assert (output / "a-labels.nii.gz").read_bytes() == b"drawn by hand"


def test_a_map_that_the_new_result_does_not_have_goes_with_the_old_one(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any
) -> None:
    with_map = changed(request_, entropy=True)
    for each in (with_map, request_, with_map):
        run_batch(each, jobs_folder, reporter, never)
        assert set(states(jobs_folder).values()) == {"done"}
        assert (output / "a-entropy.nii.gz").exists() == each.options.entropy


@pytest.mark.parametrize("content", [b"", b"case,volume\n1,2\n", "größe\n".encode("latin-1"), None])
def test_a_table_that_no_batch_wrote_is_not_overwritten(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, content: bytes | None
) -> None:
    output.mkdir()
    table = output / TABLE_NAME
    if content is None:
        table.mkdir()
    else:
        table.write_bytes(content)
    with pytest.raises(ImageWriteError, match=TABLE_NAME):
        run_batch(request_, jobs_folder, reporter, never)
    assert names(output) == [TABLE_NAME]
    assert content is None or table.read_bytes() == content


@pytest.mark.parametrize("refused", ["earlier-a-labels", "earlier-a-record", "a-labels", "a-entropy", "a-record"])
def test_a_result_that_cannot_be_put_into_place_leaves_the_old_one_and_does_not_stop_the_rest(
    request_: BatchRequest,
    jobs_folder: Path,
    output: Path,
    reporter: Any,
    monkeypatch: pytest.MonkeyPatch,
    refused: str,
) -> None:
    """As on Windows, where a label map that is open in another program cannot be replaced."""
    request_ = changed(request_, entropy=True)
    run_batch(request_, jobs_folder, reporter, never)
    old = {path.name: path.read_bytes() for path in output.glob("a-*")}
    original = module.replace
    refusals: list[str] = []

    def refuse(source: Path, target: Path) -> None:
        if target.name.startswith(refused) and not refusals:
            refusals.append(target.name)
            raise PermissionError(errno.EACCES, "Permission denied")
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(module, "replace", refuse)
        run_batch(changed(request_, size="x1"), jobs_folder, reporter, never)
    assert refusals
    assert states(jobs_folder) == {"a.nii.gz": "failed", "b ü.nrrd": "done"}
    assert {path.name: path.read_bytes() for path in output.glob("a-*")} == old
    run_batch(changed(request_, size="x1"), jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "done", "b ü.nrrd": "skipped"}


@pytest.mark.parametrize("moves", range(7))
def test_whenever_the_process_ends_the_next_batch_goes_on(
    request_: BatchRequest, jobs_folder: Path, output: Path, reporter: Any, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    request_ = changed(request_, inputs=("a.nii.gz",), entropy=True)
    run_batch(request_, jobs_folder, reporter, never)
    original = module.replace
    done: list[Path] = []

    class EndedError(BaseException):
        pass

    def end(source: Path, target: Path) -> None:
        if len(done) == moves:
            raise EndedError
        original(source, target)
        done.append(target)

    with monkeypatch.context() as patch, contextlib.suppress(EndedError):
        patch.setattr(module, "replace", end)
        run_batch(changed(request_, size="x1"), jobs_folder, reporter, never)
    assert len(done) == min(moves, 6)
    run_batch(changed(request_, size="x1"), jobs_folder, reporter, never)
    assert states(jobs_folder) == {"a.nii.gz": "skipped" if moves == 6 else "done"}
