from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.jobs.batch_files import batch_paths, find_scans
from KDSegmentatorLib.jobs.messages import BatchRequest


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def request(folder: Path, *inputs: str) -> BatchRequest:
    return BatchRequest(
        task="generated",
        user_packs="",
        shipped_packs="",
        input_folder=str(folder / "in"),
        inputs=inputs,
        output_folder=str(folder / "out"),
        suffix=".nrrd",
    )


def test_images_are_found_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a b.NRRD", "ü.mha", "notes.txt", ".hidden.nii", "._b.nii.gz", "sub/c.nii", "scan.gz")
    (tmp_path / "folder.nii").mkdir()
    assert find_scans(tmp_path) == ("a b.NRRD", "b.nii.gz", "ü.mha")
    assert find_scans(tmp_path, "**/*") == ("a b.NRRD", "b.nii.gz", "sub/c.nii", "ü.mha")
    assert find_scans(tmp_path, "b*") == ("b.nii.gz",)
    assert find_scans(tmp_path, "*.txt") == ()


def test_earlier_results_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "a-labels.nii.gz", "a-entropy.nrrd", "a-record.json", "b-labels.nii.gz", "out/c.nii")
    assert find_scans(tmp_path, "**/*") == ("a.nii", "b-labels.nii.gz", "out/c.nii")
    assert find_scans(tmp_path, "**/*", tmp_path / "out") == ("a.nii", "b-labels.nii.gz")
    assert find_scans(tmp_path, "**/*", tmp_path) == ("a.nii", "b-labels.nii.gz", "out/c.nii")
    assert find_scans(tmp_path, "**/*", tmp_path / "elsewhere") == ("a.nii", "b-labels.nii.gz", "out/c.nii")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingsError, match="there is no folder"):
        find_scans(tmp_path / "missing")


@pytest.mark.parametrize("pattern", ["", "/etc/*"])
def test_a_pattern_that_is_none(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InvalidSettingsError, match="cannot be used"):
        find_scans(tmp_path, pattern)


def test_results_lie_as_their_inputs_do(tmp_path: Path) -> None:
    first, second = batch_paths(request(tmp_path, "a.nii.gz", "sub/b.c.nii"))
    assert first.scan == tmp_path / "in" / "a.nii.gz"
    assert first.labels == tmp_path / "out" / "a-labels.nrrd"
    assert first.entropy == tmp_path / "out" / "a-entropy.nrrd"
    assert first.record == tmp_path / "out" / "a-record.json"
    assert second.labels == tmp_path / "out" / "sub" / "b.c-labels.nrrd"


def test_no_two_inputs_have_the_same_results(tmp_path: Path) -> None:
    paths = batch_paths(request(tmp_path, "a.nii.gz", "A.nrrd", "b.nii", "sub/a.nii"))
    assert [path.labels.relative_to(tmp_path / "out").as_posix() for path in paths] == [
        "a.nii.gz-labels.nrrd",
        "A.nrrd-labels.nrrd",
        "b-labels.nrrd",
        "sub/a-labels.nrrd",
    ]


@pytest.mark.parametrize("name", ["../a.nii", "sub/../../a.nii", "/a.nii", "a.txt", ""])
def test_inputs_outside_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidSettingsError, match="is not the name of a scan"):
        batch_paths(request(tmp_path, name))


def test_folders_and_archives_of_dicom_files_are_scans(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "p1/study/s1/text.txt", "empty/x.txt", "none.zip")
    for name in ("p1/study/s1/1.dcm", "p1/study/s2/IM1", "p2/deep/IM1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    for name, content in (("series.zip", bytes(128) + b"DICM"), ("texts.zip", b"no image")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("folder/1", content)
    assert find_scans(tmp_path) == ("a.nii", "p1", "p2", "series.zip")
    assert find_scans(tmp_path, "**/*") == ("a.nii", "p1/study/s1", "p1/study/s2", "p2/deep", "series.zip")
    assert find_scans(tmp_path, "p1/*/*") == ("p1/study/s1", "p1/study/s2")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "case.1").mkdir()
    first, second = batch_paths(request(tmp_path, "case.1", "x/series.zip"))
    assert (first.labels.name, second.labels.name) == ("case.1-labels.nrrd", "series-labels.nrrd")
