"""Outlines of a mask along the edges of its pixels: exact in area, one closed polygon for every connected piece.

A contour through pixel centres, as most tracers draw it, leaves half a pixel out all round. Along the edges nothing is
left out, and whoever fills the polygon by pixel centres gets the mask back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

Polygon = npt.NDArray[np.int64]
"""(points, 2): column and row of pixel corners; pixel (row r, column c) lies between the corners (c, r), (c+1, r+1)."""

_Cut = tuple[int, int, Polygon]
"""Where a polygon is cut open: number of the edge, distance from its beginning, and the points to pass there."""


def outlines(mask: npt.NDArray[np.bool_]) -> list[Polygon]:
    """Return the closed polygons round a mask; the last point is joined to the first.

    Pixels that touch at a corner only are separate pieces. A hole is joined to the outline of its piece by a keyhole: a
    cut of no width, passed in both directions. Points are corners of the outline, and ends of cuts; no others.

    Args:
        mask: (rows, columns).

    Examples:
        >>> outlines(np.array([[True, True]]))[0].tolist()
        [[0, 0], [2, 0], [2, 1], [0, 1]]
    """
    columns, rows, vertical, begins = _corners(mask)
    loops, loop_of, place = _loops(columns, rows, vertical, begins)
    cuts: list[list[_Cut]] = [[] for _ in loops]
    # as they are sorted, the vertical edge through a point is the last that begins above it, or there
    upper = np.flatnonzero(rows < rows[vertical])
    upper = upper[np.lexsort((rows[upper], columns[upper]))]
    beginnings = columns[upper] * (len(mask) + 1) + rows[upper]
    holes = [(*_leftmost(loop), number) for number, loop in enumerate(loops) if _doubled_area(loop) < 0]
    # A cut goes left, inside the mask, to the next border. From right to left, so that a hole takes those with it whose
    # cuts end at its border.
    for column, row, first, number in sorted(holes, reverse=True):
        hole = _opened(loops[number], first, cuts[number])
        inside = mask[row - 1, :column] & mask[row, :column]
        end = 1 + int(np.max(np.flatnonzero(~inside), initial=-1))
        edge = upper[np.searchsorted(beginnings, end * (len(mask) + 1) + row, side="right") - 1]
        begin = edge if place[edge] % 2 else vertical[edge]  # a loop's horizontal edges have even numbers
        points = np.concatenate([[[end, row]], hole, hole[:1], [[end, row]]])
        cuts[loop_of[begin]].append((int(place[begin]), abs(row - int(rows[begin])), points))
    inner = {number for *_, number in holes}
    return [_opened(loop, 0, cuts[number]) for number, loop in enumerate(loops) if number not in inner]


def _corners(
    mask: npt.NDArray[np.bool_],
) -> tuple[Indices, Indices, Indices, npt.NDArray[np.bool_]]:
    """Return the corners of all borders, row by row from left to right.

    On each row of corners, the first and the second are the ends of an edge, the third and the fourth, and so on; so it
    is on each column. Where two pixels of the mask touch at a corner, there are two corners in one place.

    Returns:
        Column; row; the number of the corner at the other end of the vertical edge; and whether the horizontal edge
        begins here, if borders are passed with the mask on the right-hand side.
    """
    padded = np.pad(mask, 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    crossing = (upper_left == lower_right) & (upper_right == lower_left) & (upper_left != upper_right)
    places = np.flatnonzero((upper_left ^ upper_right ^ lower_left ^ lower_right) | crossing)
    corners = np.repeat(places, 1 + crossing.ravel()[places])
    rows, columns = np.divmod(corners, mask.shape[1] + 1)
    # of two in one place, the first ends the edge from the left; it goes up if that turns round a pixel of the mask
    second = np.append(False, corners[1:] == corners[:-1])[: corners.size]
    downwards = second == upper_left.ravel()[corners]
    order = np.lexsort((downwards, rows, columns))
    vertical = np.empty_like(order)
    vertical[order[::2]], vertical[order[1::2]] = order[1::2], order[::2]
    below = np.repeat(lower_right.ravel()[corners[::2]], 2)  # whether the mask is below the edge
    begins = below == (np.arange(corners.size) % 2 == 0)
    return columns, rows, vertical, begins


def _loops(
    columns: Indices, rows: Indices, vertical: Indices, begins: npt.NDArray[np.bool_]
) -> tuple[list[Polygon], Indices, Indices]:
    """Return the closed borders of :func:`_corners`, and for each corner the number of its border and its place there.

    The edge from a border's point n to the next one is horizontal for even n, and vertical for odd n.
    """
    following = vertical.tolist()
    left = begins.tolist()
    loops: list[Polygon] = []
    loop_of, place = np.empty_like(columns), np.empty_like(columns)
    for first in np.flatnonzero(begins).tolist():
        border: list[int] = []
        corner = first
        while left[corner]:
            left[corner] = False
            end = corner ^ 1  # corners of one horizontal edge follow each other: 0 and 1, 2 and 3, ...
            border += (corner, end)
            corner = following[end]
        if border:
            loop_of[border], place[border] = len(loops), np.arange(len(border))
            loops.append(np.stack([columns[border], rows[border]], axis=1))
    return loops, loop_of, place


def _leftmost(loop: Polygon) -> tuple[int, int, int]:
    """Return column, row and number of the leftmost corner, the upper one of several."""
    number = int(np.lexsort((loop[:, 1], loop[:, 0]))[0])
    return int(loop[number, 0]), int(loop[number, 1]), number


def _doubled_area(loop: Polygon) -> int:
    """Return twice the area (shoelace formula), negative for a hole."""
    following = np.roll(loop, -1, axis=0)
    return int((loop[:, 0] * following[:, 1] - following[:, 0] * loop[:, 1]).sum())


def _opened(loop: Polygon, first: int, cuts: Sequence[_Cut]) -> Polygon:
    """Return a loop that begins at its corner ``first``, with its cuts."""
    count = len(loop)
    loop = np.roll(loop, -first, axis=0)
    parts = []
    done = 0
    for edge, _, points in sorted(cuts, key=lambda cut: ((cut[0] - first) % count, cut[1])):
        passed = (edge - first) % count + 1
        parts += [loop[done:passed], points]
        done = passed
    return np.concatenate([*parts, loop[done:]])
