"""Make docs/images/slicer-*.png: the shipped sample in Slicer's slice and 3-D views, off-screen.

    make pictures

The views are drawn by Slicer's own displayable managers (PyPI package slicer-core), the segmentations by the shipped
packs; nothing is retouched but letters and captions that are written over the pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
from PIL import Image, ImageDraw, ImageFont

from KDSegmentatorLib.analysis.disagreement import checkerboard, disagreement_map
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.mrml.comparisons import (
    checkerboard_node,
    comparable_label_maps,
    disagreement_colors,
    disagreement_node,
)
from KDSegmentatorLib.mrml.results import place_result
from KDSegmentatorLib.mrml.slice_views import hide, show_in_views
from KDSegmentatorLib.mrml.volumes import node_from_volume
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.segmenter import Segmenter
from support.slicer_views import Application, Orientation, SliceView, ThreeDView

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
SAMPLE = ROOT / "KDSegmentator" / "Resources" / "Samples" / "KDSegmentator-hippocampus.nrrd"
SIDE = 420
GAP = 6
LETTERS: dict[Orientation, str] = {"Axial": "RLAP", "Sagittal": "APSI", "Coronal": "RLSI"}
"""At the left, right, upper and lower edge, as Slicer turns its views."""


def main() -> None:
    """Make all pictures."""
    scene = slicer.vtkMRMLScene()
    application = Application(scene)
    scan = read_volume(SAMPLE)
    volume = node_from_volume(scan, scene, name="T1")
    volume.GetDisplayNode().SetAutoWindowLevel(True)
    teacher, student = (segmented(scan, size) for size in ("x1", "x1/4"))
    first = place_result(teacher, (), volume).segmentation
    placed = place_result(student, (), volume)
    second, entropy = placed.segmentation, placed.entropy

    hide(first)
    middle = centre_of_labels(student)
    axial, sagittal, coronal = (SliceView(application, each, (SIDE, SIDE)) for each in LETTERS)
    panels = [slice_picture(each, volume, middle, each.node.GetName()) for each in (axial, sagittal, coronal)]
    second.CreateClosedSurfaceRepresentation()
    panels.append(surface_picture(application, "3-D, from the right"))
    second.GetDisplayNode().SetVisibility3D(False)
    save(panels, IMAGES / "slicer-result.png")

    show_in_views(first, [])
    show_in_views(second, [], filled=False)
    panels = [slice_picture(sagittal, volume, middle, "overlay: teacher filled, x1/4 outlined")]
    hide(first)
    hide(second)
    maps = comparable_label_maps(first, second)
    by_turns = checkerboard(maps.first, maps.second)
    both = checkerboard_node(by_turns, maps.names, first, second, name="Checkerboard")
    panels.append(slice_picture(sagittal, volume, middle, "checkerboard"))
    hide(both)
    found = disagreement_map(maps.first, maps.second)
    differing = disagreement_node(
        found, scene, name="Disagreement", titles=("x1", "x1/4"), colors=disagreement_colors((first, second))
    )
    panels.append(slice_picture(sagittal, volume, middle, "disagreement"))
    hide(differing)
    panels.append(slice_picture(sagittal, entropy, middle, "uncertainty of x1/4 (entropy, bit)"))
    save(panels, IMAGES / "slicer-compare.png")


def segmented(scan: Any, size: str) -> Segmentation:
    """Return what a shipped pack makes of the scan, with its uncertainty."""
    segmenter = Segmenter("hippocampus", size, engine="onnxruntime")
    return segment(scan, segmenter.pack, segmenter.engine.engine, RunOptions(entropy=True))


def centre_of_labels(segmentation: Segmentation) -> tuple[float, float, float]:
    """Return the middle of what is labelled, RAS."""
    return ras_of(segmentation.volume, np.argwhere(segmentation.volume.voxels).mean(axis=0).round())


def ras_of(volume: Any, kji: Any) -> tuple[float, float, float]:
    """Return where a voxel is, RAS."""
    left, posterior, superior = (volume.affine @ [*kji[::-1], 1.0])[:3]
    return -float(left), -float(posterior), float(superior)


def slice_picture(view: SliceView, volume: Any, ras: tuple[float, float, float], caption: str) -> Image.Image:
    """Return a slice view with letters and caption."""
    view.show(volume, ras)
    picture = Image.fromarray(view.pixels())
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(15)
    middle = SIDE // 2
    places = ((10, middle), (SIDE - 10, middle), (middle, 12), (middle, SIDE - 32))
    for letter, place in zip(LETTERS[view.node.GetOrientation()], places, strict=True):
        draw.text(place, letter, fill="yellow", font=font, anchor="mm", stroke_width=1, stroke_fill="black")
    return captioned(picture, caption)


def surface_picture(application: Application, caption: str) -> Image.Image:
    """Return a 3-D view."""
    view = ThreeDView(application, (SIDE, SIDE))
    view.look((500.0, 200.0, 150.0))
    picture = Image.fromarray(view.pixels())
    view.close()
    return captioned(picture, caption)


def captioned(picture: Image.Image, caption: str) -> Image.Image:
    """Write below what is shown."""
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, SIDE - 22, SIDE, SIDE), fill="black")
    draw.text((8, SIDE - 11), caption, fill="white", font=ImageFont.load_default(14), anchor="lm")
    return picture


def save(panels: list[Image.Image], path: Path) -> None:
    """Write four pictures as one."""
    whole = Image.new("RGB", (2 * SIDE + GAP, 2 * SIDE + GAP), "white")
    for number, panel in enumerate(panels):
        whole.paste(panel, ((number % 2) * (SIDE + GAP), (number // 2) * (SIDE + GAP)))
    whole.save(path, optimize=True)


if __name__ == "__main__":
    main()
