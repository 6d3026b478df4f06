"""All that a run leaves in the scene: segmentation, statistics and, if asked for, the map of the uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.mrml.placement import place_beside, remove_node
from KDSegmentatorLib.mrml.provenance import node_attributes
from KDSegmentatorLib.mrml.segmentations import replace_segmentation, segmentation_node
from KDSegmentatorLib.mrml.tables import statistics_table_node
from KDSegmentatorLib.mrml.volumes import node_from_volume

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode, vtkMRMLTableNode

    from KDSegmentatorLib.analysis.statistics import LabelStatistics
    from KDSegmentatorLib.inference.segmentation import RunRecord, Segmentation

STATISTICS_ROLE = "KDSegmentator.statistics"
ENTROPY_ROLE = "KDSegmentator.entropy"
"""Node references from a segmentation to what belongs to it, saved with the scene."""

_ENTROPY_COLORS = "vtkMRMLColorTableNodeIron"
"""Slicer's own table from black over red and yellow to white, which gets lighter all the way."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedResult:
    """The nodes of one result."""

    segmentation: vtkMRMLSegmentationNode
    statistics: vtkMRMLTableNode
    entropy: vtkMRMLScalarVolumeNode | None


def place_result(
    segmentation: Segmentation,
    statistics: Sequence[LabelStatistics],
    reference_node: vtkMRMLScalarVolumeNode,
    *,
    into: vtkMRMLSegmentationNode | None = None,
    intensity_unit: str = "",
) -> PlacedResult:
    """Add the result of a run to the scene of the volume, all of it or nothing.

    Args:
        segmentation: of the volume.
        statistics: of its structures.
        reference_node: the volume that was segmented.
        into: a segmentation whose segments are replaced; None makes a new one. Its old table and map are removed.
        intensity_unit: of the statistics; empty if the image's intensities have none.

    Raises:
        GeometryError: the segmentation is not on the volume's grid.
        SceneError: the volume or ``into`` is not in the scene (any more), or Slicer did not take the result.
    """
    added: list[vtkMRMLNode] = []
    outdated: list[vtkMRMLNode] = []
    try:
        if into is None:
            node = segmentation_node(segmentation, reference_node)
            added.append(node)
        else:
            node = into
            outdated = [into.GetNodeReference(role) for role in (STATISTICS_ROLE, ENTROPY_ROLE)]
        scene = reference_node.GetScene()
        table = statistics_table_node(
            statistics, scene, name=f"{node.GetName()} statistics", intensity_unit=intensity_unit
        )
        added.append(table)
        _belongs_to(table, reference_node, segmentation.record)
        entropy = None
        if segmentation.entropy is not None:
            entropy = _entropy_node(segmentation.entropy, reference_node, name=f"{node.GetName()} uncertainty (bit)")
            added.append(entropy)
            _belongs_to(entropy, reference_node, segmentation.record)
        if into is not None:
            replace_segmentation(into, segmentation, reference_node)
    except BaseException:
        for each in reversed(added):
            remove_node(each)
        raise
    for old in outdated:
        if old is not None:
            remove_node(old)
    node.SetNodeReferenceID(STATISTICS_ROLE, table.GetID())
    node.SetNodeReferenceID(ENTROPY_ROLE, None if entropy is None else entropy.GetID())
    if entropy is not None and segmentation.entropy is not None:
        _color(entropy, segmentation.entropy, classes=len(segmentation.labels) + 1)
    return PlacedResult(segmentation=node, statistics=table, entropy=entropy)


def _belongs_to(node: vtkMRMLNode, reference_node: vtkMRMLScalarVolumeNode, record: RunRecord) -> None:
    for name, value in node_attributes(record).items():
        node.SetAttribute(name, value)
    place_beside(node, reference_node)


def _entropy_node(entropy: Volume, reference_node: vtkMRMLScalarVolumeNode, *, name: str) -> vtkMRMLScalarVolumeNode:
    """Add the map where the volume is: on its grid, under its transform."""
    import vtk

    node = node_from_volume(entropy, reference_node.GetScene(), name=name)
    to_ras = vtk.vtkMatrix4x4()
    reference_node.GetIJKToRASMatrix(to_ras)
    node.SetIJKToRASMatrix(to_ras)
    node.GetImageData().SetExtent(reference_node.GetImageData().GetExtent())
    node.SetAndObserveTransformNodeID(reference_node.GetTransformNodeID())
    return node


def _color(node: vtkMRMLScalarVolumeNode, entropy: Volume, *, classes: int) -> None:
    """Show the map in colours from sure, which is black, to all structures and background equally likely."""
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(_ENTROPY_COLORS)
    display.AutoWindowLevelOff()
    # more than that can be if only some structures were asked for
    display.SetWindowLevelMinMax(0.0, max(math.log2(max(classes, 2)), float(entropy.voxels.max())))
