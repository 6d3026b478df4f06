"""Surfaces of results, made one structure at a time, so that Slicer can be used meanwhile; shown when all are there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from KDSegmentatorLib.mrml.segmentations import add_surfaces, make_surface
from KDSegmentatorPanel.failures import in_words
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import for_people

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode
    from vtk import vtkPolyData


class Surfaces:
    """The surfaces that are still to be made."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[vtkMRMLSegmentationNode, str]] = deque()
        self._made: dict[str, vtkPolyData] = {}  # of the node that is first in line
        self._count = 0

    @property
    def text(self) -> str:
        """Where it is, one sentence; empty if there is nothing to make."""
        if not self._waiting:
            return ""
        return _("Making surface {number} of {count}.").format(
            number=self._count - len(self._waiting) + 1, count=self._count
        )

    def add(self, nodes: Iterable[vtkMRMLSegmentationNode]) -> None:
        """Make those of all segments of these nodes."""
        if not self._waiting:
            self._count = 0
        for node in nodes:
            found = [(node, segment_id) for segment_id in node.GetSegmentation().GetSegmentIDs()]
            self._waiting += found
            self._count += len(found)

    def make_next(self) -> str:
        """Make one surface; return what went wrong, empty if nothing did."""
        node, segment_id = self._waiting.popleft()
        if node.GetScene() is None:
            self._made = {}
            return ""
        try:
            surface = make_surface(node, segment_id)
            if surface is not None:
                self._made[segment_id] = surface
            if all(other is not node for other, _segment_id in self._waiting):
                made, self._made = self._made, {}
                add_surfaces(node, made)
        except Exception as error:
            self._made = {}
            self._waiting = deque(each for each in self._waiting if each[0] is not node)
            return for_people(in_words(error, _("to make the surfaces")))
        return ""

    def clear(self) -> None:
        """Make no more."""
        self._waiting.clear()
        self._made = {}
