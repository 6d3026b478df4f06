from __future__ import annotations

import contextlib
import gzip
import itertools
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import textwrap
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from KDSegmentatorLib.errors import GeometryError, ImageReadError, ImageWriteError
from KDSegmentatorLib.geometry import MAXIMUM_VOXELS, Volume, matrix
from KDSegmentatorLib.io import images, plain_paths
from KDSegmentatorLib.io.images import SUFFIXES, image_suffix, read_volume, write_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

rotations = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: math.hypot(*q) > 0.1).map(Rotation.from_quat)
half_turns = (
    st.tuples(*[st.floats(-1, 1)] * 3)
    .filter(lambda v: math.hypot(*v) > 0.1)
    .map(lambda v: Rotation.from_rotvec(np.asarray(v) / math.hypot(*v) * math.pi))
)
orders = st.sampled_from(
    [
        np.eye(3)[:, axes] * signs
        for axes in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]
)
DTYPES = ("uint8", "uint16", "int16", "float32")


def scan(dtype: str = "int16", shape: tuple[int, int, int] = (4, 5, 6), **geometry: Any) -> Volume:
    voxels = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    return Volume(voxels, **{"spacing": (0.7, 1.1, 3.0), "origin": (-12.5, 20.25, 1033.5), **geometry})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Round trips


@given(
    st.one_of(rotations, half_turns),
    orders,
    st.tuples(*[st.floats(0.2, 8)] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.sampled_from(SUFFIXES),
    st.sampled_from(DTYPES),
)
@settings(max_examples=200, deadline=None)
def test_a_written_volume_reads_back_in_the_same_place(
    rotation: Rotation, order: Any, spacing: Any, origin: Any, suffix: str, dtype: str
) -> None:
    direction = matrix(rotation.as_matrix() @ order)
    volume = scan(dtype, spacing=spacing, origin=origin, direction=direction)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"scan{suffix}")
        write_volume(volume, path)
        back = read_volume(path)
    assert back.same_grid(volume)
    assert back.voxels.dtype == volume.voxels.dtype
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    index = np.array([5, 2, 3, 1])
    np.testing.assert_allclose(back.affine @ index, volume.affine @ index, atol=1e-3 * min(spacing))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("noise", [1e-6, 1e-5, 4.5e-5])
def test_cosines_with_few_digits_are_kept_over_a_large_volume(tmp_path: Path, suffix: str, noise: float) -> None:
    direction = Rotation.from_euler("xyz", (0.2, -0.4, 1.1)).as_matrix()
    direction[:, 0] += noise * direction[:, 1]
    volume = scan("uint8", (2, 400, 512), direction=matrix(direction))
    write_volume(volume, tmp_path / f"a{suffix}")
    back = read_volume(tmp_path / f"a{suffix}")
    assert back.same_grid(volume)
    np.testing.assert_array_equal(back.voxels, volume.voxels)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [(1, 5, 6), (4, 1, 6), (4, 5, 1)])
def test_a_single_slice_stays_three_dimensional(tmp_path: Path, suffix: str, shape: tuple[int, int, int]) -> None:
    write_volume(scan(shape=shape), tmp_path / f"a{suffix}")
    assert read_volume(tmp_path / f"a{suffix}").voxels.shape == shape


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["with space", "Jürgen Müller", "肺结节", "a.b.c"])
def test_names_with_spaces_and_other_letters(tmp_path: Path, suffix: str, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write_volume(scan(), folder / f"{name}{suffix}")
    assert read_volume(folder / f"{name}{suffix}").same_grid(scan())


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="only on Windows and macOS are all names text")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_are_not_text(tmp_path: Path, suffix: str) -> None:
    """As Latin-1 from an old file server; SimpleITK would end the process."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller")).with_suffix(suffix)
    write_volume(scan(), path)
    np.testing.assert_array_equal(read_volume(path).voxels, scan().voxels)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_upper_case_suffixes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"A{suffix.upper()}"
    write_volume(scan(), path)
    assert read_volume(str(path)).same_grid(scan())
    assert image_suffix(path) == suffix


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_itk_cannot_open_on_windows_go_through_a_plain_one(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = images._open

    def spy(name: str, suffix: str) -> Any:
        seen.append(name)
        return original(name, suffix)

    monkeypatch.setattr(plain_paths, "_needs_plain_name", lambda path: not str(path).isascii())
    monkeypatch.setattr(images, "_open", spy)
    path = tmp_path / f"Größe{suffix}"
    write_volume(scan(), path)
    back = read_volume(path)
    np.testing.assert_array_equal(back.voxels, scan().voxels)
    assert all(name.isascii() for name in seen)
    assert not any(Path(name).exists() for name in seen)


@pytest.mark.parametrize("neighbour", ["scan.nii", "scan.NII"])
def test_voxels_are_never_those_of_the_uncompressed_file_beside(tmp_path: Path, neighbour: str) -> None:
    """ITK takes the voxels of ``scan.nii`` when it is asked for ``scan.nii.gz`` and both are there."""
    right, wrong = scan(), scan().with_voxels(scan().voxels[:, :, ::-1].copy())
    write_volume(right, tmp_path / "scan.nii.gz")
    write_volume(wrong, tmp_path / "other.nii")
    (tmp_path / "other.nii").rename(tmp_path / neighbour)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii.gz").voxels, right.voxels)
    np.testing.assert_array_equal(read_volume(tmp_path / neighbour).voxels, wrong.voxels)


def test_nothing_is_written_where_itk_would_show_another_file(tmp_path: Path) -> None:
    write_volume(scan(), tmp_path / "scan.nii")
    with pytest.raises(ImageWriteError, match=r"scan\.nii lies beside"):
        write_volume(scan(), tmp_path / "scan.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


def test_a_temporary_folder_without_a_plain_name_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volume(scan(), tmp_path / "ö.nii")
    monkeypatch.setattr(plain_paths, "_needs_plain_name", lambda path: True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "ö"))
    with pytest.raises(ImageReadError, match="variable TEMP"):
        read_volume(tmp_path / "ö.nii")


def test_the_voxel_type_is_kept_and_other_byte_orders_are_written(tmp_path: Path) -> None:
    swapped = scan().voxels.astype(">i2")[:, ::-1]
    write_volume(scan().with_voxels(swapped), tmp_path / "a.nii.gz")
    back = read_volume(tmp_path / "a.nii.gz").voxels
    assert back.dtype == np.int16
    np.testing.assert_array_equal(back, swapped)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write_volume(scan(), tmp_path / f"a{suffix}")
        write_volume(scan(), tmp_path / f"b{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


# NIfTI headers


def nifti(path: Path, *fields: tuple[int, str, Any], order: str = "<") -> Path:
    """Write a good NIfTI file, then overwrite fields of its header: (byte offset, struct format, values)."""
    plain = path.with_name("plain.nii")
    write_volume(scan(), plain)
    data = bytearray(plain.read_bytes())
    plain.unlink()
    if order == ">":
        _swap(data)
    for offset, form, values in fields:
        struct.pack_into(f"{order}{form}", data, offset, *(values if isinstance(values, tuple) else (values,)))
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def _swap(data: bytearray) -> None:
    for offset, form in ((0, "i"), (40, "8h"), (70, "2h"), (76, "8f"), (108, "3f"), (252, "2h"), (256, "18f")):
        struct.pack_into(f">{form}", data, offset, *struct.unpack_from(f"<{form}", data, offset))
    data[352:] = np.frombuffer(bytes(data[352:]), "<i2").astype(">i2").tobytes()


SFORM = struct.Struct("<12f")
QCODE, SCODE, PIXDIM, SROW = 252, 254, 80, 280


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


# NRRD and MetaImage headers

NRRD = {
    "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "2 3 4",
    "space directions": "(1,0,0) (0,1,0) (0,0,2)", "endian": "little", "encoding": "raw", "space origin": "(1,2,3)",
}  # fmt: skip
META = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "ElementSpacing": "1 1 2", "Offset": "1 2 3", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "DimSize": "2 3 4",
    "ElementType": "MET_SHORT",
}  # fmt: skip
PIXELS = np.arange(24, dtype="<i2").tobytes()


def nrrd(path: Path, **changes: str | None) -> Path:
    fields = {name: value for name, value in {**NRRD, **changes}.items() if value is not None}
    header = "NRRD0004\n# comment\n" + "".join(f"{name}: {value}\n" for name, value in fields.items())
    path.write_bytes(header.encode() + b"\n" + PIXELS)
    return path


def metaimage(path: Path, **changes: str | None) -> Path:
    fields = {
        name: value for name, value in {**META, "ElementDataFile": "LOCAL", **changes}.items() if value is not None
    }
    fields["ElementDataFile"] = fields.pop("ElementDataFile")
    path.write_bytes("".join(f"{name} = {value}\n" for name, value in fields.items()).encode() + PIXELS)
    return path


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


# Bad files of every format


def itk_file(path: Path, voxels: Any, *, vector_image: bool = False) -> Path:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels, isVector=vector_image), str(path))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4, 5)])
def test_two_and_four_dimensions_are_named(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    path = itk_file(tmp_path / f"a{suffix}", np.arange(math.prod(shape), dtype=np.int16).reshape(shape))
    with pytest.raises(ImageReadError, match=f"{len(shape)}-D"):
        read_volume(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["rgb", "vector", "complex"])
def test_several_components_are_named(tmp_path: Path, suffix: str, kind: str) -> None:
    voxels: Any = np.zeros((3, 4, 5, 3), np.uint8 if kind == "rgb" else np.float32)
    path = tmp_path / f"a{suffix}"
    if kind == "complex":
        SimpleITK.WriteImage(SimpleITK.Image([5, 4, 3], SimpleITK.sitkComplexFloat32), str(path))
    else:
        itk_file(path, voxels, vector_image=True)
    with pytest.raises(ImageReadError, match=r"components|RGB|complex|5-D|4-D"):
        read_volume(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_voxels_that_are_not_finite_are_named(tmp_path: Path, suffix: str, value: float) -> None:
    voxels = scan("float32", (12, 150, 160)).voxels  # more than one piece of the file
    voxels[11, 3, 4] = voxels[11, 100, 2] = value
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(tmp_path / f"a{suffix}"))
    with pytest.raises(ImageReadError, match=r"voxels are NaN or infinite, the first at \(i, j, k\) = \(4, 3, 11\)"):
        read_volume(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_voxels_that_are_not_finite_are_not_written(tmp_path: Path, suffix: str) -> None:
    volume = scan("float64")
    volume.voxels[2, 3, 4] = math.nan
    with pytest.raises(ImageWriteError, match=r"first at \(i, j, k\) = \(4, 3, 2\)"):
        write_volume(volume, tmp_path / f"a{suffix}")
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_constant_image_is_named_unless_allowed(tmp_path: Path, suffix: str) -> None:
    volume = scan().with_voxels(np.zeros((4, 5, 6), np.uint8))
    write_volume(volume, tmp_path / f"a{suffix}")
    with pytest.raises(ImageReadError, match="every voxel has the value 0"):
        read_volume(tmp_path / f"a{suffix}")
    assert read_volume(tmp_path / f"a{suffix}", allow_constant=True).same_grid(volume)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    write_volume(scan(shape=(20, 30, 40)), tmp_path / f"a{suffix}")
    data = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"b{suffix}").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageReadError, match=r"b\.n.*(truncated|damaged)|b\.mha.*truncated"):
        read_volume(tmp_path / f"b{suffix}")


class Endless:
    """A compressed stream that would go on for ever, and counts what is taken from it."""

    def __init__(self, start: bytes) -> None:
        self.start, self.taken = start, 0

    def read(self, size: int) -> bytes:
        data, self.start = self.start[:size], self.start[size:]
        data += bytes(size - len(data))
        self.taken += size
        return data


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_an_endless_file_is_not_read_to_its_end(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = nifti(tmp_path / "plain.nii").read_bytes() if suffix == ".nii.gz" else PIXELS
    endless = Endless(start)
    path = tmp_path / f"a{suffix}"
    if suffix == ".nii.gz":
        path.write_bytes(gzip.compress(start))
    else:
        nrrd(path, encoding="gzip")
    monkeypatch.setattr(gzip, "GzipFile", lambda fileobj: endless)
    with pytest.raises(ImageReadError, match="damaged: much more follows"):
        read_volume(path)
    assert endless.taken < 4_000_000


def test_a_compressed_metaimage_that_goes_on_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = metaimage(tmp_path / "a.mha", CompressedData="True")
    header = path.read_bytes().partition(b"LOCAL\n")
    path.write_bytes(header[0] + header[1] + zlib.compress(PIXELS + bytes(50_000_000)))
    with pytest.raises(ImageReadError, match="damaged: much more follows"):
        read_volume(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_little_padding_at_the_end_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".nrrd":
        path = nrrd(path)
    elif suffix == ".mha":
        path = metaimage(path)
    else:
        path = nifti(path)
    data = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(data) + bytes(512)) if path.suffix == ".gz" else data + bytes(512))
    assert read_volume(path).voxels.any()


@pytest.mark.parametrize("skip", ["-1", "1000000000000"])
@pytest.mark.parametrize("name", ["byte skip", "line skip"])
def test_a_compressed_nrrd_that_skips_is_refused(tmp_path: Path, name: str, skip: str) -> None:
    with pytest.raises(ImageReadError, match=f"{name} of {skip}"):
        read_volume(nrrd(tmp_path / "a.nrrd", **{"encoding": "gzip", name: skip}))


@pytest.mark.parametrize("dtype", ["complex64", "float16", "object"])
def test_only_real_numbers_come_out(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volume(scan(), tmp_path / "a.nrrd")
    monkeypatch.setattr(SimpleITK, "GetArrayFromImage", lambda image: scan().voxels.astype(dtype))
    with pytest.raises(ImageReadError, match=f"the voxels are {dtype}"):
        read_volume(tmp_path / "a.nrrd")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_changed_bit_in_compressed_voxels_is_named(tmp_path: Path, suffix: str) -> None:
    write_volume(scan(shape=(20, 30, 40)), tmp_path / f"a{suffix}")
    data = bytearray((tmp_path / f"a{suffix}").read_bytes())
    data[len(data) * 2 // 3] ^= 0x10
    (tmp_path / f"a{suffix}").write_bytes(data)
    with pytest.raises(ImageReadError, match="damaged"):
        read_volume(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "truncated|not an? |damaged"),
        (bytes(1000), "not an? |NIfTI|damaged"),
        (np.random.default_rng(1).bytes(5000), "not an? |damaged"),
        (b"\x1f\x8b" + bytes(400), "damaged|compressed|not an? "),
        (b"NRRD0004\n", "truncated|not an? "),
        (b"NDims = 3\n", "truncated|not an? "),
        (b"\n" * 3_000_000, "not an? "),
    ],
)
def test_a_file_that_is_no_image_is_named(
    tmp_path: Path, suffix: str, content: bytes, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(ImageReadError, match=message):
        read_volume(tmp_path / f"a{suffix}")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_gigantic_image_is_named_before_its_pixels_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".nrrd":
        nrrd(path, sizes="30000 30000 30000")
    elif suffix == ".mha":
        metaimage(path, DimSize="30000 30000 30000")
    else:
        nifti(path, (42, "3h", (30000, 30000, 30000)))
    with pytest.raises((GeometryError, ImageReadError), match=f"limit of {MAXIMUM_VOXELS:,}"):
        read_volume(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=r"missing\.nii: there is no such file"):
        read_volume(tmp_path / "missing.nii")


@pytest.mark.parametrize("suffix", ["", *SUFFIXES])
def test_a_folder_is_named(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").mkdir()
    with pytest.raises(ImageReadError, match=r"it is a folder.*DICOM"):
        read_volume(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("name", ["a.dcm", "a", "a.nii.gz.zip", "a.hdr", "nii.gz.txt"])
def test_another_suffix_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ImageReadError, match=r"must end in one of \.nii\.gz, \.nii, \.nrrd, \.mha"):
        read_volume(tmp_path / name)


# Writing into places where it fails


@contextlib.contextmanager
def without_privileges() -> Iterator[Path]:
    """A folder that cannot be written into, with a file that cannot be read; root becomes nobody for the while."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    try:
        write_volume(scan(), folder / "a.nii.gz")
        (folder / "a.nii.gz").chmod(0)
        folder.chmod(0o555)
        if root:
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="chmod does not take rights away on Windows")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_without_permission_is_named(suffix: str) -> None:
    with without_privileges() as folder:
        with pytest.raises(ImageWriteError, match="no permission; write into a folder of your own"):
            write_volume(scan(), folder / f"b{suffix}")
        assert names(folder) == ["a.nii.gz"]


@pytest.mark.skipif(sys.platform == "win32", reason="chmod does not take rights away on Windows")
def test_a_file_without_permission_is_named() -> None:
    with without_privileges() as folder, pytest.raises(ImageReadError, match="no permission"):
        read_volume(folder / "a.nii.gz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_folder_is_named(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ImageWriteError, match="there is no folder"):
        write_volume(scan(), tmp_path / "missing" / f"a{suffix}")


def test_an_unsupported_suffix_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageWriteError, match="must end in one of"):
        write_volume(scan(), tmp_path / "a.jpg")
    assert names(tmp_path) == []


@pytest.mark.parametrize("dtype", [np.float16, np.bool_, np.complex64])
def test_an_unsupported_voxel_type_is_named(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(ImageWriteError, match="cannot be stored; convert them"):
        write_volume(scan().with_voxels(np.zeros((4, 5, 6), dtype)), tmp_path / "a.nii.gz")
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_place_that_nifti_cannot_hold_is_named(tmp_path: Path, suffix: str) -> None:
    volume = scan(origin=(1_000_000.123, 0, 0))
    with pytest.raises(ImageWriteError, match=r"cannot hold where this volume lies.*write \.nrrd or \.mha"):
        write_volume(volume, tmp_path / f"a{suffix}")
    assert names(tmp_path) == []
    write_volume(volume, tmp_path / "a.nrrd")
    assert read_volume(tmp_path / "a.nrrd").same_grid(volume)


def test_an_axis_that_nifti_cannot_count_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageWriteError, match="40000 is greater than maximum possible"):
        write_volume(scan("uint8", (1, 1, 40_000)), tmp_path / "a.nii.gz")
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_writer_that_stops_in_the_middle_is_noticed(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"old")
    original: Callable[..., Any] = SimpleITK.ImageFileWriter.Execute

    def short(self: Any, image: Any) -> None:
        original(self, image)
        path = Path(self.GetFileName())
        os.truncate(path, path.stat().st_size - 20)

    monkeypatch.setattr(SimpleITK.ImageFileWriter, "Execute", short)
    with pytest.raises(ImageWriteError, match=r"does not read back\. The disk has .* MB left: free some space"):
        write_volume(scan(), tmp_path / f"a{suffix}")
    assert names(tmp_path) == [f"a{suffix}"]
    assert (tmp_path / f"a{suffix}").read_bytes() == b"old"


DISK_FULL = """
    import resource, sys
    import numpy as np
    from pathlib import Path
    from KDSegmentatorLib.errors import ImageWriteError
    from KDSegmentatorLib.geometry import Volume
    from KDSegmentatorLib.io.images import write_volume
    voxels = np.random.default_rng(0).integers(0, 200, (40, 50, 60)).astype(np.int16)
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write_volume(Volume(voxels, (1.0, 1.0, 1.0)), Path(sys.argv[1]))
    except ImageWriteError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE is the disk that fills up")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("limit", [0, 100, 5000, 100_000])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, suffix: str, limit: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DISK_FULL), tmp_path / f"a{suffix}", str(limit)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "free some space" in run.stdout
    assert names(tmp_path) == []


# Real data


def test_real_data_sets_read() -> None:
    folder = os.environ.get("KDSEG_DATA")
    if not folder:
        pytest.skip("set KDSEG_DATA to a folder with Dataset004_Hippocampus and others")
    for dataset in sorted(Path(folder).glob("Dataset*")):
        for path in [*sorted(dataset.glob("imagesTr/*.nii.gz"))[:5], *sorted(dataset.glob("labelsTr/*.nii.gz"))[:5]]:
            assert read_volume(path).voxels.size


def test_reading_needs_simpleitk_only_when_used() -> None:
    code = "import sys, KDSegmentatorLib.io.images; print('SimpleITK' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
