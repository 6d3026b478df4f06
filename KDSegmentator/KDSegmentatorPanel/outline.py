"""What of a volume decides how long a run takes: its grid and where it is not zero, without the voxels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from KDSegmentatorLib.geometry import Vector, Volume, matrix, nonzero_box, vector


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A volume without its voxels.

    Attributes:
        shape: voxels along (z, y, x).
        dtype: numpy's name of the voxels' type.
        spacing: see :class:`KDSegmentatorLib.geometry.Volume`, as for ``origin`` and ``direction``.
        origin: (L, P, S) in mm.
        direction: nine cosines, row by row.
        box: first and last index along (z, y, x) of the voxels that are not zero.
    """

    shape: tuple[int, int, int]
    dtype: str
    spacing: Vector
    origin: Vector
    direction: tuple[float, ...]
    box: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, volume: Volume) -> Outline:
        """Return the outline of a volume."""
        k, j, i = volume.voxels.shape
        box = tuple((side.start, side.stop - 1) for side in nonzero_box(volume.voxels))
        direction = tuple(float(cosine) for row in volume.direction for cosine in row)
        return cls(
            shape=(k, j, i),
            dtype=volume.voxels.dtype.name,
            spacing=volume.spacing,
            origin=volume.origin,
            direction=direction,
            box=box,
        )

    def volume(self) -> Volume:
        """Return a volume with this outline: zero but for two corners of the box, next to no memory."""
        voxels = np.zeros(self.shape, dtype=self.dtype)
        for corner in zip(*self.box, strict=True):
            voxels[corner] = 1
        return Volume(voxels, vector(self.spacing), vector(self.origin), matrix(self.direction))

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Outline:
        """Return the outline that :meth:`as_json` described."""
        k, j, i = document["shape"]
        return cls(
            shape=(k, j, i),
            dtype=document["dtype"],
            spacing=vector(document["spacing"]),
            origin=vector(document["origin"]),
            direction=tuple(document["direction"]),
            box=tuple((first, last) for first, last in document["box"]),
        )
