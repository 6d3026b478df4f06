"""What "the brain" is: one smooth solid, as brain extraction tools draw it.

To it belong cerebrum, cerebellum and brain stem down to the spinal cord, the ventricles, and the fluid and vessels in
sulci and fissures narrower than twice ``CLOSING_MM``; not the fluid round the brain, the venous sinuses under the
skull, or bone. The surface runs over the gyri. On mricron's head ch2 the tissue inside FSL BET's mask, closed by 3 to
4 mm, comes nearest to that mask (Dice 0.983); 8 mm gives 0.981, and also spans the wide fissures of old brains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

CLOSING_MM = 8.0
OPENING_MM = 2.0
SMOOTHING_MM = 0.7

BETWEEN = frozenset({24, 30, 62, 72, 85, 514})
"""Labels that belong to the brain where it surrounds them.

FreeSurfer's fluid, left and right vessel, fifth ventricle and optic chiasm, and SynthSeg's veins."""


def solid_brain(
    tissue: npt.NDArray[np.bool_], between: npt.NDArray[np.bool_], spacing: Sequence[float]
) -> npt.NDArray[np.bool_]:
    """Return the brain as one solid.

    The largest piece of the tissue is closed by ``CLOSING_MM`` where there is tissue or what may lie between, holes are
    filled, and what is thinner than twice ``OPENING_MM`` falls off.

    Args:
        tissue: (z, y, x), the labels that are brain; at least one voxel.
        between: (z, y, x), the labels in :data:`BETWEEN`.
        spacing: (z, y, x) in mm.
    """
    margins = [int(np.ceil(CLOSING_MM / length)) + 1 for length in spacing]
    around = [(margin, margin) for margin in margins]
    padded = np.pad(largest_piece(tissue), around)
    closed = _eroded(_dilated(padded, CLOSING_MM, spacing), CLOSING_MM, spacing)
    closed &= np.pad(tissue | between, around)
    filled = ndimage.binary_fill_holes(closed | padded)
    opened = _dilated(_eroded(filled, OPENING_MM, spacing), OPENING_MM, spacing) & filled
    solid = largest_piece(opened) if opened.any() else filled
    return solid[tuple(slice(margin, -margin) for margin in margins)]


def brain_distance(solid: npt.NDArray[np.bool_], spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the signed distance to the brain's surface in mm, negative inside, smoothed by ``SMOOTHING_MM``.

    Unlike the mask it can be interpolated between voxels, and moved out or in.

    Args:
        solid: (z, y, x), at least one voxel inside and one outside.
        spacing: (z, y, x) in mm.
    """
    outside = ndimage.distance_transform_edt(~solid, sampling=spacing)
    inside = ndimage.distance_transform_edt(solid, sampling=spacing)
    distance = (outside - inside).astype(np.float32)
    smoothed: npt.NDArray[np.float32] = ndimage.gaussian_filter(distance, [SMOOTHING_MM / length for length in spacing])
    return smoothed


def largest_piece(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the largest piece of a mask whose voxels share faces."""
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    piece: npt.NDArray[np.bool_] = pieces == sizes.argmax()
    return piece


def _dilated(mask: npt.NDArray[np.bool_], radius: float, spacing: Sequence[float]) -> npt.NDArray[np.bool_]:
    distance: npt.NDArray[np.float64] = ndimage.distance_transform_edt(~mask, sampling=spacing)
    return distance <= radius


def _eroded(mask: npt.NDArray[np.bool_], radius: float, spacing: Sequence[float]) -> npt.NDArray[np.bool_]:
    distance: npt.NDArray[np.float64] = ndimage.distance_transform_edt(mask, sampling=spacing)
    return distance > radius
