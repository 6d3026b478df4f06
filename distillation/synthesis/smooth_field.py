"""Smooth random functions of space: cubic B-splines on a coarse grid of random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

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
