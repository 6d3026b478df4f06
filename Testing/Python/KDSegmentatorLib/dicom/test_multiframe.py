from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from KDSegmentatorLib.dicom.series import read_series
from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.geometry import Volume, matrix, vector
from support.dicom_series import write_series


def enhanced(files: list[Path]) -> Any:
    """Return a series as one multi-frame image, made by highdicom."""
    images = [pydicom.dcmread(file) for file in files]
    for image in images:
        image.PatientBirthDate = "19700101"
    kinds = {
        "CT": highdicom.legacy.LegacyConvertedEnhancedCTImage,
        "MR": highdicom.legacy.LegacyConvertedEnhancedMRImage,
    }
    return kinds[images[0].Modality](images, generate_uid(), 7, generate_uid(), 1)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_multi_frame_image_is_the_volume_of_its_slices_and_of_highdicom(
    tmp_path: Path, volume: Volume, modality: str
) -> None:
    (tmp_path / "slices").mkdir()

    def rescaled(image: Any, k: int) -> None:
        image.RescaleSlope, image.RescaleIntercept = 1 + k % 2, -k

    files = write_series(volume, tmp_path / "slices", modality=modality, edit=rescaled)
    shuffled = [files[n] for n in (3, 0, 8, 5, 1, 7, 2, 6, 4)]
    enhanced(shuffled).save_as(tmp_path / "enhanced.dcm")

    series = read_series(tmp_path / "enhanced.dcm")

    slices = read_series(tmp_path / "slices")
    assert series.volume.same_grid(slices.volume)
    assert np.array_equal(series.volume.voxels, slices.volume.voxels)
    other = highdicom.imread(tmp_path / "enhanced.dcm").get_volume()
    corner = other.affine @ [0, 0, 0, 1]
    axes = other.affine[:3, 2::-1] / other.spacing[2::-1]
    theirs = Volume(np.ascontiguousarray(other.array), vector(other.spacing[2::-1]), vector(corner[:3]), matrix(axes))
    assert np.array_equal(theirs.reoriented(series.volume.axis_codes).voxels, series.volume.voxels)
    assert theirs.reoriented(series.volume.axis_codes).same_grid(series.volume)
    assert len(series.datasets) == 1
    frames = series.datasets[0].PerFrameFunctionalGroupsSequence
    positions = [frames[number - 1].PlanePositionSequence[0].ImagePositionPatient for number in series.frame_numbers]
    assert np.allclose(positions, [(series.volume.affine @ [0, 0, k, 1])[:3] for k in range(9)])


def test_a_multi_frame_image_is_one_series_though_others_lie_beside_it(tmp_path: Path, volume: Volume) -> None:
    image = enhanced(write_series(volume, tmp_path))
    for number in (1, 2):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.save_as(tmp_path / f"enhanced {number}.dcm")
    assert read_series(tmp_path / "enhanced 2.dcm").volume.size == volume.size
    both = [tmp_path / "enhanced 1.dcm", tmp_path / "enhanced 2.dcm"]
    with pytest.raises(ImageReadError, match=r"2 with many frames each.*give one of the files"):
        read_series(both)
    shutil.copy(both[0], both[1])
    assert len(read_series(both).frame_numbers) == 9, "of two equal files the first"


def test_frames_of_several_volumes_are_named(tmp_path: Path, volume: Volume) -> None:
    image = enhanced(write_series(volume, tmp_path))
    frames = image.PerFrameFunctionalGroupsSequence
    for n, frame in enumerate(frames):
        frame.PlanePositionSequence[0].ImagePositionPatient = (
            frames[n % 3].PlanePositionSequence[0].ImagePositionPatient
        )
    image.save_as(tmp_path / "enhanced.dcm")
    with pytest.raises(GeometryError, match="4-D: at each of its 3 places lie 3 images"):
        read_series(tmp_path / "enhanced.dcm")


def test_frames_without_a_place_are_refused(tmp_path: Path, volume: Volume) -> None:
    image = enhanced(write_series(volume, tmp_path))
    del image.PerFrameFunctionalGroupsSequence[4].PlanePositionSequence
    image.save_as(tmp_path / "enhanced.dcm")
    with pytest.raises(ImageReadError, match=r"frame 5 of enhanced\.dcm has no usable ImagePositionPatient"):
        read_series(tmp_path / "enhanced.dcm")
