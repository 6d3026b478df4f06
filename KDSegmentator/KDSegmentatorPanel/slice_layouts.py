"""Ways to look at two segmentations in Slicer's slice views, and the way back to exactly what was shown before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.mrml.comparisons import Color, checkerboard_node, disagreement_colors, disagreement_node
from KDSegmentatorLib.mrml.grids import numpy_matrix, vtk_matrix
from KDSegmentatorLib.mrml.nodes import remove_node
from KDSegmentatorLib.mrml.slice_views import hide, link_slices, show_in_views
from KDSegmentatorPanel.choices import PairView
from KDSegmentatorPanel.translation import tr as _

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLSegmentationDisplayNode, vtkMRMLSegmentationNode, vtkMRMLSliceNode

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
        caption: writes a text into the slice view of a name, such as ``Red``; empty takes it away.
    """

    current: Callable[[], int]
    change: Callable[[int], None]
    side_by_side: int
    caption: Callable[[str, str], None]


class SliceLayouts:
    """Shows a pair of segmentations, and puts back exactly what was shown before.

    Args:
        layouts: of the application; None without a main window.
    """

    def __init__(self, layouts: Layouts | None) -> None:
        self._layouts = layouts
        self._pair: Pair | None = None
        self._state: _ViewState | None = None
        self._before: int | None = None
        self._right: _Place | None = None
        self._both: vtkMRMLSegmentationNode | None = None
        self._captioned: list[str] = []

    @property
    def pair(self) -> Pair | None:
        """The pair that is shown; None if none is."""
        return self._pair

    def show(self, pair: Pair, view: PairView) -> None:
        """Show two segmentations and nothing else of the kind, in linked views.

        Raises:
            SceneError: one of the two was removed.
        """
        if not pair.in_scene:
            raise SceneError(_("one of the two segmentations was removed from the scene; compare others"))
        scene = pair.first.GetScene()
        self._remove_both()
        if self._state is None:
            self._state = _ViewState.of(scene)
        self._pair = pair
        for node in _nodes(scene, "vtkMRMLSegmentationNode"):
            hide(node)
        self._arrange(scene, view is PairView.SIDE_BY_SIDE)
        titles = pair.titles
        if view is PairView.DISAGREEMENT:
            name = _("Disagreement of {first} and {second}").format(first=titles[0], second=titles[1])
            colors = disagreement_colors((pair.first, pair.second))
            self._both = disagreement_node(pair.disagreement, scene, name=name, titles=titles, colors=colors)
        elif view is PairView.CHECKERBOARD:
            name = _("Checkerboard of {first} and {second}").format(first=titles[0], second=titles[1])
            self._both = checkerboard_node(pair.checkerboard, pair.names, pair.first, pair.second, name=name)
        elif view is PairView.SIDE_BY_SIDE:
            show_in_views(pair.first, [LEFT_VIEW])
            show_in_views(pair.second, [RIGHT_VIEW])
        else:
            show_in_views(pair.first, [])
            show_in_views(pair.second, [], filled=False)
        self._write_captions(scene, pair, view)
        link_slices(scene, True)

    def align(self) -> None:
        """Let the right one of two views side by side look where the left one does, at the same zoom.

        Called once more when the views have their sizes: Slicer gives them some time after a change of the layout.
        """
        if self._pair is None or self._right is None or not self._pair.in_scene:
            return
        left = self._pair.first.GetScene().GetNodeByID(LEFT_VIEW)
        if left is not None:
            _Place.of(left).give(self._right.view)

    def restore(self) -> None:
        """Show everything as it was before the first :meth:`show`; nothing if no pair is shown."""
        self._pair = None
        self._remove_both()
        self._remove_captions()
        self._leave_side_by_side()
        if self._state is not None:
            self._state.restore()
            self._state = None

    def _arrange(self, scene: vtkMRMLScene, side_by_side: bool) -> None:
        if not side_by_side:
            self._leave_side_by_side()
        elif self._layouts is not None and self._before is None:
            self._before = self._layouts.current()
            right = scene.GetNodeByID(RIGHT_VIEW)
            if right is not None:
                self._right = _Place.of(right)
            self._layouts.change(self._layouts.side_by_side)
            self.align()

    def _leave_side_by_side(self) -> None:
        if self._layouts is not None and self._before is not None:
            self._layouts.change(self._before)
        if self._right is not None and self._right.view.GetScene() is not None:
            self._right.give(self._right.view)
        self._before = self._right = None

    def _write_captions(self, scene: vtkMRMLScene, pair: Pair, view: PairView) -> None:
        self._remove_captions()
        if self._layouts is None:
            return
        for node in _nodes(scene, "vtkMRMLSliceNode"):
            text = _caption(pair, view, node.GetID())
            if text:
                self._layouts.caption(node.GetLayoutName(), text)
                self._captioned.append(node.GetLayoutName())

    def _remove_captions(self) -> None:
        for name in self._captioned:
            if self._layouts is not None:
                self._layouts.caption(name, "")
        self._captioned = []

    def _remove_both(self) -> None:
        if self._both is not None:
            remove_node(self._both)
            self._both = None


def _caption(pair: Pair, view: PairView, view_id: str) -> str:
    """Return what stands in a slice view."""
    first, second = (f"{letter}: {title}" for letter, title in zip("AB", pair.titles, strict=True))
    if view is PairView.SIDE_BY_SIDE:
        return {LEFT_VIEW: first, RIGHT_VIEW: second}.get(view_id, "")
    if view is PairView.OVERLAY:
        return _("{first} (filled), {second} (outline)").format(first=first, second=second)
    if view is PairView.CHECKERBOARD:
        return _("{first} and {second} by turns").format(first=first, second=second)
    return _("disagreement of {first} and {second}").format(first=first, second=second)


def legend(pair: Pair, view: PairView) -> str:
    """Return what the colours in the slices mean, as HTML for a QLabel."""
    first, second = pair.titles
    if view is not PairView.DISAGREEMENT:
        return {
            PairView.OVERLAY: _("A filled, B as outlines, both in the colours of the structures."),
            PairView.SIDE_BY_SIDE: _("A on the left, B on the right, at the same place and zoom."),
            PairView.CHECKERBOARD: _("A and B by turns: where they agree, borders of structures have no steps."),
        }[view]
    texts = (
        _("only in A ({title})").format(title=first),
        _("only in B ({title})").format(title=second),
        _("another structure in each"),
    )
    colors = disagreement_colors((pair.first, pair.second)).values()
    parts = [f"{_swatch(color)} {escape(text)}" for color, text in zip(colors, texts, strict=True)]
    return "<br>".join(parts)


def _swatch(color: Color) -> str:
    """Return a square that is seen on light and dark backgrounds."""
    red, green, blue = (round(255 * channel) for channel in color)
    return f'<span style="background-color: #808080; color: #{red:02x}{green:02x}{blue:02x}">&nbsp;■&nbsp;</span>'


@dataclass(frozen=True, kw_only=True, eq=False)
class _Place:
    """Where a slice view looks: plane and centre, shift of the origin, and mm a pixel along x and y."""

    view: vtkMRMLSliceNode
    slice_to_ras: Any
    origin: tuple[float, float, float]
    mm_a_pixel: tuple[float, float]

    @classmethod
    def of(cls, view: vtkMRMLSliceNode) -> _Place:
        x, y, _z = (max(1, pixels) for pixels in view.GetDimensions())
        field = view.GetFieldOfView()
        return cls(
            view=view,
            slice_to_ras=numpy_matrix(view.GetSliceToRAS()),
            origin=view.GetXYZOrigin(),
            mm_a_pixel=(field[0] / x, field[1] / y),
        )

    def give(self, view: vtkMRMLSliceNode) -> None:
        """Make a view, of whatever size, look there."""
        x, y, _z = (max(1, pixels) for pixels in view.GetDimensions())
        view.GetSliceToRAS().DeepCopy(vtk_matrix(self.slice_to_ras))
        view.SetXYZOrigin(*self.origin)
        view.SetFieldOfView(self.mm_a_pixel[0] * x, self.mm_a_pixel[1] * y, view.GetFieldOfView()[2])
        view.UpdateMatrices()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Display:
    """What one display node said."""

    node: vtkMRMLSegmentationDisplayNode
    visible: bool
    filled: bool
    outlined: bool
    view_ids: tuple[str, ...]

    @classmethod
    def of(cls, node: vtkMRMLSegmentationDisplayNode) -> _Display:
        return cls(
            node=node,
            visible=bool(node.GetVisibility()),
            filled=bool(node.GetVisibility2DFill()),
            outlined=bool(node.GetVisibility2DOutline()),
            view_ids=tuple(node.GetNthViewNodeID(number) for number in range(node.GetNumberOfViewNodeIDs())),
        )

    def restore(self) -> None:
        self.node.RemoveAllViewNodeIDs()
        for view_id in self.view_ids:
            self.node.AddViewNodeID(view_id)
        self.node.SetVisibility2DFill(self.filled)
        self.node.SetVisibility2DOutline(self.outlined)
        self.node.SetVisibility(self.visible)


@dataclass(frozen=True, kw_only=True, eq=False)
class _ViewState:
    """Visibility, style and views of all segmentations, which slice views are linked, and crosshairs."""

    displays: tuple[_Display, ...]
    links: tuple[tuple[Any, bool], ...]
    crosshairs: tuple[tuple[Any, int], ...]

    @classmethod
    def of(cls, scene: vtkMRMLScene) -> _ViewState:
        """Return how it is now."""
        displays = (node.GetDisplayNode() for node in _nodes(scene, "vtkMRMLSegmentationNode"))
        composites = _nodes(scene, "vtkMRMLSliceCompositeNode")
        return cls(
            displays=tuple(_Display.of(node) for node in displays if node is not None),
            links=tuple((node, bool(node.GetLinkedControl())) for node in composites),
            crosshairs=tuple((node, node.GetCrosshairMode()) for node in _nodes(scene, "vtkMRMLCrosshairNode")),
        )

    def restore(self) -> None:
        """Make it as it was; what was removed meanwhile is left out, what was added meanwhile is left alone."""
        for display in self.displays:
            if display.node.GetScene() is not None:
                display.restore()
        for composite, linked in self.links:
            if composite.GetScene() is not None:
                composite.SetLinkedControl(linked)
        for crosshair, mode in self.crosshairs:
            if crosshair.GetScene() is not None:
                crosshair.SetCrosshairMode(mode)


def _nodes(scene: vtkMRMLScene, class_name: str) -> Iterator[Any]:
    for number in range(scene.GetNumberOfNodesByClass(class_name)):
        yield scene.GetNthNodeByClass(number, class_name)
