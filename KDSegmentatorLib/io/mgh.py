"""FreeSurfer's images: ``.mgh``, and compressed ``.mgz``."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import cast

import numpy as np

from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.geometry import matrix, vector
from KDSegmentatorLib.io.voxels import Header

_HEADER_BYTES = 90
_FIRST_VOXEL = 284
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def read_mgh_header(path: Path) -> Header:
    """Return the header of a FreeSurfer image.

    Raises:
        GeometryError: the spacing is not positive, the axes are not perpendicular, or there are too many voxels.
        ImageReadError: not such an image, truncated, not one number a voxel, or without orientation.
    """
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            data = (gzip.GzipFile(fileobj=file) if compressed else file).read(_HEADER_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ImageReadError(f"the file is truncated or damaged ({error}); copy or export it again") from error
    if len(data) < _HEADER_BYTES or struct.unpack_from(">i", data)[0] != 1:
        raise ImageReadError("the file is not a FreeSurfer image, whatever its name says, or damaged; export it again")
    _, i, j, k, frames, kind, _, oriented = struct.unpack_from(">7ih", data)
    if kind not in _TYPES:
        raise ImageReadError(f"the voxels are of the type {kind}; give an image with one number a voxel")
    if not oriented:
        raise ImageReadError(
            "the header does not say how the image lies in the patient (goodRASFlag is 0), so left and right cannot be "
            "told apart; save it again with FreeSurfer, or as .nii.gz with its orientation"
        )
    placement = np.array(struct.unpack_from(">15f", data, 30), dtype=float)
    if not np.isfinite(placement).all():
        raise GeometryError("the header's place of the image is not finite; repair the image's header")
    spacing = placement[:3]
    direction = _RAS_TO_LPS @ placement[3:12].reshape(3, 3).T
    centre = _RAS_TO_LPS @ placement[12:]
    size = cast("tuple[int, int, int]", (i, j, k))
    origin = centre - direction * spacing @ (np.array(size) / 2)
    return Header(
        size=size,
        spacing=vector(spacing),
        origin=vector(origin + 0.0),
        direction=matrix(direction + 0.0),
        dtype=np.dtype(_TYPES[kind]),
        frames=max(frames, 1),
        files=(path,),
        skip=_FIRST_VOXEL,
        encoding="gzip" if compressed else "raw",
    )
