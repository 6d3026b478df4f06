"""NRRD and MetaImage headers: what is read, and what is named as bad."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import locale
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.io.images import SUFFIXES, read_volume, write_volume
from support.image_files import META, NRRD, PIXELS, metaimage, nrrd, scan


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
        ({"space directions": "(0,0,0) (0,1,0) (0,0,2)"}, "not positive"),
        ({"space directions": "(nan,nan,nan) (0,1,0) (0,0,2)"}, "not finite"),
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
        ({"space origin": "(nan,nan,nan)"}, "not finite"),
        ({"data file": "b.raw"}, "in another file, .*b.raw, and that is missing"),
        ({"sizes": "2 3 4 5", "dimension": "4"}, "4-D"),
        ({"sizes": "2 3", "dimension": "2"}, "2-D"),
        ({"encoding": "gzip"}, "truncated or damaged"),
        ({"sizes": "2 3 5"}, "truncated: it holds 48 of 60 bytes"),
        ({"type": "nonsense"}, "of the type 'nonsense'"),
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
        ({"ElementByteOrderMSB": "True"}, "two different things about the order of bytes"),
        ({"DimSize": "2 3 5"}, "truncated: it holds 48 of 60 bytes"),
        ({"CompressedData": "True"}, "damaged"),
        ({"ElementDataFile": "b.raw"}, "in another file, .*b.raw, and that is missing"),
        ({"ElementType": "MET_NONSENSE"}, "of the type 'MET_NONSENSE'"),
    ],
)
def test_a_bad_metaimage_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((GeometryError, ImageReadError), match=message):
        read_volume(metaimage(tmp_path / "a.mha", **changes))


@pytest.fixture
def decimal_comma() -> Iterator[None]:
    """A locale with a decimal comma, as Qt programs in Germany or France set it."""
    before = locale.setlocale(locale.LC_ALL)
    for name in ("de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "German_Germany.1252", "de_DE"):
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            continue
        if locale.localeconv()["decimal_point"] == ",":
            break
    else:
        pytest.skip("no locale with a decimal comma is installed")
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.usefixtures("decimal_comma")
def test_a_decimal_comma_changes_nothing(tmp_path: Path, suffix: str) -> None:
    volume = scan(spacing=(1.5, 1.5, 2.5), origin=(-12.5, 20.25, 1033.75))
    write_volume(volume, tmp_path / f"a{suffix}")
    back = read_volume(tmp_path / f"a{suffix}")
    assert back.spacing == (1.5, 1.5, 2.5)
    assert back.origin == volume.origin
    np.testing.assert_array_equal(back.voxels, volume.voxels)


@given(
    st.tuples(*[st.floats(1e-3, 1e3)] * 3),
    st.tuples(*[st.floats(-1e5, 1e5)] * 3),
)
def test_every_digit_of_a_text_header_is_kept(spacing: Any, origin: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".nrrd", ".mha"):
            path = Path(folder, f"a{suffix}")
            write_volume(scan(spacing=spacing, origin=origin), path)
            assert read_volume(path).spacing == spacing
            assert read_volume(path).origin == origin


@pytest.mark.parametrize("changes", [{"space directions": None, "spacings": "1 1 2"}, {"spacings": "1 1 2"}])
def test_an_nrrd_with_a_space_and_spacings_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ImageReadError, match=r"space: left-posterior-superior.*spacings: 1 1 2.*space directions"):
        read_volume(nrrd(tmp_path / "a.nrrd", **changes))


def test_a_metaimage_without_orientation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=r"no TransformMatrix.*left and right cannot be told apart"):
        read_volume(metaimage(tmp_path / "a.mha", TransformMatrix=None))


@pytest.mark.parametrize(("letters", "fits"), [("RAI", True), ("???", True), ("LPS", False), ("RPI", False)])
def test_an_orientation_that_contradicts_the_matrix_is_refused(tmp_path: Path, letters: str, fits: bool) -> None:
    path = metaimage(tmp_path / "a.mha", AnatomicalOrientation=letters)
    if fits:
        assert read_volume(path).axis_codes == "LPS"
        return
    with pytest.raises(ImageReadError, match=f"AnatomicalOrientation is {letters}, TransformMatrix 1 0 0 0 1 0 0 0 1"):
        read_volume(path)


@pytest.mark.parametrize("name", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_big_endian_metaimage_is_swapped(tmp_path: Path, name: str, compressed: bool) -> None:
    order = {"BinaryDataByteOrderMSB": None, name: "True"}
    path = metaimage(tmp_path / "a.mha", CompressedData=str(compressed), **order)
    voxels = np.arange(24, dtype=">i2").tobytes()
    header = path.read_bytes().partition(b"LOCAL\n")
    path.write_bytes(header[0] + header[1] + (zlib.compress(voxels) if compressed else voxels))
    np.testing.assert_array_equal(read_volume(path).voxels.ravel(), np.arange(24))


def test_slope_and_offset_of_a_metaimage_are_applied(tmp_path: Path) -> None:
    path = metaimage(
        tmp_path / "a.mha", ElementToIntensityFunctionSlope="0.5", ElementToIntensityFunctionOffset="-1024"
    )
    np.testing.assert_array_equal(read_volume(path).voxels.ravel(), np.arange(24) * 0.5 - 1024)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("ascii", b" ".join(str(n).encode() for n in range(24))),
        ("hex", PIXELS.hex().encode()),
        ("bzip2", bz2.compress(PIXELS)),
        ("gzip", gzip.compress(PIXELS)),
    ],
)
def test_every_encoding_of_nrrd_is_read(tmp_path: Path, encoding: str, data: bytes) -> None:
    path = nrrd(tmp_path / "a.nrrd", encoding=encoding)
    path.write_bytes(path.read_bytes().removesuffix(PIXELS) + data)
    np.testing.assert_array_equal(read_volume(path).voxels.ravel(), np.arange(24))


@pytest.mark.parametrize("lost", [1, 20])
@pytest.mark.parametrize("encoding", ["ascii", "hex", "bzip2"])
def test_a_truncated_encoding_is_named(tmp_path: Path, encoding: str, lost: int) -> None:
    data = {"ascii": b"1 " * 23, "hex": PIXELS.hex().encode()[:-lost], "bzip2": bz2.compress(PIXELS)[:-lost]}
    path = nrrd(tmp_path / "a.nrrd", encoding=encoding)
    path.write_bytes(path.read_bytes().removesuffix(PIXELS) + data[encoding])
    with pytest.raises(ImageReadError, match=r"truncated|damaged"):
        read_volume(path)


@pytest.mark.parametrize(
    ("name", "listed"),
    [("LIST", "slice-1.raw\nslice-2.raw\nslice-3.raw\nslice-4.raw\n"), ("slice-%d.raw 1 4 1", "")],
)
def test_voxels_in_several_files_are_read(tmp_path: Path, name: str, listed: str) -> None:
    for number in range(4):
        (tmp_path / f"slice-{number + 1}.raw").write_bytes(PIXELS[12 * number : 12 * number + 12])
    first, second = tmp_path / "a.nhdr", tmp_path / "a.mhd"
    fields = "".join(f"{key}: {value}\n" for key, value in NRRD.items())
    first.write_text(f"NRRD0004\n{fields}data file: {name}\n{listed or chr(10)}", encoding="utf-8")
    fields = "".join(f"{key} = {value}\n" for key, value in META.items())
    second.write_text(f"{fields}ElementDataFile = {name}\n{listed}", encoding="utf-8")
    for path in (first, second):
        np.testing.assert_array_equal(read_volume(path).voxels.ravel(), np.arange(24))


@given(st.dictionaries(st.sampled_from([*NRRD, "spacings", "kinds", "data file", "byte skip"]), st.text(max_size=30)))
def test_whatever_an_nrrd_header_says_is_read_or_named(changes: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nrrd")
        fields = "".join(f"{name}: {value}\n" for name, value in {**NRRD, **changes}.items())
        path.write_bytes(f"NRRD0004\n{fields}\n".encode("utf-8", "replace") + PIXELS)
        with contextlib.suppress(ImageReadError, GeometryError):
            read_volume(path)


@given(st.dictionaries(st.sampled_from([*META, "HeaderSize", "CompressedData"]), st.text(max_size=30)))
def test_whatever_a_metaimage_header_says_is_read_or_named(changes: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.mha")
        fields = "".join(f"{name} = {value}\n" for name, value in {**META, **changes}.items())
        path.write_bytes(f"{fields}ElementDataFile = LOCAL\n".encode("utf-8", "replace") + PIXELS)
        with contextlib.suppress(ImageReadError, GeometryError):
            read_volume(path)


@pytest.mark.parametrize(
    "name", ["slice-%d-%d.raw 1 4 1", "%s%%% 1 4 1", "%q 1 4 1", "slice-%d.raw 1 1000000000000 0", "% % % %", "LIST"]
)
def test_a_pattern_that_names_no_files_is_refused(tmp_path: Path, name: str) -> None:
    fields = "".join(f"{key}: {value}\n" for key, value in NRRD.items())
    (tmp_path / "a.nhdr").write_text(f"NRRD0004\n{fields}data file: {name}\n", encoding="utf-8")
    fields = "".join(f"{key} = {value}\n" for key, value in META.items())
    (tmp_path / "a.mhd").write_text(f"{fields}ElementDataFile = {name}\n", encoding="utf-8")
    for path in (tmp_path / "a.nhdr", tmp_path / "a.mhd"):
        with pytest.raises(ImageReadError, match=r"no pattern|missing"):
            read_volume(path)


@pytest.mark.parametrize("size", ["1_0", "1,5", "9" * 5000, "+-1", "1e0"])
def test_numbers_are_those_of_the_formats_not_of_python(tmp_path: Path, size: str) -> None:
    for path in (nrrd(tmp_path / "a.nrrd", sizes=f"2 3 {size}"), metaimage(tmp_path / "a.mha", DimSize=f"2 3 {size}")):
        with pytest.raises(GeometryError, match="empty"):
            read_volume(path)


@pytest.mark.parametrize("spacing", ["1_0", "1,5", "+-1"])
def test_spacings_are_those_of_the_formats_not_of_python(tmp_path: Path, spacing: str) -> None:
    with pytest.raises(GeometryError, match=r"ElementSpacing: 1 1 .* is not positive"):
        read_volume(metaimage(tmp_path / "a.mha", ElementSpacing=f"1 1 {spacing}"))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_field_that_is_there_twice_with_two_values_is_refused(tmp_path: Path, suffix: str) -> None:
    path = (nrrd if suffix == ".nrrd" else metaimage)(tmp_path / f"a{suffix}")
    first = b"sizes" if suffix == ".nrrd" else b"DimSize"
    header = path.read_bytes()
    line = next(line for line in header.splitlines(keepends=True) if line.startswith(first))
    path.write_bytes(header.replace(line, line + line))
    assert read_volume(path).size  # the same twice contradicts nothing
    path.write_bytes(header.replace(line, line + line.replace(line.split()[-1], b"9")))
    with pytest.raises(ImageReadError, match="two different things"):
        read_volume(path)


def test_a_decimal_comma_in_a_header_is_named(tmp_path: Path) -> None:
    path = metaimage(tmp_path / "a.mha")
    line = next(line for line in path.read_bytes().splitlines() if line.startswith(b"ElementSpacing"))
    path.write_bytes(path.read_bytes().replace(line, b"ElementSpacing = 1,5 1,5 2,5"))
    with pytest.raises(GeometryError, match="decimal point, not a comma"):
        read_volume(path)
