"""Two segmentations in one node: where they disagree, or both by turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from KDSegmentatorLib.analysis.checkerboard import checkerboard
from KDSegmentatorLib.analysis.disagreement import Disagreement
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.mrml.comparisons import comparable_label_maps
from KDSegmentatorLib.mrml.grids import fill_image, ras_matrix
from KDSegmentatorLib.mrml.placement import add_node, new_node, scene_batch

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLSegmentationNode

Color = tuple[float, float, float]
"""RGB, 0 to 1."""

DISAGREEMENT_COLORS: dict[Disagreement, Color] = {
    Disagreement.ONLY_IN_FIRST: (230 / 255, 159 / 255, 0.0),
    Disagreement.ONLY_IN_SECOND: (86 / 255, 180 / 255, 233 / 255),
    Disagreement.OTHER_LABEL: (204 / 255, 121 / 255, 167 / 255),
}
"""Three of Okabe and Ito's colours, which colour-blind people can tell apart."""


def disagreement_node(
    disagreement: Volume, scene: vtkMRMLScene, *, name: str, titles: tuple[str, str]
) -> vtkMRMLSegmentationNode:
    """Add the voxels that two segmentations disagree on, as a segmentation of three segments.

    Args:
        disagreement: from :func:`KDSegmentatorLib.analysis.disagreement.disagreement_map`.
        scene: where to add the node.
        name: of the node.
        titles: of the two segmentations.

    Raises:
        SceneError: Slicer did not take the node.
    """
    names = {
        Disagreement.ONLY_IN_FIRST: f"only in {titles[0]}",
        Disagreement.ONLY_IN_SECOND: f"only in {titles[1]}",
        Disagreement.OTHER_LABEL: "another structure in each",
    }
    segments = {int(value): (names[value], color) for value, color in DISAGREEMENT_COLORS.items()}
    return _map_node(disagreement, segments, scene, name=name)


def checkerboard_node(
    first: vtkMRMLSegmentationNode, second: vtkMRMLSegmentationNode, *, name: str
) -> vtkMRMLSegmentationNode:
    """Add both segmentations by turns, in the colours that they have.

    Args:
        first: segmentation A, in a scene.
        second: segmentation B, in the same scene.
        name: of the node.

    Raises:
        GeometryError: see :func:`KDSegmentatorLib.mrml.comparisons.comparable_label_maps`.
        SceneError: likewise, or Slicer did not take the node.
    """
    maps = comparable_label_maps(first, second)
    colors = _colors(second) | _colors(first)
    segments = {value: (title, colors[title]) for value, title in maps.names.items()}
    return _map_node(checkerboard(maps.first, maps.second), segments, first.GetScene(), name=name)


def _colors(node: vtkMRMLSegmentationNode) -> dict[str, Color]:
    """Return the colours of segments by their names."""
    segments = node.GetSegmentation()
    found = [segments.GetSegment(each) for each in segments.GetSegmentIDs()]
    return {segment.GetName().strip(): segment.GetColor() for segment in found}


def _map_node(
    labels: Volume, segments: Mapping[int, tuple[str, Color]], scene: vtkMRMLScene, *, name: str
) -> vtkMRMLSegmentationNode:
    """Add a label map as a segmentation; ``segments`` has name and colour by value.

    It is there to be looked at, not a result: it is not in the data tree and not saved with the scene.
    """
    import slicer

    image = slicer.vtkOrientedImageData()
    fill_image(image, labels.voxels.astype(np.uint8 if max(segments) < 256 else np.uint16, copy=False))
    image.SetImageToWorldMatrix(ras_matrix(labels))
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    content = slicer.vtkSegmentation()
    content.SetSourceRepresentationName(representation)
    for value, (title, color) in segments.items():
        segment = slicer.vtkSegment()
        segment.SetName(title)
        segment.SetColor(*color)
        segment.SetLabelValue(value)
        segment.AddRepresentation(representation, image)
        content.AddSegment(segment, f"Segment_{value}")
    node = new_node("vtkMRMLSegmentationNode", scene, name=name)
    node.SetAndObserveSegmentation(content)
    node.SetSaveWithScene(False)
    node.SetHideFromEditors(True)
    with scene_batch(scene):
        add_node(node, scene)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetSaveWithScene(False)
    return node
