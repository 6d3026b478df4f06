"""``kdseg batch``: a folder of scans, in this process."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.cli.batch import _Lines
from KDSegmentatorLib.cli.terminal import describe_seconds
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import read_volume, write_volume
from KDSegmentatorLib.jobs.batch_files import TABLE_NAME
from KDSegmentatorLib.jobs.messages import Progressed, RunChanged
from support.dicom_series import write_series


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
    assert "there is no scan" in err
    assert not (scans.parent / "out").exists()


def test_a_batch_takes_one_folder_a_series(kdseg: Any, work: Path) -> None:
    volume = Volume(np.random.default_rng(3).gamma(2, 100, size=(20, 24, 18)).astype(np.int16), (1.1, 0.9, 1.7))
    source, output = work / "in", work / "out"
    for name in ("first", "second", "two series", "two series/other"):
        (source / name).mkdir(parents=True)
        write_series(volume, source / name, modality="MR")
    code, out, err = kdseg("batch", source, output, "--pack", "generated")
    assert code == 1
    assert "2 segmented, 0 done before, 1 failed" in out
    assert "two series: failed: there are 2 series" in err
    assert read_volume(output / "first-labels.nii.gz").same_grid(volume)
    shutil.rmtree(source / "two series" / "other")
    (source / "first" / "0.dcm").unlink()
    code, out, _ = kdseg("batch", source, output, "--pack", "generated")
    assert code == 0
    assert "2 segmented, 1 done before, 0 failed" in out, "a series that has changed is segmented again"
    assert read_volume(output / "first-labels.nii.gz").size == (18, 24, 19)
    code, _, err = kdseg("batch", source / "second", output, "--pack", "generated")
    assert code == 2
    assert "is itself the folder of a DICOM series" in err


def test_a_bids_data_set_gets_a_derivative(kdseg: Any, work: Path) -> None:
    anat = work / "in" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    (work / "in" / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.10.0"}')
    volume = Volume(np.random.default_rng(3).gamma(2, 100, size=(20, 24, 18)).astype(np.int16), (1.1, 0.9, 1.7))
    for suffix in ("T1w", "T2w"):
        write_volume(volume, anat / f"sub-01_{suffix}.nii.gz")
    output = work / "in" / "derivatives" / "kdsegmentator"
    for said in ("1 segmented, 0 done before", "0 segmented, 1 done before"):
        code, out, err = kdseg("batch", work / "in", output, "--pack", "generated")
        assert code == 0, err
        assert said in out
    names = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    assert names == [
        "dataset_description.json",
        TABLE_NAME,
        "seg-generated_dseg.tsv",
        "sub-01/anat/sub-01_seg-generated_dseg.json",
        "sub-01/anat/sub-01_seg-generated_dseg.nii.gz",
    ]
    sidecar = json.loads((output / names[3]).read_text(encoding="utf-8"))
    assert sidecar["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    assert sidecar["record"]["pack_id"] == "generated-x1_4"
    table = (output / "seg-generated_dseg.tsv").read_text(encoding="utf-8").splitlines()
    assert table[0] == "index\tname\tcolor"
    assert table[1].startswith("1\tstructure 1\t#")
    code, _, _ = kdseg(
        "batch", work / "in", work / "plain", "--pack", "generated", "--layout", "scans", "--pattern", "**/*_T2w*"
    )
    assert code == 0
    assert (work / "plain" / "sub-01" / "anat" / "sub-01_T2w-labels.nii.gz").exists()


def test_the_progress_says_how_long_the_rest_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("KDSegmentatorLib.cli.batch.time.monotonic", lambda: now[0])
    lines = _Lines(quiet=False)

    def run(number: int, state: Any, seconds: float) -> None:
        lines.send(RunChanged(run=number, runs=4, name="a.nii", state="running"))
        stage = "preprocess" if number % 2 else "windows"
        lines.send(Progressed(run=number, runs=4, stage=stage, done=0, total=4, seconds_left=None))
        now[0] += seconds
        lines.send(RunChanged(run=number, runs=4, name="a.nii", state=state))

    run(0, "done", 60.0)
    run(1, "skipped", 1.0)
    run(2, "done", 180.0)
    run(3, "failed", 1.0)
    shown = [line for line in capsys.readouterr().err.splitlines() if "Segmenting" in line or "Preparing" in line]
    assert [line.partition(" left")[0] for line in shown] == [
        "1/4 Segmenting 0/4",
        f"2/4 ({describe_seconds(180)}",
        f"3/4 ({describe_seconds(120)}",
        f"4/4 ({describe_seconds(120)}",
    ]
