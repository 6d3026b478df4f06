"""Images of every format, there and back."""

from __future__ import annotations

import itertools
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from KDSegmentatorLib.errors import ImageWriteError
from KDSegmentatorLib.geometry import matrix
from KDSegmentatorLib.io.images import SUFFIXES, image_suffix, read_volume, write_volume
from support.image_files import scan

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
    """As Latin-1 from an old file server."""
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


def test_real_data_sets_read() -> None:
    folder = os.environ.get("KDSEG_DATA")
    if not folder:
        pytest.skip("set KDSEG_DATA to a folder with Dataset004_Hippocampus and others")
    for dataset in sorted(Path(folder).glob("Dataset*")):
        for path in [*sorted(dataset.glob("imagesTr/*.nii.gz"))[:5], *sorted(dataset.glob("labelsTr/*.nii.gz"))[:5]]:
            assert read_volume(path).voxels.size
