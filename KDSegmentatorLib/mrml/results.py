"""What a run leaves in the scene: segmentation, statistics and, if asked for, the map of the uncertainty."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from KDSegmentatorLib.analysis.statistics import as_text
from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.mrml.grids import quoted
from KDSegmentatorLib.mrml.label_maps import reference_volume
from KDSegmentatorLib.mrml.nodes import (
    ATTRIBUTE_PREFIX,
    REGION_GIVEN_ATTRIBUTE,
    add_node,
    attributes_of,
    new_node,
    place_beside,
    remove_node,
    scene_batch,
    set_attributes,
    set_provenance,
)
from KDSegmentatorLib.mrml.segmentations import replace_segmentation, result_name, scene_of, segmentation_node
from KDSegmentatorLib.mrml.volumes import check_scan, node_from_volume, put_image, volume_from_node
from KDSegmentatorLib.segmenter import Segmenter

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode, vtkMRMLTableNode
    from vtk import vtkTable

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
            for each in (into, table):
                undo.callback(each.SetName, each.GetName())
            _rename(into, table, reference_node, segmentation.record)
            replace_segmentation(into, segmentation, reference_node)
        undo.pop_all()
    node.SetNodeReferenceID(STATISTICS_ROLE, table.GetID())
    node.SetNodeReferenceID(ENTROPY_ROLE, None if entropy is None else entropy.GetID())
    if entropy is not None and segmentation.entropy is not None:
        _color(entropy, segmentation.entropy, classes=len(segmentation.labels) + 1)
    return PlacedResult(segmentation=node, statistics=table, entropy=entropy)


def _rename(
    node: vtkMRMLSegmentationNode,
    table: vtkMRMLTableNode,
    reference_node: vtkMRMLScalarVolumeNode,
    record: RunRecord,
) -> None:
    """Give an overwritten result, and its table, the name of the new one, unless somebody gave it one of their own."""
    before = reference_volume(node)
    task, size = (node.GetAttribute(f"{ATTRIBUTE_PREFIX}{name}") for name in ("task", "size"))
    old, new = node.GetName(), result_name(reference_node, record.task, record.size)
    if before is None or not _is_numbered(old, result_name(before, task, size)) or _is_numbered(old, new):
        return
    node.SetName(reference_node.GetScene().GenerateUniqueName(new))
    if _is_numbered(table.GetName(), f"{old} statistics"):
        table.SetName(f"{node.GetName()} statistics")


def _is_numbered(name: str, base: str) -> bool:
    """Return whether a name is another one, or that with the number that a scene adds."""
    return re.fullmatch(rf"{re.escape(base)}(_\d+)?", name) is not None


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


def _color(node: vtkMRMLScalarVolumeNode, entropy: Volume, *, classes: int) -> None:
    """Show the map in colours from sure, which is black, to all structures and background equally likely."""
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(_ENTROPY_COLORS)
    display.AutoWindowLevelOff()
    # more than that can be if only some structures were asked for
    display.SetWindowLevelMinMax(0.0, max(math.log2(max(classes, 2)), float(entropy.voxels.max())))


def segment_volume_node(
    node: vtkMRMLScalarVolumeNode,
    segmenter: Segmenter,
    *,
    name: str | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelCheck | None = None,
) -> vtkMRMLSegmentationNode:
    """Segment a volume of a scene; the scene changes only when the result is complete.

    Args:
        node: the scan, under linear transforms or none.
        segmenter: of the task; it runs both stages of chained packs, or, with ``region="given"``, the later one.
        name: of the segmentation node; see :func:`KDSegmentatorLib.mrml.segmentations.segmentation_node`.
        progress: called at every step.
        cancel: asked at every step.

    Raises:
        GeometryError: the node is not a 3-D scan on a rectangular grid, or was changed or moved during the run.
        SceneError: the node is in no scene, or was removed from it during the run.
        UnsuitableVolumeError: a label map, or not the pack's modality or field of view, or nothing of the region.
        KDSegmentatorError: see :meth:`KDSegmentatorLib.segmenter.Segmenter.__call__`.
    """
    check_scan(node)
    if node.GetScene() is None:
        raise SceneError(f"the volume {quoted(node)} is not in a scene; add it to one first")
    found = segmenter(volume_from_node(node), progress=progress, cancel=cancel)
    result = segmentation_node(found, node, name=name)
    if segmenter.options.region == "given":
        result.SetAttribute(REGION_GIVEN_ATTRIBUTE, "true")
    return result


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        name: its title, with the unit of the numbers.
        values: texts, whole numbers, or numbers with None where there is none.
    """

    name: str
    values: Sequence[str] | Sequence[int] | Sequence[float | None]


def table_node(columns: Sequence[Column], scene: vtkMRMLScene, *, name: str) -> vtkMRMLTableNode:
    """Add a table to the scene; it cannot be edited there.

    Args:
        columns: of equal length.
        scene: in 3D Slicer ``slicer.mrmlScene``.
        name: of the node; a number is added if the scene has it already.

    Raises:
        SceneError: Slicer did not take the node.
    """
    node = new_node("vtkMRMLTableNode", scene, name=name)
    node.SetAndObserveTable(_table(columns))
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    add_node(node, scene)
    return node


def _table(columns: Sequence[Column]) -> vtkTable:
    import vtk

    table = vtk.vtkTable()
    for column in columns:
        array: vtk.vtkAbstractArray
        if all(isinstance(value, str) for value in column.values):
            array = vtk.vtkStringArray()
        elif all(isinstance(value, int) for value in column.values):
            array = vtk.vtkLongLongArray()
        else:
            array = vtk.vtkDoubleArray()
        array.SetName(column.name)
        for value in column.values:
            array.InsertNextValue(math.nan if value is None else value)
        table.AddColumn(array)
    return table


def write_table(node: vtkMRMLTableNode, path: Path | str) -> None:
    """Write a table of the scene as CSV (UTF-8, comma, one header line); an existing file is replaced.

    Raises:
        ImageWriteError: the file could not be written; nothing was left behind.
    """
    columns = [node.GetTable().GetColumn(number) for number in range(node.GetNumberOfColumns())]
    with atomic_output(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([column.GetName() for column in columns])
        for row in range(node.GetNumberOfRows()):
            table.writerow([_cell(column.GetValue(row)) for column in columns])


def statistics_table_node(
    rows: Sequence[LabelStatistics], scene: vtkMRMLScene, *, name: str, intensity_unit: str
) -> vtkMRMLTableNode:
    """Add the statistics of a segmentation to the scene.

    Args:
        rows: one a structure.
        scene: where to add the table.
        name: of the node.
        intensity_unit: ``HU`` for CT; empty if the image's intensities have none.

    Raises:
        SceneError: Slicer did not take the node.
    """
    return table_node(_statistics_columns(rows, intensity_unit), scene, name=name)


def replace_statistics(node: vtkMRMLTableNode, rows: Sequence[LabelStatistics], *, intensity_unit: str) -> None:
    """Put the statistics of a segmentation in the place of what a table of the scene holds."""
    node.SetAndObserveTable(_table(_statistics_columns(rows, intensity_unit)))


def _statistics_columns(rows: Sequence[LabelStatistics], intensity_unit: str) -> tuple[Column, ...]:
    unit = f" ({intensity_unit})" if intensity_unit else ""
    return (
        Column(name="Structure", values=[row.name for row in rows]),
        Column(name="Volume (ml)", values=[round(row.volume_ml, 3) for row in rows]),
        Column(name=f"Mean intensity{unit}", values=[_rounded(row.mean_intensity) for row in rows]),
        Column(name=f"SD of intensity{unit}", values=[_rounded(row.std_intensity) for row in rows]),
        Column(name="Voxels", values=[row.voxels for row in rows]),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _cell(value: str | float) -> str | float:
    """Return what a CSV file has: nothing where there is no number, a text where a spreadsheet would compute."""
    if isinstance(value, str):
        return as_text(value)
    return "" if math.isnan(value) else value
