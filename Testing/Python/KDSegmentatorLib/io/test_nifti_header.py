"""NIfTI headers: what is read, and what is named as bad."""

from __future__ import annotations

import math
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.io.images import read_volume
from support.image_files import PIXDIM, QCODE, SCODE, SROW, nifti, scan


def sform(spacing: tuple[float, float, float] = (0.7, 1.1, 3.0)) -> np.ndarray[Any, Any]:
    """The sform that ITK writes for ``scan()``."""
    rows = np.zeros((3, 4))
    rows[:, :3] = np.diag([-spacing[0], -spacing[1], spacing[2]])
    rows[:, 3] = (12.5, -20.25, 1033.5)
    return rows


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_compressions_read_the_same(tmp_path: Path, suffix: str, order: str) -> None:
    volume = read_volume(nifti(tmp_path / f"a{suffix}", order=order))
    np.testing.assert_array_equal(volume.voxels, scan().voxels)
    assert volume.same_grid(scan())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_an_unusable_pixdim_is_named(tmp_path: Path, suffix: str, order: str, value: float) -> None:
    path = nifti(tmp_path / f"a{suffix}", (PIXDIM + 4, "f", value), order=order)
    with pytest.raises(GeometryError, match=r"a\.nii.*spacing \(pixdim\).*not positive; repair"):
        read_volume(path)


def test_sform_and_qform_that_disagree_are_both_named(tmp_path: Path) -> None:
    rows = sform()
    rows[0, 3] += 5
    path = nifti(tmp_path / "a.nii", (SCODE, "h", 2), (SROW, "12f", tuple(rows.ravel())))
    with pytest.raises(ImageReadError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert "the sform (code 2, aligned) puts voxel" in message
    assert "the qform (code 1, scanner) at" in message
    assert "5 mm apart" in message
    assert "image.set_qform(None)" in message


def test_a_mirrored_sform_is_a_disagreement(tmp_path: Path) -> None:
    rows = sform()
    rows[0] *= -1
    with pytest.raises(ImageReadError, match=r"sform .* qform"):
        read_volume(nifti(tmp_path / "a.nii", (SROW, "12f", tuple(rows.ravel()))))


@pytest.mark.parametrize("code", [QCODE, SCODE])
def test_a_form_with_code_0_does_not_count(tmp_path: Path, code: int) -> None:
    fields: list[tuple[int, str, Any]] = [(code, "h", 0)]
    fields.append((SROW, "12f", tuple(np.zeros(12))) if code == SCODE else (256, "6f", (0.1, 0.2, 0.3, 7, 7, 7)))
    assert read_volume(nifti(tmp_path / "a.nii", *fields)).same_grid(scan())


def test_a_difference_of_a_twentieth_of_a_voxel_is_none(tmp_path: Path) -> None:
    rows = sform()
    rows[0, 3] += 0.7 / 20
    read_volume(nifti(tmp_path / "a.nii", (SROW, "12f", tuple(rows.ravel()))))


def test_an_image_without_orientation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match="left and right cannot be told apart"):
        read_volume(nifti(tmp_path / "a.nii", (QCODE, "2h", (0, 0))))


def test_a_sheared_sform_is_named(tmp_path: Path) -> None:
    rows = sform()
    rows[0, 1] = 0.2
    rows[:, 1] *= 1.1 / np.linalg.norm(rows[:3, 1])
    with pytest.raises(GeometryError, match=r"sform: the direction matrix is not orthonormal.*gantry tilt"):
        read_volume(nifti(tmp_path / "a.nii", (QCODE, "h", 0), (SROW, "12f", tuple(rows.ravel()))))


def test_an_sform_of_another_spacing_is_named(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", (QCODE, "h", 0), (SROW, "12f", tuple(sform((1.4, 1.1, 3.0)).ravel())))
    with pytest.raises(GeometryError, match=r"\(0.7, 1.1, 3\) mm \(pixdim\) and \(1.4, 1.1, 3\) mm \(sform\)"):
        read_volume(path)


@pytest.mark.parametrize("qcode", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_sform_that_is_not_finite_is_named(tmp_path: Path, qcode: int, value: float) -> None:
    with pytest.raises((GeometryError, ImageReadError), match="sform"):
        read_volume(nifti(tmp_path / "a.nii", (QCODE, "h", qcode), (SROW + 4, "f", value)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_qform_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    with pytest.raises(GeometryError, match="qform"):
        read_volume(nifti(tmp_path / "a.nii", (SCODE, "h", 0), (256, "f", value)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([(0, "i", 540)], "NIfTI-2"),
        ([(0, "i", 7)], "not a NIfTI image"),
        ([(344, "4s", b"ni1\0")], "pair"),
        ([(344, "4s", b"\0\0\0\0")], "Analyze"),
        ([(40, "h", 0)], "names 0 axes"),
        ([(40, "h", 2)], "2-D"),
        ([(40, "8h", (4, 6, 5, 2, 2, 1, 1, 1))], r"4-D \(6 x 5 x 2 x 2\)"),
        ([(40, "8h", (5, 6, 5, 2, 1, 2, 1, 1))], "5-D"),
        ([(70, "2h", (128, 24))], "RGB"),
        ([(70, "2h", (32, 64))], "complex"),
        ([(70, "2h", (7, 64))], "unknown type 7"),
    ],
)
def test_other_kinds_of_nifti_are_named(tmp_path: Path, fields: list[Any], message: str) -> None:
    with pytest.raises(ImageReadError, match=message):
        read_volume(nifti(tmp_path / "a.nii", *fields))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("offset", [1e30, 3e38, 2.0**31 + 1024, 1e12, 1e6, 5000])
def test_voxels_that_start_beyond_the_end_are_named(tmp_path: Path, suffix: str, offset: float) -> None:
    with pytest.raises(ImageReadError, match=r"first voxel at byte .* beyond the end of the file"):
        read_volume(nifti(tmp_path / f"a{suffix}", (108, "f", offset)))


def test_an_extension_before_the_voxels_is_skipped(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", (108, "f", 352 + 3_000_000))
    data = path.read_bytes()
    extension = struct.pack("<4B2i", 1, 0, 0, 0, 3_000_000, 6) + bytes(3_000_000 - 8)
    path.write_bytes(data[:348] + extension + data[352:])
    np.testing.assert_array_equal(read_volume(path).voxels, scan().voxels)


@pytest.mark.parametrize("unit", [1, 3])
def test_lengths_that_are_not_in_mm_are_named(tmp_path: Path, unit: int) -> None:
    with pytest.raises(ImageReadError, match=r"lengths are in (micro)?metres .* not mm"):
        read_volume(nifti(tmp_path / "a.nii", (123, "B", unit | 8)))


@pytest.mark.parametrize("unit", [0, 2])
def test_mm_and_no_unit_are_read(tmp_path: Path, unit: int) -> None:
    assert read_volume(nifti(tmp_path / "a.nii", (123, "B", unit | 8))).same_grid(scan())


@pytest.mark.parametrize("length", [0, -3])
def test_an_axis_without_voxels_is_named(tmp_path: Path, length: int) -> None:
    with pytest.raises(GeometryError, match="empty"):
        read_volume(nifti(tmp_path / "a.nii", (46, "h", length)))


def test_a_fourth_axis_of_one_is_a_volume(tmp_path: Path) -> None:
    assert read_volume(nifti(tmp_path / "a.nii", (40, "8h", (4, 6, 5, 4, 1, 1, 1, 1)))).same_grid(scan())


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    volume = read_volume(nifti(tmp_path / "a.nii", (112, "2f", (0.5, -3.0))))
    np.testing.assert_allclose(volume.voxels, scan().voxels * 0.5 - 3)


@pytest.mark.parametrize("scale", [(np.inf, 0.0), (np.nan, 0.0), (1.0, -np.inf)])
def test_a_scale_that_is_not_finite_is_named(tmp_path: Path, scale: tuple[float, float]) -> None:
    with pytest.raises(ImageReadError, match="scl_slope"):
        read_volume(nifti(tmp_path / "a.nii", (112, "2f", scale)))


def test_a_compressed_file_under_an_uncompressed_name_is_named(tmp_path: Path) -> None:
    shutil.move(nifti(tmp_path / "a.nii.gz"), tmp_path / "b.nii")
    with pytest.raises(ImageReadError, match=r"rename it to \.nii\.gz"):
        read_volume(tmp_path / "b.nii")
