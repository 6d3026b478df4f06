from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from KDSegmentatorLib.dicom.series import find_series, read_series
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from support.dicom_series import write_series

OBLIQUE = ((0.8, -0.36, 0.48), (0.6, 0.48, -0.64), (0.0, 0.8, 0.6))


@pytest.fixture
def volume() -> Volume:
    voxels = np.random.default_rng(0).integers(-1000, 2000, size=(5, 6, 7), dtype=np.int16)
    return Volume(voxels, (0.7, 0.9, 2.5), (-11.5, 20.25, 7.0), OBLIQUE)


def itk_volume(files: list[Path]) -> Volume:
    """Return a series as ITK reads it, files in the order of the slices."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    image = reader.Execute()
    direction = np.reshape(image.GetDirection(), (3, 3))
    return Volume(
        SimpleITK.GetArrayFromImage(image), image.GetSpacing(), image.GetOrigin(), tuple(map(tuple, direction))
    )


def test_a_series_is_read_as_it_was_written_and_as_itk_reads_it(tmp_path: Path, volume: Volume) -> None:
    files = write_series(volume, tmp_path)
    shuffled = random.Random(1).sample(files, len(files))

    series = read_series(shuffled)

    for other in (volume, itk_volume(files)):
        assert series.volume.same_grid(other)
        assert np.array_equal(series.volume.voxels, other.voxels)
    assert series.volume.voxels.dtype == np.int16
    assert [int(header.InstanceNumber) for header in series.datasets] == [1, 2, 3, 4, 5]
    assert series.modality == "CT"
    assert series.tilt is None
    assert series.on_images(series.volume) is series.volume.voxels


def test_one_of_several_series_is_named_and_never_mixed(tmp_path: Path, volume: Volume) -> None:
    for number in (3, 12):
        (tmp_path / str(number)).mkdir()

        def name(image: object, k: int, number: int = number) -> None:
            image.SeriesNumber, image.SeriesDescription = number, f"kind {number}"

        write_series(volume.with_voxels(volume.voxels + np.int16(number)), tmp_path / str(number), edit=name)

    assert [found.title for found in find_series(tmp_path)] == [
        '3 "kind 3" (CT, 5 images)',
        '12 "kind 12" (CT, 5 images)',
    ]
    with pytest.raises(InvalidSettingsError, match=r"there are 2 series: 3 \"kind 3\".*--series"):
        read_series(tmp_path)
    for choice in ("12", "kind 12", find_series(tmp_path)[1].uid):
        assert np.array_equal(read_series(tmp_path, series=choice).volume.voxels, volume.voxels + 12)
