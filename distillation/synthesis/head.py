"""One head to make images of: its label map, cleaned and ready to be deformed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from distillation.synthesis.brain_mask import BETWEEN, brain_distance, largest_piece, solid_brain
from KDSegmentatorLib.errors import GeometryError, ImageReadError, TrainingError
from KDSegmentatorLib.io.images import read_volume

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.synthesis.label_table import LabelTable

AXIS_CODES = "RAS"
"""Index axes i, j, k of all made images; their arrays are (z, y, x) to S, A and R."""

MAXIMUM_SPACING_MM = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A label map in RAS, without the air round the head.

    Attributes:
        name: the file's, without suffix.
        classes: (z, y, x) uint8, intensity classes; 0 is air.
        distance: (z, y, x) float32, signed distance to the brain's surface in mm, negative inside.
        spacing: (z, y, x) in mm.
        centre: (z, y, x) of the middle of the brain's box, in mm from the first voxel's centre.
    """

    name: str
    classes: npt.NDArray[np.uint8]
    distance: npt.NDArray[np.float32]
    spacing: tuple[float, float, float]
    centre: tuple[float, float, float]


def read_head(path: Path, table: LabelTable) -> Head:
    """Read a label map.

    Specks that do not touch the head are taken for air: label maps have some behind the head.

    Raises:
        TrainingError: it cannot be read, is too coarse, has labels that are not in the table, or shows no brain.
    """
    try:
        volume = read_volume(path).reoriented(AXIS_CODES)
    except (GeometryError, ImageReadError) as error:
        raise TrainingError(f"the label map cannot be used: {error}") from error
    if volume.voxels.dtype.kind not in "iu":
        raise TrainingError(f"{path} holds {volume.voxels.dtype.name}; a label map holds whole numbers")
    if max(volume.spacing) > MAXIMUM_SPACING_MM:
        raise TrainingError(
            f"{path} has voxels of {max(volume.spacing):g} mm; label maps need {MAXIMUM_SPACING_MM:g} mm or less"
        )
    values, positions = np.unique(volume.voxels, return_inverse=True)
    unknown = [int(value) for value in values if int(value) not in table.intensity_class]
    if unknown:
        raise TrainingError(
            f"{path} has the labels {', '.join(map(str, unknown[:5]))}, which its table does not explain"
        )
    shape = volume.voxels.shape
    classes = np.array([table.intensity_class[int(value)] for value in values], np.uint8)[positions].reshape(shape)
    tissue = np.array([int(value) in table.brain for value in values])[positions].reshape(shape)
    if not tissue.any():
        raise TrainingError(f"{path} has no voxel of the brain; give label maps of whole heads")
    between = np.isin(values, list(BETWEEN))[positions].reshape(shape)
    head = largest_piece((classes > 0) | tissue)
    box = tuple(slice(max(0, low - 2), high + 3) for low, high in _extent(head))
    head = head[box]
    tissue, between = tissue[box] & head, between[box] & head
    if not tissue.any():
        raise TrainingError(f"{path}: its largest piece has no brain; give label maps of whole heads")
    z, y, x = volume.spacing[::-1]
    solid = solid_brain(tissue, between, (z, y, x))
    if solid.all():
        raise TrainingError(f"{path} is brain from edge to edge; give label maps of whole heads")
    middle = [(low + high) / 2 * length for (low, high), length in zip(_extent(solid), (z, y, x), strict=True)]
    return Head(
        name=path.name.removesuffix(".gz").rpartition(".")[0],
        classes=np.where(head, classes[box], np.uint8(0)),
        distance=brain_distance(solid, (z, y, x)),
        spacing=(z, y, x),
        centre=(middle[0], middle[1], middle[2]),
    )


def _extent(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the first and last index with a voxel of the mask, along each axis."""
    extent = []
    for axis in range(3):
        present = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        extent.append((int(present[0]), int(present[-1])))
    return extent
