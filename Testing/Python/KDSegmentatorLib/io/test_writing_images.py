"""Writing into places where it fails."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from KDSegmentatorLib.errors import ImageReadError, ImageWriteError
from KDSegmentatorLib.io.images import SUFFIXES, read_volume, write_volume
from support.image_files import names, scan

if TYPE_CHECKING:
    from collections.abc import Iterator


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
