from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.dicom.grid import slice_grid
from KDSegmentatorLib.dicom.headers import planes
from KDSegmentatorLib.dicom.series import read_series
from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.geometry import Volume
from support.dicom_series import write_series


def moved(image: Any, mm: tuple[float, float, float]) -> None:
    """Move an image along a row, down a column and along the normal."""
    cosines = np.reshape(image.ImageOrientationPatient, (2, 3)).astype(float)
    axes = np.stack([*cosines, np.cross(*cosines)])
    image.ImagePositionPatient = list(np.asarray(image.ImagePositionPatient, dtype=float) + np.asarray(mm) @ axes)


def only(number: int, change: Callable[[Any], object]) -> Callable[[Any, int], object]:
    return lambda image, k: change(image) if k == number else None


def turned(image: Any) -> None:
    image.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def cropped(image: Any) -> None:
    image.Columns, image.PixelData = 6, image.PixelData[:72]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (only(4, lambda image: moved(image, (0, 0, 2.5))), r"4\.dcm and 5\.dcm lie in one plane \(0\.000 mm apart\)"),
        (only(8, lambda image: moved(image, (0, 0, 2.5))), r"1 slice is missing between 7\.dcm and 8\.dcm.*5\.00 mm"),
        (only(8, lambda image: moved(image, (0, 0, 5))), r"2 slices are missing between 7\.dcm and 8\.dcm.*7\.50 mm"),
        (only(4, lambda image: moved(image, (0, 0, 1))), r"varies: it is 3\.50 mm between 3\.dcm and 4\.dcm"),
        (only(4, lambda image: moved(image, (1, 0, 0))), r"4\.dcm lies 1\.00 mm from its place"),
        (only(0, lambda image: moved(image, (0, 3, 0))), r"0\.dcm lies 3\.00 mm from its place"),
        (only(2, turned), r"2\.dcm is turned by \d+\.\d degrees against the other images"),
        (only(2, lambda image: setattr(image, "PixelSpacing", [0.9, 0.8])), r"2\.dcm has pixels of 0\.8 x 0\.9 mm"),
        (only(2, lambda image: setattr(image, "FrameOfReferenceUID", "1.2")), r"2\.dcm has another frame of reference"),
        (only(2, cropped), r"2\.dcm has another number of rows and columns \(6 x 6, not 6 x 7\)"),
        (lambda image, k: moved(image, (0, 0, -2.5 * (k % 3))), r"4-D: at each of its 3 places lie 3 images"),
        (lambda image, k: moved(image, (0, 6.0 * k, 0)), r"tilt of 67 degrees"),
    ],
    ids=[
        "duplicate", "missing", "two missing", "uneven", "beside", "first beside", "turned", "spacing", "frame", "size",
        "4-D", "shifted",
    ],
)  # fmt: skip
def test_images_that_are_on_no_regular_grid_are_named(
    tmp_path: Path, volume: Volume, edit: Callable[[Any, int], object], message: str
) -> None:
    write_series(volume, tmp_path, edit=edit)
    with pytest.raises(GeometryError, match=message):
        read_series(tmp_path)


def test_one_image_is_no_volume(tmp_path: Path, volume: Volume) -> None:
    files = write_series(volume, tmp_path)
    with pytest.raises(GeometryError, match="one image only"):
        read_series(files[:1])


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("ImagePositionPatient", None, "no usable ImagePositionPatient"),
        ("ImagePositionPatient", [1, 2], "no usable ImagePositionPatient"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "not perpendicular unit vectors"),
        ("ImageOrientationPatient", [0] * 6, "not perpendicular unit vectors"),
        ("PixelSpacing", [0, 1], r"Pixel Spacing of 0 x 1 mm"),
        ("Rows", None, "no image"),
    ],
)
def test_an_image_whose_place_is_not_known_is_refused(
    tmp_path: Path, volume: Volume, keyword: str, value: Any, message: str
) -> None:
    write_series(volume, tmp_path, edit=only(5, lambda image: setattr(image, keyword, value)))
    with pytest.raises(ImageReadError, match=rf"5\.dcm has .*{message}"):
        read_series(tmp_path)


def test_other_content_under_the_same_uid_is_refused(tmp_path: Path, volume: Volume) -> None:
    write_series(volume, tmp_path, edit=only(5, lambda image: setattr(image, "SOPInstanceUID", "1.2.3")))
    (tmp_path / "again").mkdir()
    write_series(volume, tmp_path / "again", edit=only(5, lambda image: setattr(image, "SOPInstanceUID", "1.2.3")))
    files = [*tmp_path.glob("*.dcm"), tmp_path / "again" / "5.dcm"]
    with pytest.raises(ImageReadError, match=r"5\.dcm and .*5\.dcm have one UID \(1\.2\.3\)"):
        planes({str(file): file for file in files})


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_jitter_of_20_um_and_positions_of_few_digits_are_accepted(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("jitter")
    volume = Volume(np.arange(24, dtype=np.int16).reshape(6, 2, 2), (0.5, 0.5, 0.625), (3.0, 4.0, 5.0))
    random = np.random.default_rng(seed)

    def jittered(image: Any, k: int) -> None:
        moved(image, tuple(random.uniform(-0.02, 0.02, 3)))
        image.ImagePositionPatient = [round(float(value), 2) for value in image.ImagePositionPatient]

    files = write_series(volume, folder, edit=jittered)
    grid = slice_grid(planes({file.name: file for file in files}))
    assert grid.tilt is None
    read = Volume(volume.voxels, grid.spacing, grid.origin, grid.direction)
    assert np.abs(read.affine @ [1, 1, 5, 1] - volume.affine @ [1, 1, 5, 1]).max() < 0.05
