"""Bad files of every format are named, before they take memory or time."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from KDSegmentatorLib.errors import GeometryError, ImageReadError, ImageWriteError
from KDSegmentatorLib.geometry import MAXIMUM_VOXELS
from KDSegmentatorLib.io.images import SUFFIXES, read_volume, write_volume
from support.image_files import PIXELS, metaimage, names, nifti, nrrd, scan


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
