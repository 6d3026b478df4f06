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


@dataclass(frozen=True)
class Choice:
    """What a value can be."""

    choices: list[str]


def parameterPack(kind: type) -> type:
    """Make a class of fields that are stored together; in a node they are its properties ``name.field``."""
    kind.pack_types = get_type_hints(kind, include_extras=True)  # type: ignore[attr-defined]
    return kind


def parameterNodeWrapper(kind: type) -> type:
    """Make a class of typed properties over a vtkMRMLScriptedModuleNode."""
    hints = get_type_hints(kind, include_extras=True)
    defaults = {name: getattr(kind, name, None) for name in hints}
    members = {name: _property(name, hint, defaults[name]) for name, hint in hints.items()}
    return type(kind.__name__, (_ParameterNode,), {"types": hints, **members})


def _pack_property(name: str, pack: Any) -> property:
    """Return a property whose value reads and writes the fields of a pack in the node."""
    fields = {
        field: _property(f"{name}.{field}", hint, getattr(pack, field)) for field, hint in pack.pack_types.items()
    }
    view = type(pack.__name__, (), {"__slots__": ("parameterNode",), **fields})

    def read(self: _ParameterNode) -> Any:
        found = view()
        found.parameterNode = self.parameterNode
        return found

    return property(read)


def _property(name: str, hint: Any, default: Any) -> property:
    kind = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    if hasattr(kind, "pack_types"):
        return _pack_property(name, kind)
    allowed = next((each.choices for each in getattr(hint, "__metadata__", ()) if isinstance(each, Choice)), None)
    is_list = get_origin(kind) is list
    is_node = not is_list and kind not in (str, int, bool) and not issubclass(kind, Enum)

    def read(self: _ParameterNode) -> Any:
        node = self.parameterNode
        if is_node:
            return node.GetNodeReference(name)
        if not node.HasParameter(name):
            return [] if is_list else default
        text = node.GetParameter(name)
        if allowed is not None and text not in allowed:
            raise ValueError(f"{name} is none of {allowed}: {text!r}")
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
            if allowed is not None and value not in allowed:
                raise ValueError(f"{name} is none of {allowed}: {value!r}")
            text = value if kind is str else value.name if issubclass(kind, Enum) else json.dumps(value)
        self.parameterNode.SetParameter(name, text)

    return property(read, write)


class _ParameterNode:
    types: dict[str, Any]

    def __init__(self, node: Any) -> None:
        self.parameterNode = node
        self._tags: dict[int, tuple[int, list[Callable[[], None]]]] = {}
        for name, kind in self.types.items():
            for field in getattr(kind, "pack_types", ()):
                getattr(getattr(self, name), field)  # what cannot be read is refused here

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
        owner: Any = self
        pack, _, field = name.rpartition(".")
        hint = self.types[pack].pack_types[field] if pack else self.types[name]
        if pack:
            owner = getattr(self, pack)
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
                members = list(hint.__metadata__[0].choices if hasattr(hint, "__metadata__") else hint)
                widget.clear()
                for member in members:
                    widget.addItem(member if isinstance(member, str) else member.label())
                signal, read = widget.currentIndexChanged, lambda: members[widget.currentIndex]
                write = lambda member: widget.setCurrentIndex(members.index(member))  # noqa: E731
            case "qMRMLNodeComboBox":
                signal, read, write = widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode
            case other:
                raise RuntimeError(f"no connector of {other} to {hint}")

        def changed() -> None:
            setattr(owner, field, read())

        write(getattr(owner, field))
        signal.connect(changed)
        return lambda: write(getattr(owner, field)), lambda: signal.disconnect(changed)
