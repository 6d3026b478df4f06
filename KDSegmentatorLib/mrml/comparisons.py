"""Two segmentations in the scene: which segments correspond, table, where they disagree, or both by turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from KDSegmentatorLib.analysis.disagreement import Disagreement
from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.mrml.grids import fill_image, quoted, ras_matrix
from KDSegmentatorLib.mrml.label_maps import label_volume, reference_volume
from KDSegmentatorLib.mrml.nodes import add_node, hide_in_tree, new_node, scene_batch
from KDSegmentatorLib.mrml.results import Column, table_node

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode, vtkMRMLTableNode

    from KDSegmentatorLib.analysis.comparison import Comparison


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMaps:
    """Two segmentations on one grid, with the same value for the same structure.

    Attributes:
        first: label values.
        second: label values.
        names: of the structures, by value, first those of the first segmentation.
    """

    first: Volume
    second: Volume
    names: dict[int, str]


Pair = tuple["vtkMRMLSegmentationNode", "vtkMRMLSegmentationNode"]


_OnGrid = tuple["vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode"]


def comparable_label_maps(first: vtkMRMLSegmentationNode, second: vtkMRMLSegmentationNode) -> LabelMaps:
    """Return two segmentations as label maps that can be compared; see :func:`comparable_pairs`."""
    return comparable_pairs([(first, second)])[0]


def comparable_pairs(pairs: Sequence[Pair]) -> list[LabelMaps]:
    """Return pairs of segmentations as label maps that can be compared; segments correspond by their names.

    The grid of a pair is that of the volume that one of the two, preferably the first, was made on. A segmentation of
    several pairs, such as the teacher's, is made a label map once for each grid.

    Raises:
        GeometryError: a transform is not linear, or does not fit the grid.
        SceneError: neither volume is in the scene, one has no segments, or no names correspond.
    """
    merged: dict[_OnGrid, Volume] = {}
    return [_comparable(first, second, merged) for first, second in pairs]


def _comparable(
    first: vtkMRMLSegmentationNode, second: vtkMRMLSegmentationNode, merged: dict[_OnGrid, Volume]
) -> LabelMaps:
    """Return a pair; ``merged`` has label maps by segmentation and grid, valued 1, 2, ... by name."""
    grid = reference_volume(first) or reference_volume(second)
    if grid is None or grid.GetImageData() is None:
        raise SceneError(
            f"the volume that {quoted(first)} or {quoted(second)} was made on is not in the scene; load it to compare "
            "them on its grid"
        )
    ids = _segments_by_name(first), _segments_by_name(second)
    if not ids[0].keys() & ids[1].keys():
        raise SceneError(
            f"{quoted(first)} and {quoted(second)} have no structure with the same name; rename the segments of one of "
            "them (module Segment Editor)"
        )
    values = {name: value for value, name in enumerate(dict.fromkeys([*ids[0], *ids[1]]), start=1)}
    maps = []
    for node, by_name in zip((first, second), ids, strict=True):
        key = node, grid
        if key not in merged:
            own = {each: number for number, each in enumerate(by_name.values(), start=1)}
            merged[key] = label_volume(node, values=own, reference_node=grid)
        maps.append(_renumbered(merged[key], [values[name] for name in by_name]))
    return LabelMaps(first=maps[0], second=maps[1], names={value: name for name, value in values.items()})


def _renumbered(labels: Volume, values: Sequence[int]) -> Volume:
    """Return labels 1, 2, ... as other values; they share their voxels if nothing changes."""
    if list(values) == list(range(1, len(values) + 1)):
        return labels
    numbers = np.array([0, *values], np.uint8 if max(values) < 256 else np.uint16)
    return labels.with_voxels(numbers[labels.voxels])


def comparison_table_node(
    comparison: Comparison, scene: vtkMRMLScene, *, name: str, titles: tuple[str, str]
) -> vtkMRMLTableNode:
    """Add a comparison to the scene.

    Args:
        comparison: the scores.
        scene: where to add the table.
        name: of the node.
        titles: of the two segmentations.

    Raises:
        SceneError: Slicer did not take the node.
    """
    labels = comparison.labels
    return table_node(
        (
            Column(name="Structure", values=[label.name for label in labels]),
            Column(name="Dice", values=[round(label.dice, 4) for label in labels]),
            Column(
                name=f"Surface Dice ({comparison.tolerance_mm:g} mm)", values=[round(label.nsd, 4) for label in labels]
            ),
            Column(name="HD95 (mm)", values=[round(label.hd95_mm, 3) for label in labels]),
            Column(name=f"{titles[0]} (ml)", values=[round(label.first_ml, 3) for label in labels]),
            Column(name=f"{titles[1]} (ml)", values=[round(label.second_ml, 3) for label in labels]),
            Column(name="Difference (ml)", values=[round(label.difference_ml, 3) for label in labels]),
            Column(name="Difference (%)", values=[round(label.difference_percent, 1) for label in labels]),
        ),
        scene,
        name=name,
    )


def _segments_by_name(node: vtkMRMLSegmentationNode) -> dict[str, str]:
    """Return segment ids by their names; of segments with the same name the first one."""
    segments = node.GetSegmentation()
    if segments.GetNumberOfSegments() == 0:
        raise SceneError(f"{quoted(node)} has no segments; choose another segmentation")
    found: dict[str, str] = {}
    for each in segments.GetSegmentIDs():
        found.setdefault(segments.GetSegment(each).GetName().strip(), each)
    return found


Color = tuple[float, float, float]
"""RGB, 0 to 1."""

DISAGREEMENT_COLORS: tuple[tuple[Color, Color, Color], ...] = (
    ((230 / 255, 159 / 255, 0.0), (86 / 255, 180 / 255, 233 / 255), (204 / 255, 121 / 255, 167 / 255)),
    ((213 / 255, 94 / 255, 0.0), (0.0, 158 / 255, 115 / 255), (240 / 255, 228 / 255, 66 / 255)),
    ((1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0)),
)
"""For only in A, only in B, and another structure in each. The first two are Okabe and Ito's, which colour-blind people
can tell apart, as they can magenta, green and white by their lightness."""


def disagreement_colors(nodes: Sequence[vtkMRMLSegmentationNode]) -> dict[Disagreement, Color]:
    """Return colours for a disagreement that are not those of the structures: the farthest from them in RGB.

    Args:
        nodes: the segmentations that disagree.
    """
    taken = np.array([color for node in nodes for color in _colors(node).values()] or [(0.0, 0.0, 0.0)])

    kinds = (Disagreement.ONLY_IN_FIRST, Disagreement.ONLY_IN_SECOND, Disagreement.OTHER_LABEL)
    distances = [np.linalg.norm(np.array(each)[:, None] - taken, axis=2).min() for each in DISAGREEMENT_COLORS]
    return dict(zip(kinds, DISAGREEMENT_COLORS[int(np.argmax(distances))], strict=True))


def disagreement_node(
    disagreement: Volume,
    scene: vtkMRMLScene,
    *,
    name: str,
    titles: tuple[str, str],
    colors: Mapping[Disagreement, Color],
) -> vtkMRMLSegmentationNode:
    """Add the voxels that two segmentations disagree on, as a segmentation of three segments.

    Args:
        disagreement: from :func:`KDSegmentatorLib.analysis.disagreement.disagreement_map`.
        scene: where to add the node.
        name: of the node.
        titles: of the two segmentations.
        colors: from :func:`disagreement_colors`.

    Raises:
        SceneError: Slicer did not take the node.
    """
    names = {
        Disagreement.ONLY_IN_FIRST: f"only in {titles[0]}",
        Disagreement.ONLY_IN_SECOND: f"only in {titles[1]}",
        Disagreement.OTHER_LABEL: "another structure in each",
    }
    segments = {int(value): (names[value], color) for value, color in colors.items()}
    return _map_node(disagreement, segments, scene, name=name)


def checkerboard_node(
    labels: Volume,
    names: Mapping[int, str],
    first: vtkMRMLSegmentationNode,
    second: vtkMRMLSegmentationNode,
    *,
    name: str,
) -> vtkMRMLSegmentationNode:
    """Add both segmentations by turns, in the colours that they have.

    Args:
        labels: from :func:`KDSegmentatorLib.analysis.disagreement.checkerboard` of :class:`LabelMaps`.
        names: theirs.
        first: segmentation A, in a scene.
        second: segmentation B, in the same scene.
        name: of the node.

    Raises:
        SceneError: Slicer did not take the node.
    """
    colors = _colors(second) | _colors(first)
    segments = {value: (title, colors.get(title, _UNKNOWN)) for value, title in names.items()}
    return _map_node(labels, segments, first.GetScene(), name=name)


_UNKNOWN: Color = (0.5, 0.5, 0.5)
"""Of a segment that was renamed meanwhile."""


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
        hide_in_tree(node)  # first: whatever happens to a segment, Slicer looks up the node's place in the tree
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetSaveWithScene(False)
    return node
