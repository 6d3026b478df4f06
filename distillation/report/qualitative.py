"""The qualitative figure: one held-out case in three planes, truth beside the students, differences marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distillation.report.plots import Picture, new_figure, save
from KDSegmentatorLib.analysis.overlay import CT_WINDOW_HU, MR_WINDOW_PERCENTILES
from KDSegmentatorLib.analysis.planes import Plane, planes
from KDSegmentatorLib.errors import GeometryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from KDSegmentatorLib.geometry import Volume
    from KDSegmentatorLib.packs.manifest import Label, Modality

PICTURE_NAME = "qualitative"
_BACKGROUND = "#111418"
_INK = "#eceff1"
_LETTER = "#ffd666"
_DIFFERENCE = (1.0, 0.0, 1.0)
_OPACITY = 0.45


@dataclass(frozen=True, kw_only=True)
class Column:
    """One segmentation of the case.

    Attributes:
        title: above it.
        segmentation: label values on the image's grid.
    """

    title: str
    segmentation: Volume


def qualitative_figure(
    image: Volume, columns: Sequence[Column], labels: Sequence[Label], *, case: str, chosen: str, modality: Modality
) -> Picture:
    """Draw a case: coronal, sagittal and axial plane from top to bottom, one segmentation a column.

    All columns show the same planes, those with the most labelled voxels of all segmentations together. Coronal and
    axial planes are in radiological convention: the patient's left is on the right of the picture, as the letters at
    the edges say; sagittal planes have anterior on the left.

    Args:
        image: the scan.
        columns: the reference first; voxels where another one differs from it are marked.
        labels: their values and colours.
        case: its name.
        chosen: how the case was chosen, for the caption.
        modality: CT is shown from -160 to 240 HU, MR between percentiles of what is shown.

    Raises:
        GeometryError: a segmentation is not on the image's grid.
    """
    base = 1 + max(label.value for label in labels)
    for column in columns:
        if not column.segmentation.same_grid(image):
            raise GeometryError(f"{column.title}: the segmentation is not on the grid of {case}; it cannot be shown")
    # One number a voxel holds the labels of all columns, so that one cut gives the same planes of all of them.
    codes = np.zeros(image.voxels.shape, dtype=np.int64)
    for column in reversed(columns):
        codes = codes * base + column.segmentation.voxels.astype(np.int64)
    axial, coronal, sagittal = planes(image, image.with_voxels(codes))
    rows = (coronal, sagittal, axial)
    window = CT_WINDOW_HU if modality == "CT" else _window(rows)
    height = sum(view.extent[0] / view.extent[1] for view in rows)
    width = 3.0
    figure = new_figure(width * len(columns) + 0.4, width * height + 1.1)
    figure.set_facecolor(_BACKGROUND)
    ratios = [view.extent[0] / view.extent[1] for view in rows]
    grid = figure.subplots(len(rows), len(columns), squeeze=False, gridspec_kw={"height_ratios": ratios})
    for view, line in zip(rows, grid, strict=True):
        shown = [(view.labels // base**n) % base for n in range(len(columns))]
        for n, (axes, column) in enumerate(zip(line, columns, strict=True)):
            _draw(axes, view, shown[n], shown[0], labels, window)
            if view is rows[0]:
                axes.set_title(column.title, color=_INK, fontsize=10)
            if n == 0:
                axes.set_ylabel(f"{view.name}, {view.position}", color=_INK, fontsize=9)
    seen = {int(code) for view in rows for code in np.unique(view.labels)}
    _legend(figure, labels, {(code // base**n) % base for code in seen for n in range(len(columns))})
    caption = (
        f"Case {case}, {chosen}: reference and networks in the same planes; voxels with another label than the "
        "reference are magenta. Radiological convention: the patient's left (L) is on the right of coronal and axial "
        "pictures."
    )
    return save(figure, PICTURE_NAME, caption, "png")


def _draw(
    axes: Any,
    view: Plane,
    shown: npt.NDArray[np.int64],
    reference: npt.NDArray[np.int64],
    labels: Sequence[Label],
    window: tuple[float, float],
) -> None:
    from matplotlib.patheffects import withStroke

    aspect = view.pixel_size[0] / view.pixel_size[1]
    axes.imshow(view.intensities, cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect, interpolation="bicubic")
    layer = np.zeros((*shown.shape, 4))
    for label in labels:
        layer[shown == label.value] = (*_rgb(label), _OPACITY)
    layer[shown != reference] = (*_DIFFERENCE, 0.85)
    axes.imshow(layer, aspect=aspect, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    left, right, top, bottom = view.edges
    places = ((0.02, 0.5, left), (0.98, 0.5, right), (0.5, 0.97, top), (0.5, 0.03, bottom))
    for x, y, letter in places:
        text = axes.text(x, y, letter, transform=axes.transAxes, color=_LETTER, fontsize=10, ha="center", va="center")
        text.set_path_effects([withStroke(linewidth=2.5, foreground="black")])


def _legend(figure: Any, labels: Sequence[Label], seen: set[int]) -> None:
    """Name the structures that are to be seen, at most twelve of them, and the colour of differences."""
    from matplotlib.patches import Patch

    present = [label for label in labels if label.value in seen][:12]
    patches = [Patch(color=_rgb(label), label=label.name) for label in present]
    patches.append(Patch(color=_DIFFERENCE, label="differs from the reference"))
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=_INK)


def _rgb(label: Label) -> tuple[float, float, float]:
    red, green, blue = label.color
    return red / 255, green / 255, blue / 255


def _window(views: Sequence[Plane]) -> tuple[float, float]:
    values = np.concatenate([view.intensities.reshape(-1) for view in views]).astype(np.float64)
    low, high = (float(np.percentile(values, percentile)) for percentile in MR_WINDOW_PERCENTILES)
    return (low, high) if high > low else (low - 1, low)
