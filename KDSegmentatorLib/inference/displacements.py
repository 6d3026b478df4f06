"""How far structures are from where they are in the training set, compared with each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LARGEST_TILT = 40.0
"""Degrees that a head may be turned against those of the training set; nnU-Net's augmentation turns by up to 30."""


def displacements(found: npt.NDArray[np.float64], trained: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how far structures are from their places once the whole is moved, and turned a little, to fit best.

    Where the patient lay and how the head was tilted make no difference then. The rotation is the least-squares one
    about the means (Kabsch, Acta Crystallographica A32, 1976); a larger one than :data:`LARGEST_TILT` is no tilt but a
    wrong orientation, and is not undone. What most structures moved by is taken as the median, axis by axis.

    Args:
        found: (n, 3) places of structures, (L, P, S) in mm, at least one; only whole structures, since a part of one
            has another centroid.
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
