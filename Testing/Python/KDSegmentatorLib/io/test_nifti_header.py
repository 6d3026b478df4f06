"""NIfTI headers: what is read, and what is named as bad."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import re
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.geometry import Volume, matrix
from KDSegmentatorLib.io.images import read_volume, write_volume
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
        ([(0, "i", 540)], "not a NIfTI image"),
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


def test_a_scale_beyond_what_a_number_can_hold_is_named(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(ImageReadError, match=r"scales the intensities by 1e\+38.*beyond what a number can hold"):
        read_volume(nifti(tmp_path / "a.nii", (112, "2f", (1e38, 0.0))))
    assert not recwarn.list


ROTATION = Rotation.from_euler("xyz", (0.11, -0.23, 0.37)).as_matrix()


def oblique(path: Path, decimals: int, qcode: int = 1, shape: tuple[int, int, int] = (60, 120, 140)) -> Volume:
    """Write an oblique image whose sform is rounded and whose qform is exact; return the image."""
    volume = scan(shape=shape, spacing=(1.0, 1.0, 2.0), direction=matrix(ROTATION))
    write_volume(volume, path)
    data = bytearray(path.read_bytes())
    rows = np.round(np.diag([-1, -1, 1, 1]) @ volume.affine, decimals)[:3]
    struct.pack_into("<12f", data, SROW, *rows.ravel())
    struct.pack_into("<h", data, QCODE, qcode)
    path.write_bytes(data)
    return volume


@pytest.mark.parametrize("code", [1, 2])
def test_of_a_rounded_sform_and_an_exact_qform_the_exact_one_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    volume = oblique(tmp_path / "a.nii", 3)
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<h", data, SCODE, code)
    (tmp_path / "a.nii").write_bytes(data)
    assert read_volume(tmp_path / "a.nii").same_grid(volume)
    assert re.search(r"a\.nii: the sform is rounded \(up to 0\.\d+ mm off\); the exact qform is taken", caplog.text)


def test_a_rounded_sform_alone_is_refused(tmp_path: Path) -> None:
    oblique(tmp_path / "a.nii", 3, qcode=0)
    with pytest.raises(GeometryError, match="sform: the direction matrix is not orthonormal"):
        read_volume(tmp_path / "a.nii")


def test_a_sheared_sform_is_not_taken_for_a_rounded_one(tmp_path: Path) -> None:
    """A gantry tilt whose qform leaves the tilt out."""
    rows = np.diag([-1.0, -1.0, 2.0, 1.0])
    rows[1, 2] = 0.4
    path = tmp_path / "a.nii"
    write_volume(scan(shape=(60, 120, 140), spacing=(1.0, 1.0, 2.0), origin=(0, 0, 0)), path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<12f", data, SROW, *rows[:3].ravel())
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match="two different things about where the image lies"):
        read_volume(path)


def codes(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    return struct.unpack_from("<2h", data, QCODE)


@pytest.mark.parametrize("given", [(1, 4), (4, 4), (0, 2), (1, 0), (2, 1)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_result_keeps_the_codes_and_forms_of_its_image(tmp_path: Path, given: tuple[int, int], suffix: str) -> None:
    path = nifti(tmp_path / "scan.nii", (QCODE, "2h", given))
    volume = read_volume(path)
    write_volume(volume, tmp_path / f"labels{suffix}", like=path)
    assert codes(tmp_path / f"labels{suffix}") == given
    one, other = path.read_bytes(), (tmp_path / f"labels{suffix}").read_bytes()
    other = gzip.decompress(other) if suffix == ".nii.gz" else other
    assert one[PIXDIM - 4 : PIXDIM + 12] == other[PIXDIM - 4 : PIXDIM + 12]
    assert one[QCODE : SROW + 48] == other[QCODE : SROW + 48]


def test_a_result_of_a_rounded_sform_keeps_it(tmp_path: Path) -> None:
    volume = oblique(tmp_path / "a.nii", 3)
    write_volume(read_volume(tmp_path / "a.nii"), tmp_path / "b.nii", like=tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[QCODE : SROW + 48] == (tmp_path / "b.nii").read_bytes()[QCODE : SROW + 48]
    assert read_volume(tmp_path / "b.nii").same_grid(volume)


def test_forms_of_an_image_that_lies_elsewhere_are_not_taken(tmp_path: Path) -> None:
    elsewhere = nifti(tmp_path / "scan.nii", (QCODE, "2h", (4, 4)))
    volume = scan(origin=(1, 2, 3))
    for like in (elsewhere, tmp_path / "gone.nii", tmp_path):
        write_volume(volume, tmp_path / "labels.nii", like=like)
        assert codes(tmp_path / "labels.nii") == (1, 1)
        assert read_volume(tmp_path / "labels.nii").same_grid(volume)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_label_names_are_kept_in_an_extension_that_other_programs_read(tmp_path: Path, suffix: str) -> None:
    nibabel = pytest.importorskip("nibabel", reason="install the extra 'dev'")
    names = {1: ("Hippocampus", (255, 0, 51)), 2: ("left <&> right]]>", (0, 128, 255))}
    path = tmp_path / f"a{suffix}"
    write_volume(scan("uint8"), path, labels=names)
    np.testing.assert_array_equal(read_volume(path).voxels, scan("uint8").voxels)
    image = nibabel.load(path, mmap=False)
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, scan("uint8").voxels)
    (extension,) = image.header.extensions
    assert extension.get_code() == 0
    table = ElementTree.fromstring(extension.get_content().rstrip(b"\0")).iter("Label")
    found = {int(label.get("Key", -1)): label.text for label in table}
    assert found == {0: "???", 1: "Hippocampus", 2: "left <&> right]] >"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are on POSIX systems")
def test_a_pipe_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii.gz")
    with pytest.raises(ImageReadError, match="it is a pipe or a device, not a file"):
        read_volume(tmp_path / "a.nii.gz")


@given(st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), max_size=6), st.sampled_from((".nii", ".mgh")))
def test_whatever_a_binary_header_says_is_read_or_named(changes: list[tuple[int, int]], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{suffix}")
        if suffix == ".nii":
            write_volume(scan(), path)
        else:
            place = struct.pack(">15f", 1, 1, 2, *np.eye(3).ravel(), 5, 6, 7)
            path.write_bytes(struct.pack(">7ih", 1, 6, 5, 4, 1, 4, 0, 1) + place + bytes(194) + bytes(240))
        data = bytearray(path.read_bytes())
        for offset, value in changes:
            data[offset] = value
        path.write_bytes(data)
        with contextlib.suppress(ImageReadError, GeometryError):
            read_volume(path)
