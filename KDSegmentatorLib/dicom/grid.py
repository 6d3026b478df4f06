"""The regular grid that the images of a series lie on, or what keeps them from it, in mm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.dicom.headers import ImagePlane, text
from KDSegmentatorLib.dicom.tilt import TiltedSlices, tilted_slices
from KDSegmentatorLib.errors import GeometryError
from KDSegmentatorLib.geometry import Matrix, Vector, check_size, matrix, vector

DEVIATION_SHARE, MAXIMUM_DEVIATION = 0.1, 0.2
"""An image may lie so far from its place on the grid: a share of the spacing along each axis, and in mm."""

SPACING_TOLERANCE = 1e-3
"""Largest difference of the Pixel Spacing of two images, as a share of it."""

COSINE_TOLERANCE = 1e-3
"""Largest difference of a direction cosine of two images: 0.06 degrees."""

MAXIMUM_TILT = 45.0
"""In degrees; gantries tilt by up to 30."""

_SAME_PLACE = 0.01
"""Images that are closer than this, in mm, lie at one place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceGrid:
    """Images in order, and their grid.

    Attributes:
        planes: in the order of the volume's first axis.
        spacing: (column to column, row to row, slice to slice) in mm.
        origin: (L, P, S) of the first voxel in mm; if tilted, of the straight grid.
        direction: columns: along a row, down a column, along the normal.
        tilt: where the images lie if they are tilted; else None.
    """

    planes: tuple[ImagePlane, ...]
    spacing: Vector
    origin: Vector
    direction: Matrix
    tilt: TiltedSlices | None


def slice_grid(planes: Sequence[ImagePlane]) -> SliceGrid:
    """Return the grid on which images lie.

    The slices are ordered along the normal of the images; the first and the last one fix the grid.

    Raises:
        GeometryError: there is one image only; they differ in size, spacing, orientation or frame of reference; one is
            missing, there twice, or out of place; several volumes lie at one place (4-D).
    """
    if len(planes) < 2:
        raise GeometryError("the series has one image only, which is no volume; give a series of slices")
    _check_alike(planes)
    axes = planes[0].axes
    order = sorted(planes, key=lambda plane: float(plane.position @ axes[:, 2]))
    positions = np.stack([plane.position for plane in order])
    distance = _slice_distance(order, positions @ axes[:, 2])
    spacing = vector([*planes[0].spacing, distance])
    rows, columns = planes[0].size
    check_size((columns, rows, len(order)))
    limits = np.minimum(DEVIATION_SHARE * np.asarray(spacing), MAXIMUM_DEVIATION)
    number = np.arange(len(order))
    tilt = None
    if (np.abs((positions - positions[0]) @ axes - np.outer(number * distance, (0, 0, 1))) > limits).any():
        tilt = tilted_slices(positions, rows, columns, spacing, matrix(axes))
        line = np.outer(number / (len(order) - 1), positions[-1] - positions[0])
        if (np.abs((positions - positions[0] - line) @ axes) > limits).any():
            _raise_out_of_place(order, positions @ axes, limits)
        if tilt.degrees > MAXIMUM_TILT:
            raise GeometryError(
                f"the images are shifted in their planes, as by a tilt of {tilt.degrees:.0f} degrees; no gantry tilts "
                f"by more than {MAXIMUM_TILT:g}: their positions are damaged, export the series again"
            )
        check_size(tilt.shape[::-1])
    return SliceGrid(
        planes=tuple(order),
        spacing=spacing,
        origin=vector(positions[0]) if tilt is None else tilt.origin,
        direction=matrix(axes),
        tilt=tilt,
    )


def _check_alike(planes: Sequence[ImagePlane]) -> None:
    """Compare each image with what most of them have in common."""
    keys: dict[str, Callable[[ImagePlane], str]] = {
        "number of rows and columns": lambda plane: f"{plane.size[0]} x {plane.size[1]}",
        "frame of reference": lambda plane: text(plane.dataset, "FrameOfReferenceUID"),
    }
    for what, key in keys.items():
        common = Counter(key(plane) for plane in planes).most_common(1)[0][0]
        other = next((plane for plane in planes if key(plane) != common), None)
        if other is not None:
            raise GeometryError(
                f"{other.name} has another {what} ({key(other)}, not {common}) than the other images; take it out, or "
                "export the series again"
            )
    spacing = np.median([plane.spacing for plane in planes], axis=0)
    cosines = np.median([plane.axes for plane in planes], axis=0)
    for plane in planes:
        if (np.abs(np.asarray(plane.spacing) - spacing) > SPACING_TOLERANCE * spacing).any():
            raise GeometryError(
                f"{plane.name} has pixels of {plane.spacing[0]:g} x {plane.spacing[1]:g} mm, the other images of "
                f"{spacing[0]:g} x {spacing[1]:g} mm; take it out, or export the series again"
            )
        if np.abs(plane.axes - cosines).max() > COSINE_TOLERANCE:
            turn = np.degrees(np.arccos(np.clip(np.einsum("ij,ij->j", plane.axes, cosines).min(), -1, 1)))
            raise GeometryError(
                f"{plane.name} is turned by {turn:.1f} degrees against the other images; it is perhaps a localiser: "
                "take it out, or export the series again"
            )


def _slice_distance(order: Sequence[ImagePlane], along: npt.NDArray[np.float64]) -> float:
    """Return the distance of neighbouring slices in mm.

    Args:
        order: the images along their normal.
        along: their positions on it, mm.
    """
    gaps = np.diff(along)
    places = 1 + int((gaps > _SAME_PLACE).sum())
    if places < len(order):
        _raise_same_place(order, gaps, places)
    typical = float(np.median(gaps))
    limit = min(DEVIATION_SHARE * typical, MAXIMUM_DEVIATION)
    for n, gap in enumerate(gaps):
        if abs(gap - typical) > 2 * limit:
            missing = round(gap / typical) - 1
            between = f"between {order[n].name} and {order[n + 1].name}"
            if missing >= 1 and abs(gap - (missing + 1) * typical) <= 2 * limit:
                raise GeometryError(
                    f"{missing} slice{'s are' if missing > 1 else ' is'} missing {between}: they are {gap:.2f} mm "
                    f"apart, the others {typical:.2f} mm; fetch the whole series"
                )
            raise GeometryError(
                f"the distance of slices varies: it is {gap:.2f} mm {between}, and mostly {typical:.2f} mm; resample "
                "the series onto a regular grid first"
            )
    return float(along[-1] - along[0]) / (len(order) - 1)


def _raise_same_place(order: Sequence[ImagePlane], gaps: npt.NDArray[np.float64], places: int) -> None:
    times, rest = divmod(len(order), places)
    if rest == 0 and times > 1 and places > 1:
        raise GeometryError(
            f"the series is 4-D: at each of its {places} places lie {times} images (phases, echoes or b-values); "
            "export one volume of it as a series of its own"
        )
    first = int((gaps <= _SAME_PLACE).argmax())
    raise GeometryError(
        f"{order[first].name} and {order[first + 1].name} lie in one plane ({gaps[first]:.3f} mm apart); remove "
        "the one that does not belong to the series"
    )


def _raise_out_of_place(
    order: Sequence[ImagePlane], positions: npt.NDArray[np.float64], limits: npt.NDArray[np.float64]
) -> None:
    """Name the image that is farthest from the line of the others, whichever that is.

    Args:
        order: the images along their normal.
        positions: (slices, 3), mm along the axes of the images.
        limits: of the deviation along each axis, mm.
    """
    half = len(order) // 2
    steps = np.median((positions[half:] - positions[:-half]) / half, axis=0)  # one image does not move a median
    rest = positions - np.outer(np.arange(len(order)), steps)
    off = rest - np.median(rest, axis=0)
    worst = int((np.abs(off) / limits).max(axis=1).argmax())
    raise GeometryError(
        f"{order[worst].name} lies {np.linalg.norm(off[worst]):.2f} mm from its place on the line of the other images; "
        "take it out if it does not belong to the series, or export that again"
    )
