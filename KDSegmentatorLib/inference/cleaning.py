"""What is taken out of a label map: pieces apart from a structure, labels outside of what the scan shows, others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.geometry import Volume, nonzero_box, slabs
from KDSegmentatorLib.packs.manifest import Label, Manifest


def clean(labels: Volume, scan: Volume, manifest: Manifest, check: Callable[[], None] = lambda: None) -> Volume:
    """Return a label map without what cannot be right: labels where nothing is shown, pieces apart from a structure.

    Args:
        labels: of all structures of the pack.
        scan: what the network saw, on the same grid.
        manifest: of the pack.
        check: called now and then; may raise to stop.
    """
    voxels: npt.NDArray[Any] = labels.voxels
    if manifest.region is not None:
        voxels = without_empty(voxels, scan.voxels, check)
    return labels.with_voxels(largest_pieces(voxels, manifest.single_pieces, check))


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


def without_empty(
    labels: npt.NDArray[Any], scan: npt.NDArray[Any], check: Callable[[], None] = lambda: None
) -> npt.NDArray[Any]:
    """Return labels with 0 wherever a scan of nothing but a region is empty, holes inside of the region excepted.

    A network that was trained on regions cropped to what they show has hardly seen the far corners of a larger image:
    the x1/4 brain pack called 12 ml of them white matter in the MNI152 template.

    Args:
        labels: (z, y, x).
        scan: the same shape; what is 0 and connected to the edge of the array is empty.
        check: called now and then; may raise to stop.
    """
    empty: npt.NDArray[np.bool_] = scan == 0
    if not labels[empty].any():
        return labels
    from scipy.ndimage import label

    check()
    pieces, _ = label(empty)
    check()
    faces = (pieces.take(end, axis) for axis in range(pieces.ndim) for end in (0, -1))
    outside = np.unique(np.concatenate([face.ravel() for face in faces]))
    cleared: npt.NDArray[Any] = labels.copy()
    cleared[np.isin(pieces, outside[outside > 0])] = 0
    return cleared


def drop_unwanted(labels: npt.NDArray[Any], wanted: Sequence[Label], advance: Callable[[], None]) -> None:
    """Make background of what is not wanted, in place."""
    values = np.array([label.value for label in wanted], dtype=labels.dtype)
    for part in slabs(labels):
        labels[part][~np.isin(labels[part], values)] = 0
        advance()
