"""DICOM series as the input of ``kdseg segment``."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import read_volume, write_volume
from support.dicom_series import write_series

PACK = ["--pack", "generated", "--size", "x1/4"]
OBLIQUE = ((0.8, -0.36, 0.48), (0.6, 0.48, -0.64), (0.0, 0.8, 0.6))


@pytest.fixture
def volume() -> Volume:
    voxels = np.random.default_rng(3).gamma(2, 100, size=(20, 24, 18)).astype(np.int16)
    return Volume(voxels, (1.1, 0.9, 1.7), (12.0, -34.0, 56.0), OBLIQUE)


def test_a_series_gives_the_labels_of_its_image_file(kdseg: Any, work: Path, volume: Volume) -> None:
    series = work / "series"
    series.mkdir()
    files = write_series(volume, series, modality="MR")
    write_volume(volume, work / "scan.nii.gz")
    with zipfile.ZipFile(work / "series.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    assert kdseg("segment", work / "scan.nii.gz", work / "expected.nii.gz", *PACK)[0] == 0
    expected = read_volume(work / "expected.nii.gz")
    for source in (series, work / "series.zip", files[7]):
        code, _, err = kdseg("segment", source, work / "labels.nii.gz", *PACK, "--record", work / "record.json")
        assert code == 0, err
        labels = read_volume(work / "labels.nii.gz")
        assert labels.same_grid(expected)
        np.testing.assert_array_equal(labels.voxels, expected.voxels)
        record = json.loads((work / "record.json").read_text(encoding="utf-8"))
        assert record["input"] == source.name
        assert record["input_series"]["modality"] == "MR"
        assert record["input_series"]["images"] == 20
        assert "Doe" not in (work / "record.json").read_text(encoding="utf-8")


def test_one_of_several_series_is_asked_for(kdseg: Any, work: Path, volume: Volume) -> None:
    for number in (4, 5):
        (work / str(number)).mkdir()
        write_series(
            volume, work / str(number), modality="MR", edit=lambda image, k, n=number: setattr(image, "SeriesNumber", n)
        )
    code, _, err = kdseg("segment", work, work / "labels.nii.gz", *PACK)
    assert code == 2
    assert "there are 2 series: 4 (MR, 20 images) 1.2.826" in err
    assert "--series" in err
    assert kdseg("segment", work, work / "labels.nii.gz", *PACK, "--series", "5")[0] == 0


def test_a_series_of_another_modality_is_refused_unless_that_is_right(kdseg: Any, work: Path, volume: Volume) -> None:
    (work / "ct").mkdir()
    write_series(volume, work / "ct", modality="CT")
    code, _, err = kdseg("segment", work / "ct", work / "labels.nii.gz", *PACK)
    assert code == 2
    assert "the series is of modality CT, and generated-x1_4 is made for MR" in err
    assert not (work / "labels.nii.gz").exists()
    code, out, _ = kdseg("segment", work / "ct", work / "labels.nii.gz", *PACK, "--unchecked")
    assert code == 0
    assert "Warning: Segmented without the check of the input, which found: the series is of modality CT" in out


def test_a_tilt_is_said_and_recorded(kdseg: Any, work: Path, volume: Volume) -> None:
    (work / "tilted").mkdir()

    def tilted(image: Any, k: int) -> None:
        down = np.asarray(image.ImageOrientationPatient[3:], dtype=float)
        shift = k * 1.7 * math.tan(math.radians(15))
        image.ImagePositionPatient = list(np.asarray(image.ImagePositionPatient, dtype=float) + shift * down)

    write_series(volume, work / "tilted", modality="MR", edit=tilted)
    code, out, err = kdseg("segment", work / "tilted", work / "labels.nii.gz", *PACK, "--record", work / "record.json")
    assert code == 0, err
    assert "Warning: The images are tilted by 15.0 degrees" in out
    record = json.loads((work / "record.json").read_text(encoding="utf-8"))
    assert record["input_series"]["tilt_degrees"] == pytest.approx(15, abs=0.01)
    assert record["warnings"][0]["kind"] == "tilted"


def test_what_does_not_go_together_is_refused(kdseg: Any, work: Path, scan: Path, volume: Volume) -> None:
    (work / "series").mkdir()
    write_series(volume, work / "series", modality="MR")
    for source, options, message in (
        (scan, ["--series", "3"], "an image file, which has no series '3'"),
        (work / "series", ["--frame", "0"], "a frame is chosen of a 4-D image file"),
        (work, ["--series", "9"], "there is no series '9'"),
    ):
        code, _, err = kdseg("segment", source, work / "labels.nii.gz", *PACK, *options)
        assert code == 2
        assert message in err


def test_without_the_dicom_packages_it_says_what_to_install(
    kdseg: Any, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "highdicom" else found(name, *rest)
    )
    for name in [name for name in sys.modules if name.startswith("KDSegmentatorLib.dicom")]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = kdseg("segment", work, work / "labels.nii.gz", *PACK)
    assert code == 1
    assert "DICOM needs the package highdicom, which is not installed here: pip install 'kdsegmentator[dicom]'" in err
