"""What the user sees: slice and 3-D views through Slicer's own displayable managers, off-screen, pixel by pixel.

``test_views.py`` runs these tests in a process of their own: Mesa's software renderer brings an LLVM that lets
triton's, which torch loads, crash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from KDSegmentatorLib.mrml.surfaces import add_surfaces, layers_without_surfaces, make_meshes
from support.mrml_scene import LABELS, MrmlScene, placed, segmentation_of, to_ras
from support.slicer_views import Application, SliceView, ThreeDView

SHAPE = (9, 11, 13)
SPACING = (2.0, 1.5, 3.0)
COLOR = np.array(LABELS[0].color)
BLOCK = (slice(2, 5), slice(3, 5), slice(1, 5))
"""(z, y, x), on no axis in the middle."""


@pytest.fixture
def application(mrml: MrmlScene) -> Iterator[Application]:
    yield Application(mrml.scene)


def scan(codes: str) -> Volume:
    """Return a dark volume with the block bright, its axes along the codes."""
    voxels = np.full(SHAPE, 10, np.int16)
    voxels[BLOCK] = 1000
    return placed(voxels, codes, spacing=SPACING)


def shown(mrml: MrmlScene, volume: Volume) -> tuple[Any, Any]:
    """Add the volume and a segmentation of its block."""
    reference = mrml.volume_node(volume)
    labels = np.zeros(SHAPE, np.uint8)
    labels[BLOCK] = 1
    node = segmentation_node(segmentation_of(volume.with_voxels(labels), LABELS[:1]), reference)
    node.GetDisplayNode().SetVisibility2DOutline(False)
    node.GetDisplayNode().SetOpacity2DFill(1.0)
    return reference, node


@pytest.mark.parametrize("orientation", ["Axial", "Sagittal", "Coronal"])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "ASL"])
def test_the_mask_lies_on_its_voxels(mrml: MrmlScene, application: Application, codes: str, orientation: Any) -> None:
    volume = scan(codes)
    reference, node = shown(mrml, volume)
    view = SliceView(application, orientation)
    centre = (3, 3, 2)
    view.show(reference, to_ras(volume, centre))
    with_mask = view.pixels()
    node.GetDisplayNode().SetVisibility(False)
    image = view.pixels()
    axis = int(np.abs(volume.direction[{"Sagittal": 0, "Coronal": 1, "Axial": 2}[orientation]]).argmax())
    across = 2 - axis  # of (z, y, x), the axis that the slice cuts
    seen = 0
    for kji in np.ndindex(*SHAPE):
        if kji[across] != centre[across]:
            continue
        inside = all(side.start <= index < side.stop for side, index in zip(BLOCK, kji, strict=True))
        row, column = view.pixel_of(to_ras(volume, kji))
        assert (image[row, column].mean() > 128) == inside, f"the image at {kji}"
        assert np.array_equal(with_mask[row, column], COLOR) == inside, f"the mask at {kji}"
        seen += inside
    assert seen == np.prod([side.stop - side.start for n, side in enumerate(BLOCK) if n != across])
    view.close()


def test_the_left_of_the_patient_is_on_the_right(mrml: MrmlScene, application: Application) -> None:
    volume = scan("LPS")
    reference, _ = shown(mrml, volume)  # LPS: the block at low indices is right and in front
    view = SliceView(application, "Axial")
    view.show(reference, to_ras(volume, (3, 3, 2)))
    rows, columns = np.nonzero((view.pixels() == COLOR).all(axis=2))
    assert columns.mean() < 200, "the patient's right is on the left of the screen"
    assert rows.mean() < 200, "the front is at the top"
    view.close()


def test_surfaces_are_where_the_structures_are(mrml: MrmlScene, application: Application) -> None:
    volume = scan("RAS")
    _, node = shown(mrml, volume)
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:8, 7:10, 9:12] = 3  # further to the patient's right, in front and above
    other = segmentation_node(
        segmentation_of(volume.with_voxels(labels), LABELS[1:2]), node.GetNodeReference("referenceImageGeometryRef")
    )
    for each in (node, other):
        assert each.CreateClosedSurfaceRepresentation()
    view = ThreeDView(application)
    view.look((0.0, 1000.0, 0.0))  # from the front: the patient's right is on the left
    pixels = view.pixels().astype(float)
    hue = pixels / np.maximum(pixels.max(axis=2, keepdims=True), 1)
    places = []
    for label in (LABELS[0], LABELS[1]):
        wanted = np.array(label.color) / max(label.color)
        rows, columns = np.nonzero(np.abs(hue - wanted).max(axis=2) < 0.1)
        assert rows.size > 50, f"{label.name} is not there"
        places.append((rows.mean(), columns.mean()))
    (row, column), (other_row, other_column) = places
    assert column > other_column, "what is more to the right is more to the left of the screen"
    assert row > other_row, "what is above is above"
    view.close()


def test_a_3d_view_takes_the_surfaces_that_were_made(mrml: MrmlScene, application: Application) -> None:
    """With the first surface it would make all others again, at once, which freezes Slicer for many seconds."""
    view = ThreeDView(application)
    volume = scan("RAS")
    reference = mrml.volume_node(volume)
    labels = np.zeros(SHAPE, np.uint8)
    labels[BLOCK] = 1
    labels[5:8, 7:10, 9:12] = 3
    node = segmentation_node(segmentation_of(volume.with_voxels(labels), LABELS[:2]), reference)
    layers = layers_without_surfaces(node)
    add_surfaces(node, make_meshes(layers), layers)
    segments = [node.GetSegmentation().GetNthSegment(number) for number in range(2)]
    made = [segment.GetRepresentation("Closed surface") for segment in segments]
    view.look((0.0, 1000.0, 0.0))
    assert (view.pixels().max(axis=2) > 60).sum() > 100
    for segment, surface in zip(segments, made, strict=True):
        assert segment.GetRepresentation("Closed surface") is surface
    view.close()
