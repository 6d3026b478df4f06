"""DICOM objects as outputs of ``kdseg segment``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from KDSegmentatorLib.dicom.series import read_series
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import read_volume
from support.dicom_readers import labels_by_highdicom
from support.dicom_series import write_series

PACK = ["--pack", "generated", "--size", "x1/4"]


@pytest.fixture
def series(work: Path) -> Path:
    """Write a series of MR images."""
    folder = work / "series"
    folder.mkdir()
    voxels = np.random.default_rng(3).gamma(2, 100, size=(20, 24, 18)).astype(np.int16)
    write_series(Volume(voxels, (1.1, 0.9, 1.7), (12.0, -34.0, 56.0)), folder, modality="MR")
    return folder


def test_output_as_dcm_holds_the_labels_of_the_image_file(kdseg: Any, work: Path, series: Path) -> None:
    assert kdseg("segment", series, work / "labels.nii.gz", *PACK)[0] == 0
    code, out, err = kdseg("segment", series, work / "labels.dcm", *PACK)
    assert code == 0, err
    assert f"Wrote {work / 'labels.dcm'}" in out
    expected = read_volume(work / "labels.nii.gz")
    found = labels_by_highdicom(work / "labels.dcm", read_series(series))
    values = np.unique(expected.voxels)
    np.testing.assert_array_equal(values[found], expected.voxels, "segments are numbered from 1, absent ones left out")


def test_all_forms_at_once_beside_an_image_file(kdseg: Any, work: Path, series: Path) -> None:
    (work / "dicom").mkdir()
    forms = ["seg", "labelmap", "rtstruct", "sr", "capture"]
    code, out, err = kdseg("segment", series, work / "labels.nii.gz", *PACK, "--dicom", ",".join(forms), work / "dicom")
    assert code == 0, err
    assert {path.stem: pydicom.dcmread(path).Modality for path in (work / "dicom").iterdir()} == {
        "seg": "SEG", "labelmap": "SEG", "rtstruct": "RTSTRUCT", "sr": "SR", "capture": "OT",
    }  # fmt: skip
    assert all(str(work / "dicom" / f"{form}.dcm") in out for form in forms)


def test_the_report_may_refer_to_output(kdseg: Any, work: Path, series: Path) -> None:
    assert kdseg("segment", series, work / "labels.dcm", *PACK, "--dicom", "sr", work)[0] == 0
    evidence = pydicom.dcmread(work / "sr.dcm").CurrentRequestedProcedureEvidenceSequence[0]
    referenced = [item.ReferencedSOPInstanceUID for each in evidence.ReferencedSeriesSequence
                  for item in each.ReferencedSOPSequence]  # fmt: skip
    assert pydicom.dcmread(work / "labels.dcm").SOPInstanceUID in referenced
    assert not (work / "seg.dcm").exists()


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("labels.dcm", [], "OUTPUT {work}/labels.dcm: a DICOM result refers to the images of a DICOM series"),
        ("labels.nii.gz", ["--dicom", "seg", "{work}"], "--dicom: a DICOM result refers to the images"),
    ],
)
def test_an_image_file_has_no_dicom_result(
    kdseg: Any, work: Path, scan: Path, output: str, options: list[str], message: str
) -> None:
    options = [option.format(work=work) for option in options]
    code, _, err = kdseg("segment", scan, work / output, *PACK, *options)
    assert code == 2
    assert message.format(work=work) in err
    assert not (work / output).exists()


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("labels.nii.gz", ["--dicom", "nifti", "{work}"], "there is no DICOM form 'nifti'; there are: seg, labelmap"),
        ("labels.nii.gz", ["--dicom", "sr", "{work}"], "ask for seg (or labelmap) too"),
        ("labels.nii.gz", ["--dicom", "seg", "{work}/absent"], "there is no such folder; create it first"),
        ("labels.dcm", ["--split", "{work}"], "--split writes one file for every structure"),
        ("seg.dcm", ["--dicom", "seg", "{work}"], "is the same file as OUTPUT"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_work(
    kdseg: Any, work: Path, series: Path, output: str, options: list[str], message: str
) -> None:
    before = sorted(work.iterdir())
    code, _, err = kdseg("segment", series, work / output, *PACK, *[option.format(work=work) for option in options])
    assert code == 2
    assert message in err
    assert sorted(work.iterdir()) == before


def test_anonymised_images_are_refused_before_the_work(kdseg: Any, work: Path, series: Path) -> None:
    for path in series.iterdir():
        image = pydicom.dcmread(path)
        image.StudyInstanceUID = ""
        image.save_as(path)
    code, _, err = kdseg("segment", series, work / "labels.dcm", *PACK)
    assert code == 2
    assert "the images have no Study Instance UID" in err
    assert not (work / "labels.dcm").exists()
