"""Resampling one axis: a matrix that is nearly empty, kept and applied as such.

The matrix comes from scipy itself, which is given the unit vectors. A spline of order 3 is filtered before it is
evaluated, which spreads every sample over the whole axis, but each step further by a factor of 0.27: what is below
1e-12 is left out, far below the rounding of float32, so that a band remains whatever the order.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.machine.small_products import multiply_columns, multiply_rows

_NEGLIGIBLE = 1e-12
_BLOCK_ROWS = 32
_PIECE_ELEMENTS = 1 << 20
_LINEAR_TAPS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Some rows of the matrix, and the columns that they touch.

    Attributes:
        rows: range of the output.
        columns: range of the input.
        weights: (rows, columns), float64.
    """

    rows: slice
    columns: slice
    weights: npt.NDArray[np.float64]

    @cached_property
    def transposed_float32(self) -> npt.NDArray[np.float32]:
        """The weights as (columns, rows) in float32."""
        return np.ascontiguousarray(self.weights.T, dtype=np.float32)


class AxisOperator:
    """One axis resampled from a length to another.

    Args:
        matrix: (length out, length in).
    """

    def __init__(self, matrix: npt.NDArray[np.float64]) -> None:
        self.matrix = np.where(np.abs(matrix) < _NEGLIGIBLE, 0.0, matrix)
        self.length_out, self.length_in = matrix.shape
        self._touched = [_range(row[None]) for row in self.matrix]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The matrix without what is zero anyway."""
        blocks = []
        for start in range(0, self.length_out, _BLOCK_ROWS):
            rows = slice(start, min(start + _BLOCK_ROWS, self.length_out))
            columns = _range(self.matrix[rows])
            blocks.append(Block(rows=rows, columns=columns, weights=np.ascontiguousarray(self.matrix[rows, columns])))
        return tuple(blocks)

    def inputs(self, row: int) -> slice:
        """Return the range of inputs that an output is made of."""
        return self._touched[row]

    def first_needed(self, row: int) -> int:
        """Return the first input that an output or a later one is made of.

        With splines a later output may reach further back: where a sample falls on an old one, most weights vanish.
        """
        return self._first_needed[row]

    @cached_property
    def _first_needed(self) -> list[int]:
        starts = np.array([touched.start for touched in self._touched])
        needed: list[int] = np.minimum.accumulate(starts[::-1])[::-1].tolist()
        return needed

    def part(self, rows: slice) -> tuple[AxisOperator, slice]:
        """Return the operator of some outputs, and the range of inputs that it takes."""
        columns = _range(self.matrix[rows])
        return AxisOperator(self.matrix[rows, columns]), columns

    def weights(self, row: int) -> npt.NDArray[np.float32]:
        """Return how much each of :meth:`inputs` counts."""
        return self.matrix[row, self._touched[row]].astype(np.float32)

    def apply(
        self,
        values: npt.NDArray[np.float32],
        axis: int,
        check: Callable[[], None] = lambda: None,
        threads: int = 1,
    ) -> npt.NDArray[np.float32]:
        """Resample one axis of an image.

        Args:
            values: (z, y, x).
            axis: 0, 1 or 2 for z, y, x.
            check: called again and again; may raise to stop.
            threads: pieces computed at a time.

        Returns:
            float32; the products are summed in float64, as in the reference.
        """
        shape = list(values.shape)
        shape[axis] = self.length_out
        result = np.empty(shape, dtype=np.float32)
        along = 1 if axis == 0 else 0  # pieces along an axis that stays keep the float64 copies small
        lines = max(1, _PIECE_ELEMENTS * shape[along] // max(values.size, result.size))

        def work(start: int) -> None:
            piece = (slice(None),) * along + (slice(start, start + lines),)
            self._apply_piece(np.ascontiguousarray(values[piece], dtype=np.float64), axis, result[piece])

        with ThreadPoolExecutor(max_workers=threads) as executor:
            pieces = [executor.submit(work, start) for start in range(0, shape[along], lines)]
            try:
                for piece in pieces:
                    piece.result()
                    check()
            except BaseException:
                executor.shutdown(cancel_futures=True)
                raise
        return result

    def apply_to_plane(self, plane: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
        """Resample one axis of a plane of several channels in float32, in the thread that asks for it.

        Args:
            plane: (channels, y, x).
            axis: 1 or 2 for y, x.

        Returns:
            (channels, y, x).
        """
        channels, height, width = plane.shape
        if axis == 2:
            lines = plane.reshape(-1, width)
            result = np.empty((len(lines), self.length_out), dtype=np.float32)
            for block in self.blocks:
                multiply_rows(lines[:, block.columns], block.transposed_float32, result[:, block.rows])
            return result.reshape(channels, height, self.length_out)
        if self._linear is None:
            return self.apply(plane, 1)
        (first, second), weights = self._linear
        result = plane.take(first, axis=1)
        result *= weights[0][:, None]
        result += plane.take(second, axis=1) * weights[1][:, None]
        return result

    @cached_property
    def _linear(
        self,
    ) -> tuple[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]], npt.NDArray[np.float32]] | None:
        """The two inputs of every output and their weights (2, length out), as up to order 1; else None."""
        if max(touched.stop - touched.start for touched in self._touched) > _LINEAR_TAPS:
            return None
        first = np.array([touched.start for touched in self._touched])
        second = np.array([touched.stop - 1 for touched in self._touched])
        outputs = np.arange(self.length_out)
        weights = np.stack([self.matrix[outputs, first], np.where(first == second, 0, self.matrix[outputs, second])])
        return (first, second), weights.astype(np.float32)

    def _apply_piece(self, piece: npt.NDArray[np.float64], axis: int, result: npt.NDArray[np.float32]) -> None:
        for block in self.blocks:
            if axis == 2:
                for plane, place in zip(piece, result, strict=True):
                    multiply_rows(plane[:, block.columns], block.weights.T, place[:, block.rows])
            elif axis == 1:
                multiply_columns(block.weights, piece[:, block.columns], result[:, block.rows])
            else:
                for y in range(piece.shape[1]):  # a line of the piece is contiguous, a plane is not
                    multiply_columns(block.weights, piece[None, block.columns, y], result[None, block.rows, y])


@lru_cache(maxsize=16)
def axis_operator(before: int, after: int, order: int, apart: bool) -> AxisOperator:
    """Return scipy's resizing from ``before`` to ``after`` samples.

    The axis that is resampled apart goes through ``map_coordinates`` in the reference, the others through ``zoom``;
    both put sample n at (n + 1/2) * before / after - 1/2 and repeat the edge.
    """
    from scipy import ndimage

    if apart:
        positions = (np.arange(after) + 0.5) * (before / after) - 0.5
        columns = [
            ndimage.map_coordinates(unit, positions[None], order=order, mode="nearest") for unit in np.eye(before)
        ]
    else:
        columns = [
            ndimage.zoom(unit, after / before, order=order, mode="nearest", grid_mode=True) for unit in np.eye(before)
        ]
    return AxisOperator(np.stack(columns, axis=1))


def _range(rows: npt.NDArray[np.float64]) -> slice:
    """Return the range of columns that hold all that is not zero; at least one."""
    touched = np.flatnonzero(rows.any(axis=0))
    return slice(int(touched[0]), int(touched[-1]) + 1) if touched.size else slice(0, 1)
