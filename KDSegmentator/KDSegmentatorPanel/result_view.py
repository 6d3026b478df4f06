"""What the Result box shows of a segmentation: its structures, its warnings, and how it came about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import ImageWriteError
from KDSegmentatorLib.mrml.nodes import ATTRIBUTE_PREFIX
from KDSegmentatorLib.mrml.results import STATISTICS_ROLE
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import duration

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode, vtkMRMLTableNode

_NAME, _VOLUME, _MEAN = range(3)
"""Columns of the table of statistics."""


@dataclass(frozen=True, kw_only=True)
class StructureRow:
    """A structure of the result: its segment, colour (RGB, 0 to 255), whether it is shown, volume and mean as text."""

    segment_id: str
    name: str
    color: tuple[int, int, int]
    visible: bool
    volume: str
    mean: str


@dataclass(frozen=True, kw_only=True)
class ResultView:
    """All of the Result box.

    Attributes:
        rows: the structures.
        mean_title: of the column of means, with its unit.
        warnings: what to look at before using the result, the most important first.
        origin: how it came about, one line; empty if it was not made by KDSegmentator.
        details: the same for reports and research.
    """

    rows: tuple[StructureRow, ...] = ()
    mean_title: str = ""
    warnings: tuple[str, ...] = ()
    origin: str = ""
    details: str = ""


def result_view(node: vtkMRMLSegmentationNode | None) -> ResultView:
    """Return what there is to say of a segmentation; an empty view for None."""
    if node is None:
        return ResultView()
    table = statistics_of(node)
    warnings = node.GetAttribute(f"{ATTRIBUTE_PREFIX}warnings") or ""
    return ResultView(
        rows=_rows(node, table),
        mean_title=_("Mean") if table is None else table.GetColumnName(_MEAN).replace(_("Mean intensity"), _("Mean")),
        warnings=tuple(warnings.splitlines()),
        origin=_origin(node),
        details=_details(node),
    )


def statistics_of(node: vtkMRMLSegmentationNode | None) -> vtkMRMLTableNode | None:
    """Return the table of a segmentation's statistics; None if it has none."""
    table: vtkMRMLTableNode | None = None if node is None else node.GetNodeReference(STATISTICS_ROLE)
    return table


def export_surfaces(node: vtkMRMLSegmentationNode, folder: Path, kind: str) -> None:
    """Write a surface of every structure, in LPS and mm, into a folder.

    Args:
        node: the segmentation.
        folder: an existing one; files of the same names are replaced.
        kind: ``STL`` or ``OBJ``.

    Raises:
        ImageWriteError: Slicer did not write them.
    """
    import slicer

    logic = slicer.vtkSlicerSegmentationsModuleLogic
    if not folder.is_dir() or not logic.ExportSegmentsClosedSurfaceRepresentationToFiles(
        str(folder), node, None, kind, True, 1.0, False
    ):
        raise ImageWriteError(f"{folder}: the surfaces could not be written; choose a folder that can be written to")


def _rows(node: vtkMRMLSegmentationNode, table: vtkMRMLTableNode | None) -> tuple[StructureRow, ...]:
    numbers: dict[str, tuple[str, str]] = {}
    for row in range(0 if table is None else table.GetNumberOfRows()):
        assert table is not None  # noqa: S101 - for mypy
        columns = [table.GetTable().GetColumn(number) for number in (_NAME, _VOLUME, _MEAN)]
        name, volume, mean = (column.GetValue(row) for column in columns)
        numbers[name] = f"{volume:.2f}", "-" if mean != mean else f"{mean:.1f}"
    segments, display = node.GetSegmentation(), node.GetDisplayNode()
    found = []
    for segment_id in segments.GetSegmentIDs():
        segment = segments.GetSegment(segment_id)
        volume, mean = numbers.get(segment.GetName(), ("-", "-"))
        red, green, blue = (round(255 * part) for part in segment.GetColor())
        visible = display is not None and bool(display.GetSegmentVisibility(segment_id))
        found.append(
            StructureRow(
                segment_id=segment_id,
                name=segment.GetName(),
                color=(red, green, blue),
                visible=visible,
                volume=volume,
                mean=mean,
            )
        )
    return tuple(found)


def _is_own(node: vtkMRMLSegmentationNode) -> bool:
    return node.GetAttribute(f"{ATTRIBUTE_PREFIX}pack_id") is not None


def _origin(node: vtkMRMLSegmentationNode) -> str:
    if not _is_own(node):
        return ""
    seconds = node.GetAttribute(f"{ATTRIBUTE_PREFIX}seconds.total")
    text = _("Made by KDSegmentator in {time}. Not for diagnosis: check every result.")
    return text.format(time="?" if seconds is None else duration(float(seconds)))


def _details(node: vtkMRMLSegmentationNode) -> str:
    if not _is_own(node):
        return ""

    def value(name: str) -> str:
        return str(node.GetAttribute(ATTRIBUTE_PREFIX + name) or "?")

    lines = [
        (_("Pack"), f"{value('pack_id')} {value('pack_version')}"),
        (_("SHA-256"), " ".join(re.findall(".{16}", value("pack_sha256")))),  # so that the line can be broken
        (_("Engine"), f"{value('engine')} {value('engine_version')}, {value('precision')}, {value('device')}"),
        (_("Threads"), value("threads")),
        (_("Mirroring"), value("mirroring")),
        (_("Windows"), value("windows")),
        (_("Seconds"), value("seconds.total")),
        (_("Library"), value("library_version")),
    ]
    return "\n".join(f"{title}: {text}" for title, text in lines)
