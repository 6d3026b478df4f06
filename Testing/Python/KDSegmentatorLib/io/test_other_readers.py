"""The same file gives the same voxels in the same place as SimpleITK (3D Slicer, ITK-SNAP) and nibabel give."""

from __future__ import annotations

import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from KDSegmentatorLib.errors import ImageReadError
from KDSegmentatorLib.geometry import Volume, matrix, vector
from KDSegmentatorLib.io.images import SUFFIXES, read_grid, read_volume, write_volume
from support.image_files import scan

nibabel = pytest.importorskip("nibabel", reason="install the extra 'dev'")

ORDERS = [
    np.eye(3)[:, axes] * signs
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

rotations = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: math.hypot(*q) > 0.1).map(Rotation.from_quat)
placed = st.builds(
    lambda rotation, order, spacing, origin: scan(
        spacing=spacing, origin=origin, direction=matrix(rotation.as_matrix() @ order)
    ),
    st.one_of(st.just(Rotation.identity()), rotations),
    st.sampled_from(ORDERS),
    st.tuples(*[st.floats(0.2, 8)] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
)


def itk_image(volume: Volume) -> Any:
    image = SimpleITK.GetImageFromArray(volume.voxels)
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection([cosine for row in volume.direction for cosine in row])
    return image


def as_itk_reads(path: Path) -> Volume:
    image = SimpleITK.ReadImage(str(path))
    return Volume(
        SimpleITK.GetArrayFromImage(image),
        vector(image.GetSpacing()),
        vector(image.GetOrigin()),
        matrix(image.GetDirection()),
    )


def as_nibabel_reads(path: Path, frame: int | None = None) -> Volume:
    image = nibabel.load(path, mmap=False)
    voxels = np.asanyarray(image.dataobj)
    lps = RAS_TO_LPS @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    voxels = (voxels if frame is None else voxels[..., frame]).T
    return Volume(voxels, vector(spacing), vector(lps[:3, 3]), matrix(lps[:3, :3] / spacing))


def assert_same(one: Volume, other: Volume) -> None:
    assert one.same_grid(other)
    np.testing.assert_array_equal(one.voxels, other.voxels)


@given(placed, st.sampled_from((*SUFFIXES, ".nhdr", ".mhd")), st.booleans())
@settings(max_examples=100)
def test_what_itk_writes_reads_as_itk_reads_it(volume: Volume, suffix: str, compressed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"scan{suffix}")
        SimpleITK.WriteImage(itk_image(volume), str(path), compressed)
        assert_same(read_volume(path), as_itk_reads(path))
        assert read_grid(path).same_grid(volume)


@given(placed, st.sampled_from(SUFFIXES))
@settings(max_examples=100)
def test_itk_reads_what_is_written(volume: Volume, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"scan{suffix}")
        write_volume(volume, path)
        assert_same(as_itk_reads(path), volume)


@given(placed)
@settings(max_examples=50)
def test_nibabel_reads_what_is_written(volume: Volume) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scan.nii.gz")
        write_volume(volume, path)
        assert_same(as_nibabel_reads(path), volume)


@pytest.mark.parametrize(
    "dtype",
    ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_voxel_type_is_the_same_to_itk(tmp_path: Path, suffix: str, dtype: str) -> None:
    volume = scan(dtype)
    write_volume(volume, tmp_path / f"ours{suffix}")
    SimpleITK.WriteImage(itk_image(volume), str(tmp_path / f"itk{suffix}"))
    for path in (tmp_path / f"ours{suffix}", tmp_path / f"itk{suffix}"):
        for reads in (read_volume, as_itk_reads):
            assert reads(path).voxels.dtype == volume.voxels.dtype
            assert_same(reads(path), volume)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_all_axis_orders_are_the_same_to_itk(tmp_path: Path, suffix: str) -> None:
    for number, order in enumerate(ORDERS):
        volume = scan(direction=matrix(order))
        write_volume(volume, tmp_path / f"ours-{number}{suffix}")
        SimpleITK.WriteImage(itk_image(volume), str(tmp_path / f"itk-{number}{suffix}"))
        assert_same(as_itk_reads(tmp_path / f"ours-{number}{suffix}"), volume)
        assert_same(read_volume(tmp_path / f"itk-{number}{suffix}"), volume)


def nibabel_file(path: Path, kind: Any, volume: Volume, frames: int = 1) -> Path:
    voxels = np.stack([volume.voxels.T + 10 * frame for frame in range(frames)], axis=-1)
    voxels = voxels if frames > 1 else voxels[..., 0]
    nibabel.save(kind(voxels, RAS_TO_LPS @ volume.affine), path)
    return path


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # nibabel's
@given(placed, st.sampled_from((".mgz", ".mgh", ".nii", ".nii.gz")))
@settings(max_examples=60)
def test_freesurfer_and_nifti_2_read_as_nibabel_reads_them(volume: Volume, suffix: str) -> None:
    kind = nibabel.MGHImage if "mg" in suffix else nibabel.Nifti2Image
    with tempfile.TemporaryDirectory() as folder:
        path = nibabel_file(Path(folder, f"scan{suffix}"), kind, volume)
        assert_same(read_volume(path), as_nibabel_reads(path))
        assert read_volume(path).same_grid(volume)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".nii.gz", "Nifti1Image"), (".nii", "Nifti2Image"), (".mgz", "MGHImage")]
)
def test_one_volume_of_a_4d_file(tmp_path: Path, suffix: str, kind: str) -> None:
    path = nibabel_file(tmp_path / f"scan{suffix}", getattr(nibabel, kind), scan(), frames=3)
    for frame in range(3):
        assert_same(read_volume(path, frame=frame), as_nibabel_reads(path, frame))
    with pytest.raises(ImageReadError, match=r"4-D \(6 x 5 x 4 x 3\), not 3-D.*--frame .*0 to 2"):
        read_volume(path)
    with pytest.raises(ImageReadError, match=r"no volume 3 .* 0 to 2"):
        read_volume(path, frame=3)


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_one_volume_of_a_4d_metaimage(tmp_path: Path, suffix: str) -> None:
    volumes = [scan().with_voxels(scan().voxels + 10 * frame) for frame in range(3)]
    path = tmp_path / f"scan{suffix}"
    SimpleITK.WriteImage(SimpleITK.JoinSeries([itk_image(volume) for volume in volumes]), str(path), True)
    for frame, volume in enumerate(volumes):
        assert_same(read_volume(path, frame=frame), volume)


@pytest.mark.parametrize("first", [True, False], ids=["voxel by voxel", "volume by volume"])
def test_one_volume_of_a_4d_nrrd(tmp_path: Path, first: bool) -> None:
    """As 3D Slicer's MultiVolume files and sequences are."""
    volumes = np.stack([scan().voxels + 10 * frame for frame in range(3)])
    stored = np.moveaxis(volumes, 0, -1) if first else volumes
    sizes, kinds, directions = (
        ("3 6 5 4", "list domain domain domain", "none (0.7,0,0) (0,1.1,0) (0,0,3)")
        if first
        else ("6 5 4 3", "domain domain domain list", "(0.7,0,0) (0,1.1,0) (0,0,3) none")
    )
    header = (
        "NRRD0004\ntype: short\ndimension: 4\nspace: left-posterior-superior\n"
        f"sizes: {sizes}\nkinds: {kinds}\nspace directions: {directions}\n"
        "endian: little\nencoding: raw\nspace origin: (-12.5,20.25,1033.5)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + np.ascontiguousarray(stored, "<i2").tobytes())
    for frame in range(3):
        assert_same(read_volume(tmp_path / "a.nrrd", frame=frame), scan().with_voxels(volumes[frame]))


@pytest.mark.parametrize("scale", [(0.3, -3.0), (2.0, 0.0), (1.0, 5.0)])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_scaled_intensities_are_those_of_itk(tmp_path: Path, dtype: str, scale: tuple[float, float]) -> None:
    path = tmp_path / "a.nii"
    write_volume(scan(dtype), path)
    data = bytearray(path.read_bytes())
    data[112:120] = np.array(scale, "<f4").tobytes()
    path.write_bytes(data)
    assert read_volume(path).voxels.dtype == as_itk_reads(path).voxels.dtype
    assert_same(read_volume(path), as_itk_reads(path))
