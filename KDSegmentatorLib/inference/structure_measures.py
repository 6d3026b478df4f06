"""What a result is judged by: size, place and brightness of every structure, and how far it is from its usual place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.geometry import MM3_PER_ML, Volume, slabs

EDGE_SHARE = 0.002
"""A structure touches the edge if more than this share of its voxels is in the outermost layer of the volume.

A plane through a brain holds 0.01 of its voxels, one through a small structure much more; a stray voxel beside a
structure holds less. One that is all there is of a label holds everything: how much a structure has to have is for who
knows its size (:data:`KDSegmentatorLib.inference.sanity.CUT_OFF_SHARE`).
"""

LARGEST_TILT = 40.0
"""Degrees that a head may be turned against those of the training set; nnU-Net's augmentation turns by up to 30."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StructureVolumes:
    """The structures of a label map, by label value; entry 0, the background, is 0, False and nan.

    Attributes:
        ml: volume in millilitres, float64.
        at_edge: whether it touches the edge of the volume, so that it may go on beyond it.
        places: (n, 3) float64, its centroid, (L, P, S) in mm from the centroid of all structures; nan if it is absent.
    """

    ml: npt.NDArray[np.float64]
    at_edge: npt.NDArray[np.bool_]
    places: npt.NDArray[np.float64]


def structure_volumes(
    segmentation: Volume, largest_value: int, check: Callable[[], None] = lambda: None
) -> StructureVolumes:
    """Return the volumes of the structures 1 to ``largest_value``.

    Args:
        segmentation: label values, unsigned, (z, y, x); larger values are left out.
        largest_value: of the labels.
        check: called once for each of the :func:`~KDSegmentatorLib.geometry.slabs`; may raise to stop the work.
    """
    voxels, length = segmentation.voxels, largest_value + 1
    # how many voxels of a structure there are at each z, y and x: all that is asked for follows from these
    profiles = [np.zeros((size, length), dtype=np.int64) for size in voxels.shape]
    for part in slabs(voxels):
        for z in range(part.start, part.stop):
            _add_plane(profiles, voxels[z], z)
        check()
    counts = profiles[0].sum(axis=0)
    outermost = np.sum([profile[0] + profile[-1] for profile in profiles], axis=0)
    at_edge = outermost > EDGE_SHARE * counts
    return StructureVolumes(
        ml=counts * np.float64(segmentation.voxel_volume / MM3_PER_ML),
        at_edge=at_edge,
        places=_places(profiles, counts, segmentation.affine[:3, :3]),
    )


def _add_plane(profiles: list[npt.NDArray[np.int64]], plane: npt.NDArray[np.unsignedinteger], z: int) -> None:
    length = profiles[0].shape[1]
    rows, columns = np.nonzero((plane > 0) & (plane < length))
    values = plane[rows, columns].astype(np.intp)
    profiles[0][z] = np.bincount(values, minlength=length)
    for profile, index in ((profiles[1], rows), (profiles[2], columns)):
        profile += np.bincount(index * length + values, minlength=profile.size).reshape(profile.shape)


def _places(
    profiles: list[npt.NDArray[np.int64]], counts: npt.NDArray[np.int64], axes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return centroids, (L, P, S) in mm from that of all; ``axes`` are the steps along i, j and k as columns."""
    present, total = counts > 0, counts.sum()
    places = np.full((len(counts), 3), np.nan)
    if total == 0:
        return places
    for axis, profile in enumerate(reversed(profiles)):  # x, y, z
        sums = np.arange(len(profile)) @ profile
        places[present, axis] = sums[present] / counts[present] - sums.sum() / total
    moved: npt.NDArray[np.float64] = places @ axes.T
    return moved


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


def structure_intensities(
    segmentation: Volume, image: Volume, largest_value: int, check: Callable[[], None] = lambda: None
) -> npt.NDArray[np.float64]:
    """Return the mean intensities of the structures 1 to ``largest_value``, standardised over all labelled voxels.

    Standardised is (mean of the structure - mean of all labelled voxels) / (standard deviation of all labelled voxels),
    so that neither the scanner's scale nor its offset matters.

    Args:
        segmentation: label values, unsigned, (z, y, x); larger values are left out.
        image: the scan on the same grid.
        largest_value: of the labels.
        check: called once for each of the :func:`~KDSegmentatorLib.geometry.slabs`; may raise to stop the work.

    Returns:
        float64 by label value; nan for the background and for structures that are not there, and for all if the
        labelled voxels are of one intensity.
    """
    length = largest_value + 1
    counts, sums = np.zeros(length), np.zeros(length)
    squares = 0.0
    origin: float | None = None  # intensities are counted from the first one, so that equal ones differ by exactly 0
    for part in slabs(segmentation.voxels):
        values = segmentation.voxels[part].reshape(-1)
        labelled = (values > 0) & (values <= largest_value)
        values, intensities = values[labelled], image.voxels[part].reshape(-1)[labelled].astype(np.float64)
        if origin is None and values.size:
            origin = float(intensities[0])
        intensities -= origin or 0.0
        counts += np.bincount(values, minlength=length)
        sums += np.bincount(values, weights=intensities, minlength=length)
        squares += float(np.square(intensities).sum())
        check()
    total = counts.sum()
    if total == 0:
        return np.full(length, np.nan)
    mean = sums.sum() / total
    variance = squares / total - mean**2
    if variance <= 0:
        return np.full(length, np.nan)
    means = np.divide(sums, counts, out=np.full(length, np.nan), where=counts > 0)
    standardised: npt.NDArray[np.float64] = (means - mean) / np.sqrt(variance)
    return standardised
