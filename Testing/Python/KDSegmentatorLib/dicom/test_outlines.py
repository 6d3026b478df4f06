from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from KDSegmentatorLib.dicom.outlines import Polygon, outlines

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans(), fill=st.nothing())


def doubled_area(polygon: Polygon) -> int:
    (x, y), (x_next, y_next) = polygon.T, np.roll(polygon, -1, axis=0).T
    return int((x * y_next - x_next * y).sum())


def filled(polygon: Polygon, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return the pixels with an odd number of vertical edges on their left."""
    edges = np.zeros((shape[0], shape[1] + 1), int)
    for (x, y), (x_next, y_next) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        assert x == x_next or y == y_next, "only along the edges of pixels"
        if x == x_next:
            edges[min(y, y_next) : max(y, y_next), x] += 1
    return np.cumsum(edges, axis=1)[:, :-1] % 2 == 1


@given(MASKS)
def test_each_piece_is_one_polygon_that_holds_its_pixels_and_their_area(mask: npt.NDArray[np.bool_]) -> None:
    pieces, count = ndimage.label(mask)
    polygons = outlines(mask)
    assert len(polygons) == count
    found = np.zeros(mask.shape, int)
    for polygon in polygons:
        inside = filled(polygon, mask.shape)
        assert doubled_area(polygon) == 2 * inside.sum()
        assert np.unique(pieces[inside]).size == 1
        found[inside] += 1
    assert np.array_equal(found, mask)


def test_a_ring_is_one_polygon_with_a_keyhole() -> None:
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    assert outlines(mask)[0].tolist() == [
        [0, 0], [3, 0], [3, 3], [0, 3],
        [0, 1], [1, 1], [1, 2], [2, 2], [2, 1], [1, 1], [0, 1],
    ]  # fmt: skip


def test_an_island_in_a_hole_is_a_polygon_of_its_own() -> None:
    mask = np.ones((5, 5), bool)
    mask[1:4, 1:4] = False
    mask[2, 2] = True
    assert sorted(doubled_area(polygon) for polygon in outlines(mask)) == [2, 32]
