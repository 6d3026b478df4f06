"""Tables in the scene: columns with names, saved with it, shown and exported by Slicer."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from KDSegmentatorLib.analysis.spreadsheet import as_text
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.mrml.placement import add_node, new_node

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLTableNode
    from vtk import vtkTable

    from KDSegmentatorLib.analysis.statistics import LabelStatistics


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
