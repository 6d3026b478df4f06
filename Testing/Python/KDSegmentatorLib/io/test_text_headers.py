"""NRRD and MetaImage headers: what is read, and what is named as bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.io.images import read_volume
from support.image_files import metaimage, nrrd


def test_hand_made_nrrd_and_metaimage_read(tmp_path: Path) -> None:
    first, second = read_volume(nrrd(tmp_path / "a.nrrd")), read_volume(metaimage(tmp_path / "a.mha"))
    assert first.same_grid(second)
    assert first.spacing == (1, 1, 2)
    assert first.origin == (1, 2, 3)
    np.testing.assert_array_equal(first.voxels, second.voxels)


def test_an_nrrd_in_ras_is_turned_to_lps(tmp_path: Path) -> None:
    volume = read_volume(nrrd(tmp_path / "a.nrrd", space="right-anterior-superior"))
    assert volume.axis_codes == "RAS"
    assert volume.origin == (-1, -2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space directions": "(0,0,0) (0,1,0) (0,0,2)"}, "not (finite|positive)|NaN|ITK"),
        ({"space directions": "(nan,nan,nan) (0,1,0) (0,0,2)"}, "a.nrrd"),
        ({"space directions": "none (0,1,0) (0,0,2)"}, "an axis has no direction"),
        ({"space directions": "(1,0,0) (0.5,1,0) (0,0,2)"}, "not orthonormal"),
        ({"space directions": None}, "no spacing"),
        ({"space directions": None, "spacings": "0 1 1"}, "spacings: 0 1 1.*not positive"),
        ({"space directions": None, "spacings": "-1 1 1"}, "not positive"),
        ({"space directions": None, "spacings": "nan 1 1"}, "not positive"),
        ({"space directions": None, "spacings": "1 1 1", "space": None, "space origin": None}, "left and right"),
        ({"space": None, "space dimension": "3"}, "left and right"),
        ({"space": "scanner-xyz"}, "space: scanner-xyz"),
        ({"space units": '"cm" "cm" "cm"'}, "lengths are in cm"),
        ({"space origin": "(nan,nan,nan)"}, "not finite|ITK"),
        ({"data file": "a.raw"}, "in another file"),
        ({"sizes": "2 3 4 5", "dimension": "4"}, "4-D"),
        ({"sizes": "2 3", "dimension": "2"}, "2-D"),
        ({"encoding": "gzip"}, "truncated or damaged"),
        ({"sizes": "2 3 5"}, "truncated: it holds 48 of 60 bytes"),
        ({"type": "nonsense"}, "ITK cannot read it"),
    ],
)
def test_a_bad_nrrd_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((GeometryError, ImageReadError), match=message):
        read_volume(nrrd(tmp_path / "a.nrrd", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ElementSpacing": "0 1 1"}, "ElementSpacing: 0 1 1.*not positive"),
        ({"ElementSpacing": "-1 1 1"}, "not positive"),
        ({"ElementSpacing": "nan 1 1"}, "not positive"),
        ({"ElementSpacing": "1 a 1"}, "not positive"),
        ({"ElementSpacing": None}, "no spacing"),
        ({"TransformMatrix": "1 0.5 0 0 1 0 0 0 1"}, "not orthonormal"),
        ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, "not orthonormal"),
        ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, "not orthonormal"),
        ({"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, "TransformMatrix .* not finite"),
        ({"Offset": "nan 0 0"}, "Offset .* not finite"),
        ({"DistanceUnits": "cm"}, "'cm', not mm"),
        ({"ElementNumberOfChannels": "2", "DimSize": "2 3 2"}, "2 components"),
        ({"DimSize": "2 3 5"}, "truncated: it holds 48 of 60 bytes"),
        ({"CompressedData": "True"}, "damaged"),
        ({"ElementDataFile": "a.raw"}, "in another file"),
        ({"ElementType": "MET_NONSENSE"}, "ITK cannot read it"),
    ],
)
def test_a_bad_metaimage_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((GeometryError, ImageReadError), match=message):
        read_volume(metaimage(tmp_path / "a.mha", **changes))
