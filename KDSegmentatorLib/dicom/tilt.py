"""Tilted slices, as a CT's gantry makes them: resampled onto a straight grid, and labels brought back.

The images of a tilted series are parallel, but each is shifted in its own plane against the one before. The straight
grid keeps their planes, so that resampling is a shift of each image within its plane: linear for intensities, nearest
for labels. Nothing is interpolated from one slice to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from KDSegmentatorLib.geometry import Matrix, Vector, Volume, vector


@dataclass(frozen=True, kw_only=True)
class TiltedSlices:
    """Where the images of a tilted series lie.

    Attributes:
        rows: of an image.
        columns: of an image.
        shifts: for each slice, in the order of the volume, where its first pixel lies in the plane of the straight
            grid: (rows, columns) of the grid from its first voxel, >= 0, fractions included.
        direction: of the straight grid; its third column is the normal of the images.
        spacing: (column to column, row to row, plane to plane) in mm; the last along the normal.
        origin: (L, P, S) in mm of the straight grid's first voxel.
        degrees: angle between the normal and the way from one slice to the next, > 0.
    """

    rows: int
    columns: int
    shifts: tuple[tuple[float, float], ...]
    direction: Matrix
    spacing: Vector
    origin: Vector
    degrees: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the straight grid (z, y, x): large enough for every image."""
        row, column = np.max(self.shifts, axis=0)
        return len(self.shifts), self.rows + math.ceil(row), self.columns + math.ceil(column)

    def straighten(self, images: npt.NDArray[Any], check: Callable[[], None] = lambda: None) -> Volume:
        """Return images (slice, row, column) on the straight grid.

        What lies beside an image gets its lowest value, which is air in a CT.

        Args:
            images: of any numeric type, which is kept; integers are rounded.
            check: called for every image; may raise to stop.
        """
        _, height, width = self.shape
        straight = np.empty(self.shape, dtype=images.dtype)
        outside = images.min()
        for target, image, (down, right) in zip(straight, images, self.shifts, strict=True):
            check()
            padded = np.full((height, width), outside, dtype=np.float32 if images.dtype != np.float64 else np.float64)
            padded[: self.rows, : self.columns] = image
            moved = ndimage.shift(padded, (down, right), order=1, mode="grid-constant", cval=float(outside))
            target[...] = np.rint(moved) if images.dtype.kind in "iu" else moved
        return Volume(straight, self.spacing, self.origin, self.direction)

    def bring_back(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return labels of the straight grid (z, y, x) as they lie on the images (slice, row, column): the nearest."""
        images = np.empty((len(self.shifts), self.rows, self.columns), dtype=labels.dtype)
        for image, plane, (down, right) in zip(images, labels, self.shifts, strict=True):
            row, column = math.floor(down + 0.5), math.floor(right + 0.5)
            image[...] = plane[row : row + self.rows, column : column + self.columns]
        return images


def tilted_slices(
    positions: npt.NDArray[np.float64], rows: int, columns: int, spacing: Vector, direction: Matrix
) -> TiltedSlices:
    """Return where tilted images lie.

    Args:
        positions: (slices, 3), LPS mm of each image's first pixel, in the order of the normal.
        rows: of an image.
        columns: of an image.
        spacing: (column to column, row to row, plane to plane) in mm.
        direction: columns: along a row, down a column, their normal.
    """
    axes = np.asarray(direction, dtype=float)
    steps = (positions[-1] - positions[0]) / (len(positions) - 1)
    across = steps @ axes  # mm along a row, down a column, along the normal, a slice
    ideal = np.outer(np.arange(len(positions)), across[:2])
    lowest = ideal.min(axis=0)
    shifts = (ideal - lowest) / np.asarray(spacing[:2])
    origin = positions[0] + axes[:, :2] @ lowest
    degrees = math.degrees(math.atan2(float(np.hypot(*across[:2])), float(across[2])))
    return TiltedSlices(
        rows=rows,
        columns=columns,
        shifts=tuple((float(down), float(right)) for right, down in shifts),
        direction=direction,
        spacing=spacing,
        origin=vector(origin),
        degrees=degrees,
    )
