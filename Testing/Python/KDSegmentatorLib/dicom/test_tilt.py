from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.dicom.series import DicomSeries, read_series
from KDSegmentatorLib.geometry import Volume
from support.dicom_series import write_series

CENTRE, RADIUS = np.array([3.0, -5.0, 12.0]), 14.0


def tilted_series(folder: Path, degrees: float, direction: Any, across: float = 0.0) -> DicomSeries:
    """Write a ball of 14 mm in slices that are tilted as by a gantry, each pixel computed at its own place."""
    size, spacing = (10, 44, 48), (0.9, 1.1, 4.0)
    axes = np.asarray(direction)
    shift = math.tan(math.radians(degrees)) * spacing[2]
    step = spacing[2] * axes[:, 2] + shift * axes[:, 1] + across * axes[:, 0]
    corner = CENTRE - axes @ (np.array(spacing) * (24, 22, 0)) - 4.5 * step
    rows, columns = np.mgrid[: size[1], : size[2]]
    places = [
        corner + k * step + columns[..., None] * spacing[0] * axes[:, 0] + rows[..., None] * spacing[1] * axes[:, 1]
        for k in range(size[0])
    ]
    far = np.linalg.norm(np.stack(places) - CENTRE, axis=-1)
    voxels = np.where(far < RADIUS, 100 - far, -1000).astype(np.int16)

    def placed(image: Any, k: int) -> None:
        image.ImagePositionPatient = [round(float(value), 4) for value in places[k][0, 0]]

    write_series(Volume(voxels, spacing, (0.0, 0.0, 0.0), direction), folder, edit=placed)
    return read_series(folder)


STRAIGHT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
OBLIQUE = ((0.8, -0.36, 0.48), (0.6, 0.48, -0.64), (0.0, 0.8, 0.6))


@pytest.mark.parametrize("degrees", [12.0, -25.0, 1.5])
@pytest.mark.parametrize("direction", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
def test_a_tilted_series_becomes_straight_and_its_labels_lie_on_its_images(
    tmp_path: Path, degrees: float, direction: Any
) -> None:
    series = tilted_series(tmp_path, degrees, direction, across=0.4)

    assert series.tilt is not None
    expected = math.degrees(math.atan(math.hypot(math.tan(math.radians(degrees)), 0.4 / 4)))
    assert series.tilt.degrees == pytest.approx(expected, abs=0.01)
    volume = series.volume
    k, j, i = np.nonzero(volume.voxels > -450)
    places = (volume.affine @ np.stack([i, j, k, np.ones(len(i))]))[:3]
    assert np.abs(places.mean(axis=1) - CENTRE).max() < 0.15, "the ball is where it was scanned"
    assert len(i) * volume.voxel_volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.03), "and as large"

    labels = volume.with_voxels((volume.voxels > -450).astype(np.uint8))
    on_images = series.on_images(labels)
    stored = np.stack(stored_images(tmp_path, series))
    assert on_images.shape == stored.shape
    differing = np.count_nonzero((on_images == 1) != (stored > -450))
    assert differing <= 0.03 * np.count_nonzero(stored > -450), "within half a pixel at the edge"
    inner = np.argwhere(on_images).mean(axis=0) - np.argwhere(stored > -450).mean(axis=0)
    assert np.abs(inner).max() < 0.1, "not shifted"


def test_labels_of_whole_pixel_shifts_come_back_exactly(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 900, size=(5, 8, 7), dtype=np.int16)

    def shifted(image: Any, k: int) -> None:
        x, y, z = image.ImagePositionPatient
        image.ImagePositionPatient = [x - 3 * k, y + 2 * k, z]

    write_series(Volume(voxels, (1.5, 2.0, 5.0)), tmp_path, edit=shifted)
    series = read_series(tmp_path)
    assert series.volume.voxels.shape == (5, 8 + 4, 7 + 8)
    assert np.array_equal(series.on_images(series.volume), voxels)


def test_a_tilt_of_less_than_a_tenth_of_a_voxel_is_none_and_a_small_one_over_many_slices_is(tmp_path: Path) -> None:
    for name, slices in (("short", 4), ("long", 60)):
        (tmp_path / name).mkdir()

        def tilted(image: Any, k: int) -> None:
            x, y, z = image.ImagePositionPatient
            image.ImagePositionPatient = [x, y + k * math.tan(math.radians(0.3)), z]

        voxels = np.arange(slices * 4, dtype=np.int16).reshape(slices, 2, 2)
        write_series(Volume(voxels, (1.0, 1.0, 1.0)), tmp_path / name, edit=tilted)
    assert read_series(tmp_path / "short").tilt is None
    tilt = read_series(tmp_path / "long").tilt
    assert tilt is not None
    assert tilt.degrees == pytest.approx(0.3, abs=1e-3)


def stored_images(folder: Path, series: DicomSeries) -> list[Any]:
    import pydicom

    by_uid = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, folder.glob("*.dcm"))}
    return [by_uid[header.SOPInstanceUID].pixel_array for header in series.datasets]
