"""How the segmentations of a scene are shown, to be put back exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLSegmentationDisplayNode, vtkMRMLSliceCompositeNode


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
class ViewState:
    """Visibility, style and views of all segmentations, and which slice views are linked."""

    displays: tuple[_Display, ...]
    links: tuple[tuple[vtkMRMLSliceCompositeNode, bool], ...]

    @classmethod
    def of(cls, scene: vtkMRMLScene) -> ViewState:
        """Return how it is now."""
        displays = (node.GetDisplayNode() for node in _nodes(scene, "vtkMRMLSegmentationNode"))
        composites = _nodes(scene, "vtkMRMLSliceCompositeNode")
        return cls(
            displays=tuple(_Display.of(node) for node in displays if node is not None),
            links=tuple((node, bool(node.GetLinkedControl())) for node in composites),
        )

    def restore(self) -> None:
        """Make it as it was; what was removed meanwhile is left out, what was added meanwhile is left alone."""
        for display in self.displays:
            if display.node.GetScene() is not None:
                display.restore()
        for composite, linked in self.links:
            if composite.GetScene() is not None:
                composite.SetLinkedControl(linked)


def _nodes(scene: vtkMRMLScene, class_name: str) -> Iterator[Any]:
    for number in range(scene.GetNumberOfNodesByClass(class_name)):
        yield scene.GetNthNodeByClass(number, class_name)
