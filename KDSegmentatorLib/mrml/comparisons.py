"""Comparisons in the scene: which segments correspond, and the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.mrml.grids import quoted
from KDSegmentatorLib.mrml.label_maps import label_volume, reference_volume
from KDSegmentatorLib.mrml.tables import Column, table_node

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLSegmentationNode, vtkMRMLTableNode

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


def comparable_label_maps(first: vtkMRMLSegmentationNode, second: vtkMRMLSegmentationNode) -> LabelMaps:
    """Return two segmentations as label maps that can be compared; segments correspond by their names.

    The grid is that of the volume that one of them, preferably the first, was made on.

    Raises:
        GeometryError: a transform is not linear, or does not fit the grid.
        SceneError: neither volume is in the scene, one has no segments, or no names correspond.
    """
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
    maps = [
        label_volume(node, values={each: values[name] for name, each in by_name.items()}, reference_node=grid)
        for node, by_name in zip((first, second), ids, strict=True)
    ]
    return LabelMaps(first=maps[0], second=maps[1], names={value: name for name, value in values.items()})


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
