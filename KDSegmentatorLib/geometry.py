"""Volume: the only carrier of image data between the parts of KDSegmentator.

Conventions, everywhere in the library: voxel arrays are indexed (z, y, x) as SimpleITK gives them; index axes are
called i, j, k (i = x = last array axis); ``spacing`` and ``origin`` are in (i, j, k) and (L, P, S) order, in
millimetres, as in ITK; the patient axes are L (left), P (posterior), S (superior).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]
Box = tuple[slice, slice, slice]

MM3_PER_ML = 1000.0

MAXIMUM_VOXELS = 1 << 29
"""Largest accepted volume: 536,870,912 voxels, 2 GiB in float32 (a 512 x 512 x 2048 CT)."""

ORTHONORMALITY_TOLERANCE = 1e-4
"""Largest accepted deviation of direction^T direction from the identity (scanners print cosines with six digits)."""

GRID_TOLERANCE = 1e-3
"""Two grids are the same if no voxel centre differs by more than this fraction of the smallest spacing."""

_SLAB_VOXELS = 1 << 24
_AXIS_LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))
_TIE_BREAK_RADIANS = (1.3e-4, 2.9e-4, -1.7e-4)


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image with its place in the patient.

    Args:
        voxels: (z, y, x), any numeric type. Not copied.
        spacing: distance of neighbouring voxel centres along i, j, k in mm, > 0.
        origin: (L, P, S) of the centre of voxel i = j = k = 0 in mm.
        direction: 3 x 3, row-major; column n is the unit vector of index axis n in (L, P, S). Left-handed systems
            (determinant -1) are valid.

    Raises:
        GeometryError: not 3-D, empty, more than ``MAXIMUM_VOXELS``, or spacing, origin or direction not usable.
    """

    voxels: npt.NDArray[Any]
    spacing: Vector
    origin: Vector = (0.0, 0.0, 0.0)
    direction: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

    def __post_init__(self) -> None:
        if not isinstance(self.voxels, np.ndarray):
            raise GeometryError(f"voxels must be a numpy array (z, y, x), got {type(self.voxels).__name__}")
        check_size(self.voxels.shape[::-1])
        check_placement(self.spacing, self.origin, self.direction)

    def __repr__(self) -> str:  # an array would fill the screen of a notebook
        return f"Volume(size={self.size}, dtype={self.voxels.dtype}, spacing={self.spacing}, axes={self.axis_codes!r})"

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along (i, j, k)."""
        k, j, i = self.voxels.shape
        return i, j, k

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm^3."""
        return math.prod(self.spacing)

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """4 x 4 matrix from (i, j, k, 1) to (L, P, S, 1) in mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.asarray(self.direction) * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def axis_codes(self) -> str:
        """Where i, j and k point to, for example ``"LPS"``: the patient axis nearest to each index axis.

        Every patient axis is used once, also when the volume is oblique.
        """
        return "".join(
            _AXIS_LETTERS[patient][0 if self.direction[patient][index] > 0 else 1]
            for index, patient in enumerate(_nearest_patient_axes(self.direction))
        )

    def extent(self, axis_codes: str) -> Vector:
        """Return the length in mm, from outer face to outer face, along each axis of :meth:`reoriented`.

        Args:
            axis_codes: wanted codes, for example ``"LPS"``.

        Raises:
            GeometryError: the codes do not name each of the three patient axes once.
        """
        axes = axes_along(self.axis_codes, check_axis_codes(axis_codes))
        return vector([self.size[axis] * self.spacing[axis] for axis in axes])

    def with_voxels(self, voxels: npt.NDArray[Any]) -> Volume:
        """Return other voxels on this grid.

        Raises:
            GeometryError: the shapes differ.
        """
        if not isinstance(voxels, np.ndarray):
            raise GeometryError(f"voxels must be a numpy array (z, y, x), got {type(voxels).__name__}")
        if voxels.shape != self.voxels.shape:
            raise GeometryError(f"voxels of shape {voxels.shape} do not fit a grid of shape {self.voxels.shape}")
        return Volume(voxels, self.spacing, self.origin, self.direction)

    def reoriented(self, axis_codes: str, check: Callable[[], None] = lambda: None) -> Volume:
        """Return the same image with its array axes permuted and flipped to other axis codes.

        No voxel is interpolated: an oblique volume stays oblique.

        Args:
            axis_codes: wanted codes, for example ``"LPS"``; see :attr:`axis_codes`.
            check: called again and again while voxels are copied; may raise to stop.

        Raises:
            GeometryError: the codes do not name each of the three patient axes once.
        """
        wanted = check_axis_codes(axis_codes)
        present = self.axis_codes
        axes = axes_along(present, wanted)
        flipped = [present[axis] != letter for axis, letter in zip(axes, wanted, strict=True)]
        voxels = self.voxels.transpose([2 - axis for axis in reversed(axes)])
        voxels = voxels[tuple(slice(None, None, -1 if flip else 1) for flip in reversed(flipped))]
        corner = [0.0, 0.0, 0.0]
        direction = np.asarray(self.direction)[:, axes]
        for n, (axis, flip) in enumerate(zip(axes, flipped, strict=True)):
            if flip:
                corner[axis] = float(self.size[axis] - 1)
                direction[:, n] *= -1
        origin = self.affine @ np.array([*corner, 1.0])
        return Volume(
            _contiguous(voxels, check),
            cast("Vector", tuple(self.spacing[axis] for axis in axes)),
            vector(origin[:3]),
            matrix(direction),
        )

    def same_grid(self, other: Volume) -> bool:
        """Return whether both volumes have the same voxels in the same places (within ``GRID_TOLERANCE``)."""
        if self.size != other.size:
            return False
        i, j, k = (length - 1 for length in self.size)
        corners = np.array([[a, b, c, 1] for a in (0, i) for b in (0, j) for c in (0, k)], dtype=float).T
        distance = np.abs(self.affine @ corners - other.affine @ corners).max()
        return bool(distance <= GRID_TOLERANCE * min(self.spacing))


def slabs(voxels: npt.NDArray[Any]) -> Iterator[slice]:
    """Yield ranges of the first axis of an array (z, y, x) that take some hundredths of a second to work on."""
    rows = max(1, _SLAB_VOXELS * len(voxels) // max(1, voxels.size))
    for start in range(0, len(voxels), rows):
        yield slice(start, min(start + rows, len(voxels)))


def nonzero_box(image: npt.NDArray[Any]) -> Box:
    """Return the smallest box that holds all non-zero voxels, half-open.

    nnU-Net fills holes in the non-zero mask first; that cannot move the box.

    Args:
        image: (z, y, x).

    Returns:
        The box; the whole image if every voxel is zero.
    """
    nonzero = image != 0
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hit = np.flatnonzero(nonzero.any(axis=others))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, image.shape[axis]))
    return box[0], box[1], box[2]


def _contiguous(voxels: npt.NDArray[Any], check: Callable[[], None]) -> npt.NDArray[Any]:
    if voxels.flags.c_contiguous:
        return voxels
    copy = np.empty(voxels.shape, dtype=voxels.dtype)
    for part in slabs(voxels):
        check()
        copy[part] = voxels[part]
    return copy


def check_size(size: tuple[int, ...]) -> None:
    """Check a grid's size along (i, j, k) before anything is allocated for it.

    Raises:
        GeometryError: not three axes, an empty axis, or more than ``MAXIMUM_VOXELS``.
    """
    if len(size) != 3:
        raise GeometryError(f"a volume needs three axes, this one has {len(size)} (size {size}); give a 3-D image")
    if min(size) < 1:
        raise GeometryError(f"the volume is empty (size {size})")
    if math.prod(size) > MAXIMUM_VOXELS:
        raise GeometryError(
            f"the volume has {math.prod(size):,} voxels (size {size}), more than the limit of {MAXIMUM_VOXELS:,}; "
            "crop or resample it first"
        )


def check_placement(spacing: Vector, origin: Vector, direction: Matrix) -> None:
    """Check where a grid lies in the patient.

    Raises:
        GeometryError: not three numbers or 3 x 3, a value is not finite, a spacing is not positive, or the direction is
            not orthonormal.
    """
    for name, values, shape in (
        ("spacing", spacing, (3,)),
        ("origin", origin, (3,)),
        ("direction", direction, (3, 3)),
    ):
        try:
            numbers = np.asarray(values, dtype=float)
        except (TypeError, ValueError):
            numbers = np.empty(0)
        if numbers.shape != shape:
            wanted = "three numbers" if shape == (3,) else "3 x 3 numbers"
            raise GeometryError(f"the {name} must be {wanted}, got {values!r}")
        if not np.isfinite(numbers).all():
            raise GeometryError(f"the {name} {values} is not finite; repair the image's header")
    if min(spacing) <= 0:
        raise GeometryError(f"the spacing {spacing} mm is not positive; repair the image's header")
    cosines = np.asarray(direction, dtype=float)
    deviation = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    if deviation > ORTHONORMALITY_TOLERANCE:
        raise GeometryError(
            f"the direction matrix is not orthonormal (off by {deviation:.3g}): the axes are sheared, as after a "
            "gantry tilt, or the header is damaged; resample the image onto a rectangular grid first"
        )


def check_axis_codes(axis_codes: str) -> str:
    """Return the codes if they name each patient axis once.

    Raises:
        GeometryError: they do not.
    """
    letters = axis_codes if isinstance(axis_codes, str) else ""
    found = sorted(axis for letter in letters for axis in range(3) if letter in _AXIS_LETTERS[axis])
    if len(letters) != 3 or found != [0, 1, 2]:
        raise GeometryError(
            f"axis codes must name left/right, posterior/anterior, superior/inferior once each, "
            f"like 'LPS', got {axis_codes!r}"
        )
    return axis_codes


def axes_along(present: str, wanted: str) -> list[int]:
    """Return, for each wanted axis code, the index axis of a grid with other codes that runs along it.

    Which way it runs does not matter. Both are checked codes (:func:`check_axis_codes`).
    """
    return [next(n for n in range(3) if _same_axis(present[n], letter)) for letter in wanted]


def vector(values: npt.ArrayLike) -> Vector:
    """Return three numbers as a tuple of floats."""
    x, y, z = (float(value) for value in np.asarray(values).ravel())
    return x, y, z


def matrix(values: npt.ArrayLike) -> Matrix:
    """Return nine numbers, row-major, as three tuples of floats."""
    rows = np.asarray(values, dtype=float).reshape(3, 3)
    return vector(rows[0]), vector(rows[1]), vector(rows[2])


def _same_axis(first: str, second: str) -> bool:
    return any(first in letters and second in letters for letters in _AXIS_LETTERS)


def _nearest_patient_axes(direction: Matrix) -> tuple[int, int, int]:
    """Return the patient axis (0 = L, 1 = P, 2 = S) nearest to each index axis.

    The assignment maximises the sum of absolute cosines. It is scored in a patient frame turned by a hundredth of a
    degree, so that a volume that is oblique by exactly 45 degrees has one best assignment that depends on its physical
    axes alone: the same scan stored in another axis order is reoriented to the same array.
    """
    cosines = np.abs(_small_rotation() @ np.asarray(direction, dtype=float))
    best = max(permutations(range(3)), key=lambda patient: sum(cosines[patient[n], n] for n in range(3)))
    return cast("tuple[int, int, int]", best)


def _small_rotation() -> npt.NDArray[np.float64]:
    rotation = np.eye(3)
    for axis, angle in enumerate(_TIE_BREAK_RADIANS):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ turn
    return rotation
