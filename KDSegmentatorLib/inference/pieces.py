"""Structures of which there is one, in one piece: what lies apart from the largest piece is not that structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.inference.cropping import nonzero_box


def largest_pieces(
    labels: npt.NDArray[Any], values: Sequence[int], check: Callable[[], None] = lambda: None
) -> npt.NDArray[Any]:
    """Return a label map that has only the largest connected piece of some structures.

    Connected are voxels that share a face. Of pieces of one size the first in array order is kept. The other pieces
    become background, as nnU-Net's own postprocessing makes them.

    Args:
        labels: label values, (z, y, x); not changed.
        values: of the structures that are one piece each.
        check: called before every structure; may raise to stop.
    """
    from scipy.ndimage import label

    kept = labels
    for value in values:
        check()
        mask = kept == value
        if not mask.any():
            continue
        box = nonzero_box(mask)
        pieces, count = label(mask[box])
        if count < 2:
            continue
        if kept is labels:
            kept = labels.copy()
        sizes = np.bincount(pieces.reshape(-1))
        sizes[0] = 0
        part = kept[box]
        part[(pieces != int(sizes.argmax())) & (pieces != 0)] = 0
    return kept
