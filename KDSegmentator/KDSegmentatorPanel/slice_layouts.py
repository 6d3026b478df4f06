"""Ways to look at two segmentations in Slicer's slice views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.mrml.comparisons import checkerboard_node, disagreement_node
from KDSegmentatorLib.mrml.grids import numpy_matrix, vtk_matrix
from KDSegmentatorLib.mrml.nodes import remove_node
from KDSegmentatorLib.mrml.slice_views import hide, link_slices, show_in_views
from KDSegmentatorPanel.choices import PairView
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.view_state import ViewState

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLSegmentationNode, vtkMRMLSliceNode

    from KDSegmentatorPanel.compare_panel import Pair

LEFT_VIEW, RIGHT_VIEW = "vtkMRMLSliceNodeRed", "vtkMRMLSliceNodeYellow"
"""The views of Slicer's layout "side by side"."""


@dataclass(frozen=True, kw_only=True)
class Layouts:
    """What of the application's layout is needed: ``slicer.app.layoutManager()``, if there is a main window.

    Attributes:
        current: returns the layout's number.
        change: takes another one.
        side_by_side: its number.
    """

    current: Callable[[], int]
    change: Callable[[int], None]
    side_by_side: int


class SliceLayouts:
    """Shows a pair of segmentations, and puts back exactly what was shown before.

    Args:
        layouts: of the application; None without a main window.
    """

    def __init__(self, layouts: Layouts | None) -> None:
        self._layouts = layouts
        self._pair: Pair | None = None
        self._state: ViewState | None = None
        self._before: int | None = None
        self._turned: tuple[vtkMRMLSliceNode, npt.NDArray[np.float64]] | None = None
        self._both: vtkMRMLSegmentationNode | None = None

    @property
    def pair(self) -> Pair | None:
        """The pair that is shown; None if none is."""
        return self._pair

    def show(self, pair: Pair, view: PairView) -> None:
        """Show two segmentations and nothing else of the kind, in linked views.

        Raises:
            SceneError: one of the two was removed.
            KDSegmentatorError: the two cannot be put into one any more, because their volume is gone or was changed.
        """
        if not pair.in_scene:
            raise SceneError(_("one of the two segmentations was removed from the scene; compare others"))
        scene = pair.first.GetScene()
        self._remove_both()
        if self._state is None:
            self._state = ViewState.of(scene)
        self._pair = pair
        for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
            hide(scene.GetNthNodeByClass(number, "vtkMRMLSegmentationNode"))
        self._arrange(scene, view is PairView.SIDE_BY_SIDE)
        titles = pair.titles
        if view is PairView.DISAGREEMENT:
            name = _("Disagreement of {first} and {second}").format(first=titles[0], second=titles[1])
            self._both = disagreement_node(pair.disagreement, scene, name=name, titles=titles)
        elif view is PairView.CHECKERBOARD:
            name = _("Checkerboard of {first} and {second}").format(first=titles[0], second=titles[1])
            self._both = checkerboard_node(pair.first, pair.second, name=name)
        elif view is PairView.SIDE_BY_SIDE:
            show_in_views(pair.first, [LEFT_VIEW])
            show_in_views(pair.second, [RIGHT_VIEW])
        else:
            show_in_views(pair.first, [])
            show_in_views(pair.second, [], filled=False)
        link_slices(scene, True)

    def restore(self) -> None:
        """Show everything as it was before the first :meth:`show`; nothing if no pair is shown."""
        self._pair = None
        self._remove_both()
        self._leave_side_by_side()
        if self._state is not None:
            self._state.restore()
            self._state = None

    def _arrange(self, scene: vtkMRMLScene, side_by_side: bool) -> None:
        if not side_by_side:
            self._leave_side_by_side()
        elif self._layouts is not None and self._before is None:
            self._before = self._layouts.current()
            self._layouts.change(self._layouts.side_by_side)
            right, left = scene.GetNodeByID(RIGHT_VIEW), scene.GetNodeByID(LEFT_VIEW)
            if left is not None and right is not None:
                self._turned = (right, numpy_matrix(right.GetSliceToRAS()))
                _turn(right, numpy_matrix(left.GetSliceToRAS()))

    def _leave_side_by_side(self) -> None:
        if self._layouts is not None and self._before is not None:
            self._layouts.change(self._before)
        if self._turned is not None and self._turned[0].GetScene() is not None:
            _turn(*self._turned)
        self._before = self._turned = None

    def _remove_both(self) -> None:
        if self._both is not None:
            remove_node(self._both)
            self._both = None


def _turn(view: vtkMRMLSliceNode, slice_to_ras: npt.NDArray[np.float64]) -> None:
    """Make a slice view look where, and along what, the matrix says."""
    view.GetSliceToRAS().DeepCopy(vtk_matrix(slice_to_ras))
    view.UpdateMatrices()
