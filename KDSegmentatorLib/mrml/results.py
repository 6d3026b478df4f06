"""All that a run leaves in the scene: segmentation, statistics and, if asked for, the map of the uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.mrml.placement import place_beside, remove_node, scene_batch
from KDSegmentatorLib.mrml.provenance import attributes_of, set_attributes, set_provenance
from KDSegmentatorLib.mrml.segmentations import replace_segmentation, scene_of, segmentation_node
from KDSegmentatorLib.mrml.tables import replace_statistics, statistics_table_node
from KDSegmentatorLib.mrml.volumes import node_from_volume, put_image

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode, vtkMRMLTableNode

    from KDSegmentatorLib.analysis.statistics import LabelStatistics
    from KDSegmentatorLib.inference.segmentation import Segmentation

STATISTICS_ROLE = "KDSegmentator.statistics"
ENTROPY_ROLE = "KDSegmentator.entropy"
"""Node references from a segmentation to what belongs to it, saved with the scene."""


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
        into: a segmentation whose segments are replaced; None makes a new one. Its table and its map
            become those of the new result; without a new map, the old one stays in the scene as a volume of its own.
        intensity_unit: of the statistics; empty if the image's intensities have none.

    Raises:
        GeometryError: the segmentation is not on the volume's grid.
        SceneError: the volume or ``into`` is not in the scene (any more), or Slicer did not take the result.
    """
    scene = scene_of(reference_node)
    with scene_batch(scene), ExitStack() as undo:
        if into is None:
            node, table, entropy = segmentation_node(segmentation, reference_node), None, None
            undo.callback(remove_node, node)
        else:
            node = into
            table, entropy = (into.GetNodeReference(role) for role in (STATISTICS_ROLE, ENTROPY_ROLE))
        if table is None:
            name = f"{node.GetName()} statistics"
            table = statistics_table_node(statistics, scene, name=name, intensity_unit=intensity_unit)
            undo.callback(remove_node, table)
            place_beside(table, reference_node)
        else:
            undo.callback(table.SetAndObserveTable, table.GetTable())
            undo.callback(set_attributes, table, attributes_of(table))
            replace_statistics(table, statistics, intensity_unit=intensity_unit)
        set_provenance(table, segmentation.record)
        if segmentation.entropy is None:
            entropy = None
        elif entropy is None:
            entropy = _entropy_node(segmentation.entropy, reference_node, name=f"{node.GetName()} uncertainty (bit)")
            undo.callback(remove_node, entropy)
            place_beside(entropy, reference_node)
        else:
            _keep_image(entropy, undo)
            put_image(entropy, segmentation.entropy, grid_of=reference_node)
        if entropy is not None:
            set_provenance(entropy, segmentation.record)
        if into is not None:
            replace_segmentation(into, segmentation, reference_node)
        undo.pop_all()
    node.SetNodeReferenceID(STATISTICS_ROLE, table.GetID())
    node.SetNodeReferenceID(ENTROPY_ROLE, None if entropy is None else entropy.GetID())
    return PlacedResult(segmentation=node, statistics=table, entropy=entropy)


def _entropy_node(entropy: Volume, reference_node: vtkMRMLScalarVolumeNode, *, name: str) -> vtkMRMLScalarVolumeNode:
    """Add the map where the volume is: on its grid, under its transform."""
    return node_from_volume(entropy, reference_node.GetScene(), name=name, grid_of=reference_node)


def _keep_image(node: vtkMRMLScalarVolumeNode, undo: ExitStack) -> None:
    """Let a volume have its image, its place and its attributes again if something goes wrong."""
    import vtk

    to_ras = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(to_ras)
    undo.callback(node.SetAndObserveImageData, node.GetImageData())
    undo.callback(node.SetIJKToRASMatrix, to_ras)
    undo.callback(node.SetAndObserveTransformNodeID, node.GetTransformNodeID())
    undo.callback(set_attributes, node, attributes_of(node))
