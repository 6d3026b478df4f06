"""Where every structure of a label map is, and how far that is from where it is in the training set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.geometry import Volume, slabs

LARGEST_TILT = 40.0
"""Degrees that a head may be turned against those of the training set; nnU-Net's augmentation turns by up to 30."""


def structure_places(
    segmentation: Volume, largest_value: int, check: Callable[[], None] = lambda: None
) -> npt.NDArray[np.float64]:
    """Return the centroids of the structures 1 to ``largest_value``, counted from that of all labelled voxels.

    Args:
        segmentation: label values, unsigned, (z, y, x); larger values are left out.
        largest_value: of the labels.
        check: called once for each of the :func:`~KDSegmentatorLib.geometry.slabs`; may raise to stop the work.

    Returns:
        (largest_value + 1, 3) float64 by label value, (L, P, S) in mm; nan for the background and for structures that
        are not there.
    """
    voxels, length = segmentation.voxels, largest_value + 1
    counts, sums = np.zeros(length), np.zeros((length, 3))
    for part in slabs(voxels):
        slab = voxels[part]
        k, j, i = np.nonzero((slab > 0) & (slab < length))
        values = slab[k, j, i]
        counts += np.bincount(values, minlength=length)
        for axis, index in enumerate((i, j, k + part.start)):
            sums[:, axis] += np.bincount(values, weights=index, minlength=length)
        check()
    if not counts.any():
        return np.full((length, 3), np.nan)
    present = counts > 0
    indices = np.full((length, 3), np.nan)
    indices[present] = sums[present] / counts[present, None]
    places: npt.NDArray[np.float64] = (indices - sums.sum(axis=0) / counts.sum()) @ segmentation.affine[:3, :3].T
    return places


def displacements(found: npt.NDArray[np.float64], trained: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how far structures are from their places once the whole is moved, and turned a little, to fit best.

    Neither where the patient lay nor how the head was tilted matters then, nor that a scan shows only a part. The
    rotation is the least-squares one about the means (Kabsch, Acta Crystallographica A32, 1976); a larger one than
    :data:`LARGEST_TILT` is no tilt but a wrong orientation, and is not undone. What most structures moved by is taken
    as the median, axis by axis.

    Args:
        found: (n, 3) places of structures, (L, P, S) in mm, at least one.
        trained: (n, 3) their places in the training set.

    Returns:
        (n,) distances in mm.
    """
    a, b = trained - trained.mean(axis=0), found - found.mean(axis=0)
    u, _, vt = np.linalg.svd(a.T @ b)
    proper = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ proper @ vt
    cosine = (np.trace(rotation) - 1) / 2
    moved = b - (a @ rotation if cosine >= np.cos(np.deg2rad(LARGEST_TILT)) else a)
    distances: npt.NDArray[np.float64] = np.linalg.norm(moved - np.median(moved, axis=0), axis=1)
    return distances
