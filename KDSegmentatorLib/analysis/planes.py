"""The axial, coronal and sagittal plane through a segmentation, laid out as a radiologist looks at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError
from KDSegmentatorLib.geometry import Volume

CONTEXT_MM = 20.0
CONTEXT_FRACTION = 0.5
"""Around the labels is shown the larger of ``CONTEXT_MM`` and this fraction of their longest extent."""

_LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """One plane, row 0 on top, column 0 on the left.

    Attributes:
        name: ``Axial``, ``Coronal`` or ``Sagittal``.
        intensities: (rows, columns), the image's own units.
        labels: (rows, columns), label values.
        pixel_size: (height, width) of a voxel in the plane in mm.
        edges: patient directions of the left, right, top and bottom edge.
        position: where the plane cuts the patient, for example ``12.5 mm S``.
    """

    name: str
    intensities: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    pixel_size: tuple[float, float]
    edges: tuple[str, str, str, str]
    position: str

    @property
    def extent(self) -> tuple[float, float]:
        """(height, width) in mm."""
        rows, columns = self.labels.shape
        return rows * self.pixel_size[0], columns * self.pixel_size[1]


def planes(image: Volume, segmentation: Volume) -> tuple[Plane, Plane, Plane]:
    """Return the axial, coronal and sagittal plane with the most labelled voxels, cropped to the labels' surroundings.

    Axial and coronal planes have the patient's right on the left (radiological convention), sagittal planes anterior on
    the left. Without any label the middle planes are shown whole. Oblique volumes are cut along their own axes.

    Args:
        image: the scan.
        segmentation: label values on the same grid, 0 is background.

    Raises:
        GeometryError: the two volumes do not share a grid.
    """
    if not segmentation.same_grid(image):
        raise GeometryError(
            f"the segmentation (size {segmentation.size}) is not on the image's grid (size {image.size}); "
            "resample one of them first"
        )
    image, segmentation = image.reoriented("LPS"), segmentation.reoriented("LPS")
    mask = segmentation.voxels > 0
    profiles = [np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    if profiles[0].any():
        k, j, i = (int(profile.argmax()) for profile in profiles)
        z, y, x = _surroundings(profiles, segmentation)
    else:
        k, j, i = (length // 2 for length in mask.shape)
        z, y, x = slice(None), slice(None), slice(None)
    centre = segmentation.affine @ np.array([i, j, k, 1.0])
    width_l, width_p, width_s = segmentation.spacing

    def plane(
        name: str, axis: int, place: tuple[Any, ...], pixel_size: tuple[float, float], edges: tuple[str, str, str, str]
    ) -> Plane:
        upwards = slice(None, None, -1 if edges[2] == "S" else 1)  # rows run from inferior to superior, as stored
        return Plane(
            name=name,
            intensities=image.voxels[place][upwards],
            labels=segmentation.voxels[place][upwards],
            pixel_size=pixel_size,
            edges=edges,
            position=_position(float(centre[axis]), axis),
        )

    return (
        plane("Axial", 2, (k, y, x), (width_p, width_l), ("R", "L", "A", "P")),
        plane("Coronal", 1, (z, j, x), (width_s, width_l), ("R", "L", "S", "I")),
        plane("Sagittal", 0, (z, y, i), (width_s, width_p), ("A", "P", "S", "I")),
    )


def _surroundings(profiles: list[npt.NDArray[np.intp]], segmentation: Volume) -> list[slice]:
    """Return the (z, y, x) box to show: the labels' own box with some context on every side."""
    found = [np.flatnonzero(profile) for profile in profiles]
    spacing = segmentation.spacing[::-1]
    longest = max((hit[-1] - hit[0] + 1) * step for hit, step in zip(found, spacing, strict=True))
    context = max(CONTEXT_MM, CONTEXT_FRACTION * float(longest))
    box = []
    for hit, step, profile in zip(found, spacing, profiles, strict=True):
        voxels = int(np.ceil(context / step))
        box.append(slice(max(0, int(hit[0]) - voxels), min(len(profile), int(hit[-1]) + 1 + voxels)))
    return box


def _position(coordinate: float, axis: int) -> str:
    towards, away = _LETTERS[axis]
    return f"{abs(coordinate):.1f} mm {towards if coordinate >= 0 else away}"
