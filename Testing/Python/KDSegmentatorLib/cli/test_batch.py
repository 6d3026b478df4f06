"""``kdseg batch``: a folder of scans, in this process."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from KDSegmentatorLib.jobs.batch_files import TABLE_NAME


@pytest.fixture
def scans(scan: Path) -> Path:
    """Return a folder with a scan that can be segmented, and one that cannot."""
    folder = scan.parent / "in"
    folder.mkdir()
    shutil.copy(scan, folder / "a.nii.gz")
    (folder / "bad.nii").write_bytes(b"no image")
    return folder


def test_all_scans_of_a_folder_into_one_table(kdseg: Any, scans: Path) -> None:
    output = scans.parent / "out"
    code, out, err = kdseg("batch", scans, output, "--pack", "generated")
    assert code == 1  # one failed, and is named
    assert "1 segmented, 0 done before, 1 failed" in out
    assert "bad.nii" in err.splitlines()[-1]
    rows = list(csv.DictReader((output / TABLE_NAME).read_text(encoding="utf-8").splitlines()))
    assert {(row["file"], row["size"]) for row in rows} == {("a.nii.gz", "x1/4"), ("bad.nii", "")}
    assert (output / "a-labels.nii.gz").exists() and (output / "a-record.json").exists()
    (scans / "bad.nii").unlink()
    code, out, _ = kdseg("batch", scans, output, "--pack", "generated")
    assert code == 0
    assert "0 segmented, 1 done before, 0 failed" in out
    code, out, _ = kdseg("batch", scans, output, "--pack", "generated", "--again", "--format", ".nrrd")
    assert "1 segmented" in out
    assert (output / "a-labels.nrrd").exists()


def test_a_folder_without_scans_is_bad_input(kdseg: Any, scans: Path) -> None:
    code, _, err = kdseg("batch", scans, scans.parent / "out", "--pack", "generated", "--pattern", "*.mha")
    assert code == 2
    assert "there is no image" in err
    assert not (scans.parent / "out").exists()
