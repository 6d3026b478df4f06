"""Volumes on their way from one process to the other: exact, at the speed of the disk, in every numeric type.

Image formats would be slow (compressed ones), not exact in where a volume lies (NIfTI), and not able to open every path
(ITK on Windows). A file holds two arrays in numpy's own format: where the volume lies, and its voxels. The voxels are
written and read in one piece, outside of Python's lock: 3D Slicer keeps that lock while it waits for its user, so that
a thread of ours gets on only now and then.
"""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError, JobError
from KDSegmentatorLib.geometry import Volume, matrix, vector
from KDSegmentatorLib.jobs.failures import storage_error

_VERSION = (1, 0)
_PLACE_SHAPE = (5, 3)
"""Rows: spacing in mm, origin in mm, and the three rows of the direction."""


def write_exchange(volume: Volume, path: Path) -> None:
    """Write a volume to a file.

    Args:
        volume: of a numeric type.
        path: the file.

    Raises:
        JobError: the disk is full, or the file cannot be written; nothing was left behind.
    """
    place = np.array([volume.spacing, volume.origin, *volume.direction], dtype=np.float64)
    try:
        with path.open("wb", buffering=0) as file:
            for array in (place, volume.voxels):
                _write_array(file, np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise storage_error(path.parent, error) from error


def read_exchange(path: Path) -> Volume:
    """Return the volume in a file.

    Raises:
        JobError: the file is missing, truncated or damaged.
    """
    try:
        with path.open("rb", buffering=0) as file:
            place = _read_array(file)
            if place.shape != _PLACE_SHAPE:
                raise ValueError(f"the place has the shape {place.shape}")
            spacing, origin, *direction = place
            return Volume(_read_array(file), vector(spacing), vector(origin), matrix(direction))
    except (OSError, ValueError, GeometryError) as error:
        raise JobError(
            f"the volume in {path} is not complete ({error}); start the segmentation again, and check the disk if it "
            "happens once more"
        ) from error


def _write_array(file: FileIO, array: npt.NDArray[Any]) -> None:
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        rest = rest[file.write(rest) :]


def _read_array(file: FileIO) -> npt.NDArray[Any]:
    if np.lib.format.read_magic(file) != _VERSION:
        raise ValueError("another version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if dtype.hasobject or np.prod(shape, dtype=np.float64) * dtype.itemsize > left:
        raise ValueError(f"{left:,} bytes are left for {shape} numbers of type {dtype}")
    array = np.empty(shape, dtype)
    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        count = file.readinto(rest)
        if not count:
            raise ValueError("the file ends too early")
        rest = rest[count:]
    return array
