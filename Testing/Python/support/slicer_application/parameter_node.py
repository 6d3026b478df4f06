"""``slicer.parameterNodeWrapper`` for the types and widgets that the module has."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class WithinRange:
    """Least and greatest value of a number."""

    minimum: int
    maximum: int


def parameterNodeWrapper(kind: type) -> type:
    """Make a class of typed properties over a vtkMRMLScriptedModuleNode."""
    hints = get_type_hints(kind, include_extras=True)
    defaults = {name: getattr(kind, name, None) for name in hints}
    members = {name: _property(name, hint, defaults[name]) for name, hint in hints.items()}
    return type(kind.__name__, (_ParameterNode,), {"types": hints, **members})


def _property(name: str, hint: Any, default: Any) -> property:
    kind = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    is_list = get_origin(kind) is list
    is_node = not is_list and kind not in (str, int, bool) and not issubclass(kind, Enum)

    def read(self: _ParameterNode) -> Any:
        node = self.parameterNode
        if is_node:
            return node.GetNodeReference(name)
        if not node.HasParameter(name):
            return [] if is_list else default
        text = node.GetParameter(name)
        if kind is str:
            return text
        return kind[text] if not is_list and issubclass(kind, Enum) else json.loads(text)

    def write(self: _ParameterNode, value: Any) -> None:
        if is_node:
            assert value is None or value.IsA(kind.__name__)
            self.parameterNode.SetNodeReferenceID(name, None if value is None else value.GetID())
            return
        if is_list:
            assert all(isinstance(each, str) for each in value)
            text = json.dumps(list(value))
        else:
            if type(value) is not kind:
                raise ValueError(f"{name} is {kind}, not {value!r}")
            text = value if kind is str else value.name if issubclass(kind, Enum) else json.dumps(value)
        self.parameterNode.SetParameter(name, text)

    return property(read, write)


class _ParameterNode:
    types: dict[str, Any]

    def __init__(self, node: Any) -> None:
        self.parameterNode = node
        self._tags: dict[int, tuple[int, list[Callable[[], None]]]] = {}

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return int(self.parameterNode.AddObserver(event, callback, priority))

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def connectGui(self, ui: Any) -> int:
        """Bind all widgets with the dynamic property ``SlicerParameterName``."""
        bound = [each for each in vars(ui).values() if each.property("SlicerParameterName")]
        connections = [self._connected(each, each.property("SlicerParameterName")) for each in bound]

        def show(*_: object) -> None:
            for display, _ in connections:
                display()

        show()
        tag = self.parameterNode.AddObserver("ModifiedEvent", show)
        self._tags[tag] = (tag, [disconnect for _, disconnect in connections])
        return int(tag)

    def disconnectGui(self, tag: int) -> None:
        observer, disconnections = self._tags.pop(tag)
        self.parameterNode.RemoveObserver(observer)
        for disconnect in disconnections:
            disconnect()

    def _connected(self, widget: Any, name: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return what shows the parameter in its widget, and what ends the connection."""
        hint = self.types[name]
        members: list[Any] = []
        match type(widget).__name__:
            case "QCheckBox":
                signal, read, write = widget.toggled, lambda: widget.checked, widget.setChecked
            case "QSpinBox":
                bounds = hint.__metadata__[0]
                widget.setRange(bounds.minimum, bounds.maximum)
                signal, read, write = widget.valueChanged, lambda: widget.value, widget.setValue
            case "QLineEdit":
                signal, read = widget.textChanged, lambda: widget.text
                write = lambda text: None if text == widget.text else widget.setText(text)  # noqa: E731
            case "QComboBox":
                members = list(hint)
                widget.clear()
                for member in members:
                    widget.addItem(member.label())
                signal, read = widget.currentIndexChanged, lambda: members[widget.currentIndex]
                write = lambda member: widget.setCurrentIndex(members.index(member))  # noqa: E731
            case "qMRMLNodeComboBox":
                signal, read, write = widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode
            case other:
                raise RuntimeError(f"no connector of {other} to {hint}")

        def changed() -> None:
            setattr(self, name, read())

        write(getattr(self, name))
        signal.connect(changed)
        return lambda: write(getattr(self, name)), lambda: signal.disconnect(changed)
