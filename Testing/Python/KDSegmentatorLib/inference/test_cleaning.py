from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from KDSegmentatorLib.inference.cleaning import largest_pieces


def two_balls() -> np.ndarray:
    z, y, x = np.ogrid[:20, :24, :30]
    labels = np.zeros((20, 24, 30), np.uint8)
    labels[(z - 8) ** 2 + (y - 10) ** 2 + (x - 8) ** 2 < 36] = 1
    labels[(z - 12) ** 2 + (y - 14) ** 2 + (x - 24) ** 2 < 9] = 1
    return labels


def test_what_lies_apart_becomes_background() -> None:
    labels = two_balls()
    before = labels.copy()
    kept = largest_pieces(labels, [1])
    assert kept[8, 10, 8] == 1
    assert not kept[:, :, 20:].any()
    np.testing.assert_array_equal(kept[:, :, :20], labels[:, :, :20])
    np.testing.assert_array_equal(labels, before)


def test_other_structures_keep_their_pieces() -> None:
    labels = two_balls() * np.uint8(2)
    labels[0, 0, 0] = labels[19, 23, 29] = 1
    kept = largest_pieces(labels, [1])
    assert np.count_nonzero(kept == 1) == 1
    np.testing.assert_array_equal(kept == 2, labels == 2)


def test_voxels_that_touch_at_an_edge_only_are_apart() -> None:
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0, 0, :2] = labels[1, 1, 2] = 5
    assert largest_pieces(labels, [5]).sum() == 10


@given(seed=st.integers(0, 999), share=st.floats(0, 1))
def test_one_piece_is_left_and_none_is_larger(seed: int, share: float) -> None:
    labels = (np.random.default_rng(seed).random((5, 6, 7)) < share).astype(np.uint8) * np.uint8(3)
    kept = largest_pieces(labels, [3])
    sizes = np.bincount(ndimage.label(labels)[0].ravel())[1:]
    assert ndimage.label(kept)[1] == min(1, len(sizes))
    assert np.count_nonzero(kept) == sizes.max(initial=0)
    assert (labels[kept > 0] == 3).all()


def test_it_can_be_stopped() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        largest_pieces(two_balls(), [1], stop)
