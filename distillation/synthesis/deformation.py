"""Other heads from one: random smooth fields (cubic B-splines on a coarse grid), and the deformations made of them.

A random affine map and a smooth elastic one, as Billot et al. (2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from distillation.synthesis.label_maps import Head

_SUPPORT = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class SmoothField:
    """A uniform cubic B-spline; it lies within the range of its control values (Rueckert et al. 1999).

    Attributes:
        control: (z, y, x) float32 control values; each axis has three more of them than intervals.
        start: (z, y, x) in mm where the first interval begins.
        step: (z, y, x) length of an interval in mm.
    """

    control: npt.NDArray[np.float32]
    start: tuple[float, float, float]
    step: tuple[float, float, float]

    def on(self, axes: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float32]:
        """Return the values on a grid as (z, y, x) float32.

        Args:
            axes: positions of the grid's planes along z, y and x in mm; what lies beyond the last interval gets the
                value of its end.
        """
        values = self.control
        for axis, positions in enumerate(axes):
            weights = _weights(positions, self.start[axis], self.step[axis], self.control.shape[axis])
            values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
        return np.ascontiguousarray(values)


def random_field(
    rng: np.random.Generator,
    box: Sequence[tuple[float, float]],
    step: float,
    *,
    std: float,
    limit: float | None = None,
) -> SmoothField:
    """Return a field with normally distributed control values.

    Args:
        rng: random numbers.
        box: where it is wanted: from and to in mm along z, y and x.
        step: wanted distance of control points in mm. The box is divided into a whole number of intervals, which are
            0.75 to 1.5 times as long; a box shorter than the step is one interval.
        std: standard deviation of the control values.
        limit: largest absolute control value, and so of the field.
    """
    intervals = [max(1, round((high - low) / step)) for low, high in box]
    control = std * rng.standard_normal([number + _SUPPORT - 1 for number in intervals], dtype=np.float32)
    if limit is not None:
        np.clip(control, -limit, limit, out=control)
    starts = [low for low, _ in box]
    steps = [(high - low) / number for (low, high), number in zip(box, intervals, strict=True)]
    return SmoothField(control=control, start=(starts[0], starts[1], starts[2]), step=(steps[0], steps[1], steps[2]))


def _weights(positions: npt.NDArray[np.float64], start: float, step: float, count: int) -> npt.NDArray[np.float32]:
    """Return the (positions, control values) matrix of the cubic B-spline's weights; each row sums to 1."""
    intervals = count - _SUPPORT + 1
    scaled = np.clip((positions - start) / step, 0, intervals)
    first = np.minimum(scaled.astype(int), intervals - 1)
    t = scaled - first
    basis = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    matrix = np.zeros((len(positions), count), np.float32)
    for offset, values in enumerate(basis):
        matrix[np.arange(len(positions)), first + offset] = values / 6
    return matrix


REACH_MM = 200.0
"""Images are made inside a cube that reaches this far from the brain's middle."""

_PITCH_DEGREES = 25.0  # nodding; label maps and scanners differ in it most
_ROLL_AND_YAW_DEGREES = 15.0
_SCALING = 0.12
_SHEAR = 0.06
_CONTROL_STEP_MM = 36.0
_ELASTIC_STD_MM = 5.0
# Below 0.4 of the distance of control points no place is folded over another (Choi and Lee 2000). That distance is
# 2 * REACH_MM / 11 = 36.4 mm, after random_field's rounding; it must not be less than _CONTROL_STEP_MM.
_ELASTIC_LIMIT_MM = 0.4 * _CONTROL_STEP_MM
_ROWS_AT_A_TIME = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Deformation:
    """Where a point of the made image lies in the label map; both in mm from the brain's middle, axes z, y, x.

    Attributes:
        matrix: 3 x 3, from the image to the label map, applied after the elastic part.
        elastic: displacement along z, y and x in mm.
    """

    matrix: npt.NDArray[np.float64]
    elastic: tuple[SmoothField, SmoothField, SmoothField]

    def classes(self, head: Head, axes: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.uint8]:
        """Return the intensity classes on a grid, each voxel that of the nearest in the label map; air beyond it.

        Args:
            head: the label map.
            axes: positions of the grid's planes along z, y and x in mm.
        """
        found = np.zeros([len(axis) for axis in axes], np.uint8)
        for rows, points in self._points(head, axes):
            ndimage.map_coordinates(head.classes, points, order=0, output=found[rows], mode="constant", cval=0)
        return found

    def distance(self, head: Head, axes: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float32]:
        """Return the signed distance to the brain's surface on a grid, in mm of the label map, negative inside.

        Args:
            head: the label map.
            axes: positions of the grid's planes along z, y and x in mm.
        """
        found = np.empty([len(axis) for axis in axes], np.float32)
        for rows, points in self._points(head, axes):
            ndimage.map_coordinates(head.distance, points, order=1, output=found[rows], mode="nearest")
        return found

    def _points(
        self, head: Head, axes: Sequence[npt.NDArray[np.float64]]
    ) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """Give some planes at a time, with the array indices (3, z, y, x) in the label map that they show."""
        per_mm = 1 / np.asarray(head.spacing)
        matrix = (self.matrix * per_mm[:, None]).astype(np.float32)
        offset = (np.asarray(head.centre) * per_mm).astype(np.float32)
        for start in range(0, len(axes[0]), _ROWS_AT_A_TIME):
            rows = slice(start, min(start + _ROWS_AT_A_TIME, len(axes[0])))
            part = [axes[0][rows], axes[1], axes[2]]
            grid = np.meshgrid(*(axis.astype(np.float32) for axis in part), indexing="ij", sparse=True)
            moved = [field.on(part) + grid[axis] for axis, field in enumerate(self.elastic)]
            points = np.stack([sum(matrix[n, m] * moved[m] for m in range(3)) + offset[n] for n in range(3)])
            yield rows, points


def random_deformation(rng: np.random.Generator) -> Deformation:
    """Return a deformation: nodding up to 25 degrees, other turns up to 15, size, shear, and an elastic part.

    From the image to the label map, each axis is multiplied by 0.836 to 1.176: by 0.88 to 1.12, which all axes share,
    and by 0.95 to 1.05 of its own. Without shear, the head in the image is up to 15 % smaller or 20 % larger along an
    axis. Each of the six elements of the shear is up to 0.06 (3.4 degrees) either way. Left stays left: nothing is
    mirrored.
    """
    box = [(-REACH_MM, REACH_MM)] * 3
    pitch = rng.uniform(-_PITCH_DEGREES, _PITCH_DEGREES)
    yaw, roll = rng.uniform(-_ROLL_AND_YAW_DEGREES, _ROLL_AND_YAW_DEGREES, 2)
    matrix = _rotation(2, pitch) @ _rotation(1, roll) @ _rotation(0, yaw)
    shear = np.eye(3)
    shear[~np.eye(3, dtype=bool)] = rng.uniform(-_SHEAR, _SHEAR, 6)
    matrix = matrix @ shear @ np.diag(rng.uniform(1 - _SCALING, 1 + _SCALING) * rng.uniform(0.95, 1.05, 3))
    std = rng.uniform(0, _ELASTIC_STD_MM)
    z, y, x = (random_field(rng, box, _CONTROL_STEP_MM, std=std, limit=_ELASTIC_LIMIT_MM) for _ in range(3))
    return Deformation(matrix=matrix, elastic=(z, y, x))


def _rotation(axis: int, degrees: float) -> npt.NDArray[np.float64]:
    """Return the rotation about an array axis (0 = z: yaw, 1 = y: roll, 2 = x: pitch)."""
    angle = math.radians(degrees)
    first, second = (other for other in range(3) if other != axis)
    turn = np.eye(3)
    turn[first, first] = turn[second, second] = math.cos(angle)
    turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
    return turn
