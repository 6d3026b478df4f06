"""A picture to check a segmentation by: three planes with the labels on top, and a legend with volumes."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.analysis.planes import Plane, planes
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.packs.manifest import Label, Modality

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

Rgb = tuple[int, int, int]

CT_WINDOW_HU = (-160.0, 240.0)
MR_WINDOW_PERCENTILES = (1.0, 99.5)
FILL_OPACITY = 0.38

_PANELS_WIDTH = 1420
_PANELS_HEIGHT = 640
_MARGIN = 36
_GAP = 28
_MINIMUM_CELL = 190
_LEGEND_COLUMN = 320
_LEGEND_ROW = 30
_OVERSAMPLING = 2
_OUTLINE = 3  # pixels of the oversampled panel on the label's side of its border
_WINDOW_SAMPLE = 1_000_000

_BACKGROUND: Rgb = (17, 20, 24)
_TEXT: Rgb = (236, 239, 241)
_DIM: Rgb = (150, 160, 168)
_LETTER: Rgb = (255, 214, 102)


def draw_overlay(
    image: Volume, segmentation: Volume, labels: Sequence[Label], *, title: str, modality: Modality
) -> Image.Image:
    """Draw the axial, coronal and sagittal plane with the most labelled voxels, labels filled and outlined.

    All three are to one scale, with voxels of any shape in their true proportions, the patient's right on the left of
    axial and coronal planes, anterior on the left of the sagittal one, and the directions written at the edges.

    Args:
        image: the scan.
        segmentation: label values on the same grid.
        labels: their names and colours; values that are not among them are not drawn.
        title: the first line, for example the pack and its size.
        modality: CT is shown from -160 to 240 HU, MR between percentiles of what is shown.

    Returns:
        An RGB picture.

    Raises:
        GeometryError: the two volumes do not share a grid.
    """
    from PIL import Image, ImageDraw

    views = planes(image, segmentation)
    window = CT_WINDOW_HU if modality == "CT" else _percentile_window(views)
    scale = min(
        (_PANELS_WIDTH - 2 * _GAP) / sum(view.extent[1] for view in views),
        _PANELS_HEIGHT / max(view.extent[0] for view in views),
    )
    panels = [_panel(view, scale, window, labels) for view in views]
    cells = [max(panel.width, _MINIMUM_CELL) for panel in panels]
    content = max(sum(cells) + 2 * _GAP, 2 * _LEGEND_COLUMN + 320)
    columns = max(1, content // _LEGEND_COLUMN)
    panels_top = _MARGIN + 84
    legend_top = panels_top + max(panel.height for panel in panels) + 30
    footer_top = legend_top + math.ceil(len(labels) / columns) * _LEGEND_ROW + 18
    canvas = Image.new("RGB", (content + 2 * _MARGIN, footer_top + 24 + _MARGIN // 2), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN - 6), _fitted(title, _font(28), content), font=_font(28), fill=_TEXT)
    left = _MARGIN + (content - sum(cells) - 2 * _GAP) // 2
    for view, panel, cell in zip(views, panels, cells, strict=True):
        x = left + (cell - panel.width) // 2
        canvas.paste(panel, (x, panels_top))
        draw.text((x, panels_top - 34), view.name, font=_font(20), fill=_TEXT)
        name_width = _font(20).getlength(view.name + "  ")
        draw.text((x + name_width, panels_top - 31), view.position, font=_font(17), fill=_DIM)
        _draw_letters(draw, view, (x, panels_top, x + panel.width, panels_top + panel.height))
        left += cell + _GAP
    _draw_legend(draw, labels, _volumes_ml(segmentation, labels), columns, content, legend_top)
    _draw_footer(draw, scale, window, "HU" if modality == "CT" else "", content, footer_top)
    return canvas


def write_overlay(
    image: Volume,
    segmentation: Volume,
    labels: Sequence[Label],
    path: Path | str,
    *,
    title: str,
    modality: Modality,
) -> None:
    """Write the picture of :func:`draw_overlay` as PNG; an existing file is replaced.

    Raises:
        GeometryError: the two volumes do not share a grid.
        ImageWriteError: the file could not be written; nothing was left behind.
    """
    picture = draw_overlay(image, segmentation, labels, title=title, modality=modality)
    with atomic_output(Path(path)) as unfinished:
        picture.save(unfinished, format="PNG")


def _panel(view: Plane, scale: float, window: tuple[float, float], labels: Sequence[Label]) -> Image.Image:
    """Return one plane as RGB, ``scale`` pixels a millimetre."""
    from PIL import Image

    height, width = (max(1, round(length * scale)) for length in view.extent)
    size = (width * _OVERSAMPLING, height * _OVERSAMPLING)
    grey = Image.fromarray(np.ascontiguousarray(view.intensities, dtype=np.float32))
    intensities = np.asarray(grey.resize(size, Image.Resampling.BICUBIC))
    low, high = window
    shades = np.clip((intensities - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1) * 255
    rgb = np.repeat(shades[..., None], 3, axis=2)
    shown = _smooth_labels(view.labels, size, [label.value for label in labels])
    outline = _outline(shown)
    for label in labels:
        inside = shown == label.value
        if inside.any():
            color = np.asarray(label.color, dtype=np.float64)
            rgb[inside] = (1 - FILL_OPACITY) * rgb[inside] + FILL_OPACITY * color
            rgb[inside & outline] = color
    picture = Image.fromarray(rgb.round().astype(np.uint8))
    return picture.resize((width, height), Image.Resampling.BOX)


def _smooth_labels(
    labels: npt.NDArray[np.generic], size: tuple[int, int], values: Sequence[int]
) -> npt.NDArray[np.int32]:
    """Return labels at another (width, height): each mask interpolated linearly, the strongest label wins."""
    from PIL import Image

    shape = (size[1], size[0])
    best = np.zeros(shape, dtype=np.uint8)
    covered = np.zeros(shape, dtype=np.int32)
    chosen = np.zeros(shape, dtype=np.int32)
    for value in values:
        mask = labels == value
        if not mask.any():
            continue
        weight = np.asarray(
            Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR), dtype=np.uint8
        )
        stronger = weight > best
        chosen[stronger] = value
        best[stronger] = weight[stronger]
        covered += weight
    chosen[covered < 128] = 0  # less than half of the pixel is labelled
    return chosen


def _outline(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return the pixels of a label map within ``_OUTLINE`` pixels of another label."""
    padded = np.pad(labels, _OUTLINE, mode="edge")
    rows, columns = labels.shape
    border = np.zeros(labels.shape, dtype=np.bool_)
    for shift in range(1, _OUTLINE + 1):
        for down, right in ((shift, 0), (-shift, 0), (0, shift), (0, -shift)):
            top, left = _OUTLINE + down, _OUTLINE + right
            border |= padded[top : top + rows, left : left + columns] != labels
    return border


def _percentile_window(views: Sequence[Plane]) -> tuple[float, float]:
    """Return a low percentile of what is shown, and a high one of what is not its empty surroundings (lowest value)."""
    shown = np.concatenate([view.intensities.reshape(-1) for view in views]).astype(np.float64)
    shown = shown[:: max(1, shown.size // _WINDOW_SAMPLE)]
    low = float(np.percentile(shown, MR_WINDOW_PERCENTILES[0]))
    tissue = shown[shown > shown.min()]
    high = float(np.percentile(tissue, MR_WINDOW_PERCENTILES[1])) if tissue.size else low
    return (low, high) if high > low else (low - 1, low)


def _volumes_ml(segmentation: Volume, labels: Sequence[Label]) -> dict[int, float]:
    """Return the volume of every label in ml."""
    counts = np.bincount(
        segmentation.voxels[segmentation.voxels > 0], minlength=max((label.value for label in labels), default=0) + 1
    )
    return {label.value: float(counts[label.value]) * segmentation.voxel_volume / 1000 for label in labels}


def _draw_letters(draw: ImageDraw.ImageDraw, view: Plane, box: tuple[int, int, int, int]) -> None:
    """Write the patient directions at the middle of the edges of a box (left, top, right, bottom)."""
    left, top, right, bottom = box
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    places = (
        (left + 8, middle_y, "lm"),
        (right - 8, middle_y, "rm"),
        (middle_x, top + 6, "ma"),
        (middle_x, bottom - 7, "mb"),
    )
    for letter, (x, y, anchor) in zip(view.edges, places, strict=True):
        draw.text((x, y), letter, font=_font(20), fill=_LETTER, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    labels: Sequence[Label],
    volumes: dict[int, float],
    columns: int,
    width: int,
    top: int,
) -> None:
    """List the labels with colour and volume, row by row."""
    font = _font(18)
    step = width // columns
    for number, label in enumerate(labels):
        x = _MARGIN + number % columns * step
        y = top + number // columns * _LEGEND_ROW
        found = volumes[label.value] > 0
        swatch = (x, y + 2, x + 18, y + 20)
        draw.rounded_rectangle(swatch, radius=4, fill=label.color if found else None, outline=label.color)
        volume = f"{volumes[label.value]:.2f} ml" if found else "not found"
        volume_left = x + step - 40 - font.getlength(volume)
        ink = _TEXT if found else _DIM
        draw.text((x + 28, y), _fitted(label.name, font, volume_left - x - 40), font=font, fill=ink)
        draw.text((volume_left, y), volume, font=font, fill=ink)


def _draw_footer(
    draw: ImageDraw.ImageDraw, scale: float, window: tuple[float, float], unit: str, width: int, top: int
) -> None:
    """Say how to read the picture, and draw a bar of known length."""
    font = _font(15)
    low, high = window
    text = f"Radiological convention: the patient's right (R) is on the left  ·  Window {low:.4g} to {high:.4g} {unit}"
    draw.text((_MARGIN, top), text, font=font, fill=_DIM)
    length = _bar_length(150 / scale)
    pixels = round(length * scale)
    caption = f"{length:g} mm"
    right = _MARGIN + width
    left = right - pixels
    draw.line((left, top + 9, right, top + 9), fill=_TEXT, width=2)
    for x in (left, right):
        draw.line((x, top + 4, x, top + 14), fill=_TEXT, width=2)
    draw.text((left - 10 - font.getlength(caption), top), caption, font=font, fill=_TEXT)


def _bar_length(most: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above ``most`` (mm)."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return text that Pillow's own font has glyphs for, shortened to a width in pixels."""
    kept = "".join(
        letter if letter in "·…" else unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"
        for letter in text
        if not unicodedata.combining(letter)
    )
    if font.getlength(kept) <= width:
        return kept
    while kept and font.getlength(kept + "…") > width:
        kept = kept[:-1]
    return kept.rstrip() + "…"
