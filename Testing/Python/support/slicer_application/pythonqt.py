"""Qt as PythonQt shows it, on PySide6.

Properties are read and set as attributes, without parentheses; what is neither property nor method cannot be set; enums
are whole numbers; a slot is called with as many of a signal's arguments as it takes; errors in slots go to the console.
"""

from __future__ import annotations

import ctypes
import enum
import inspect
import sys
import traceback
from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets

_MODULES = (QtCore, QtGui, QtWidgets)

if sys.version_info < (3, 12):
    # PySide6 6.12 drops a reference to None whenever a method returns nothing; when none is left, Python aborts
    _references_to_none = [None] * 5_000_000

slot_errors: list[str] = []
"""What was raised in slots: PythonQt prints it and goes on."""

custom_widgets: dict[str, type[QtWidgets.QWidget]] = {}
"""Stand-ins by the names of CTK's and Slicer's widgets."""

_classes: dict[type, type] = {}
_objects: dict[int, Any] = {}


class Enumerator(int):
    """A value of an enum, which keeps what PySide6 wants."""

    original: Any

    def __new__(cls, original: Any):
        """Make a number of an enum's value."""
        self = super().__new__(cls, original.value)
        self.original = original
        return self


def unwrapped(value: Any) -> Any:
    """Return what PySide6 takes."""
    if isinstance(value, _Wrapper):
        return object.__getattribute__(value, "_object")
    if isinstance(value, Enumerator):
        return value.original
    return [unwrapped(each) for each in value] if isinstance(value, (list, tuple)) else value


def wrapped(value: Any) -> Any:
    """Return what PythonQt would give for what PySide6 gives."""
    if isinstance(value, enum.Enum):
        return Enumerator(value)
    if isinstance(value, (list, tuple)):
        return [wrapped(each) for each in value]
    if not _is_qt(type(value)):
        return value
    if not isinstance(value, QtCore.QObject):
        return wrapper_class(type(value)).of(value)
    key = shiboken6.getCppPointer(value)[0]
    known = _objects.get(key)
    if known is None or unwrapped(known) is not value:
        known = _objects[key] = wrapper_class(type(value)).of(value)
    return known


class _Signal:
    def __init__(self, signal: Any) -> None:
        self._signal = signal
        self._slots: dict[Any, Callable[..., None]] = {}

    def connect(self, slot: Callable[..., object]) -> None:
        count = _argument_count(slot)

        def call(*arguments: Any) -> None:
            try:
                slot(*(wrapped(each) for each in arguments[:count]))
            except Exception:
                traceback.print_exc()
                slot_errors.append(traceback.format_exc())

        self._slots[slot] = call
        self._signal.connect(call)

    def disconnect(self, slot: Callable[..., object]) -> None:
        self._signal.disconnect(self._slots.pop(slot))


def _argument_count(slot: Callable[..., object]) -> int | None:
    """Return how many arguments PythonQt hands over; None for all."""
    function = slot.__func__ if isinstance(slot, MethodType) else slot
    if not isinstance(function, FunctionType) or function.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return function.__code__.co_argcount - isinstance(slot, MethodType)


class _WrapperType(type):
    def __getattr__(cls, name: str) -> Any:
        """Return an enum's value, or a static method."""
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(cls.qt_class, name)
        return Enumerator(found) if isinstance(found, enum.Enum) else _method(found)


class _Wrapper(metaclass=_WrapperType):
    qt_class: type = object

    def __init__(self, *arguments: Any) -> None:
        self._adopt(self.qt_class(*unwrapped(arguments)))

    @classmethod
    def of(cls, qt_object: Any) -> Any:
        self = object.__new__(cls)
        self._adopt(qt_object)
        return self

    def _adopt(self, qt_object: Any) -> None:
        object.__setattr__(self, "_object", qt_object)
        object.__setattr__(self, "_signals", {})
        if isinstance(qt_object, QtCore.QObject):
            _objects[shiboken6.getCppPointer(qt_object)[0]] = self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        qt_object = unwrapped(self)
        if isinstance(qt_object, QtCore.QObject):
            name = "objectName" if name == "name" else name
            if qt_object.metaObject().indexOfProperty(name) >= 0:
                return wrapped(qt_object.property(name))
        found = getattr(qt_object, name)
        if isinstance(found, QtCore.SignalInstance):
            return object.__getattribute__(self, "_signals").setdefault(name, _Signal(found))
        return _method(found)

    def __setattr__(self, name: str, value: Any) -> None:
        qt_object = unwrapped(self)
        if not isinstance(qt_object, QtCore.QObject) or qt_object.metaObject().indexOfProperty(name) < 0:
            raise AttributeError(f"{type(qt_object).__name__} has no property {name}")
        if not qt_object.setProperty(name, unwrapped(value)):
            raise TypeError(f"{type(qt_object).__name__}.{name} cannot be {value!r}")


def _loses_none() -> bool:
    """Return whether PySide6 takes a reference to None away with every call without a result, and ends Python at last.

    PySide6 6.12 does with Python 3.11; from Python 3.12 on None cannot die.
    """
    thing = QtCore.QObject()
    before = sys.getrefcount(None)
    for _ in range(100):
        thing.setObjectName("")
    return sys.getrefcount(None) < before - 50


_LOSES_NONE = _loses_none()


def _method(found: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        result = found(*unwrapped(arguments))
        if result is None and _LOSES_NONE:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(None))
        return wrapped(result)

    return call


def wrapper_class(qt_class: type) -> Any:
    """Return the class of the wrappers of a class of PySide6."""
    if qt_class not in _classes:
        bases = tuple(wrapper_class(base) for base in qt_class.__bases__ if _is_qt(base)) or (_Wrapper,)
        _classes[qt_class] = _WrapperType(qt_class.__name__, bases, {"qt_class": qt_class})
    return _classes[qt_class]


def _is_qt(kind: type) -> bool:
    return kind.__module__.startswith("PySide6") or kind in custom_widgets.values()


def _found(name: str) -> Any:
    if name in custom_widgets:
        return wrapper_class(custom_widgets[name])
    for module in _MODULES:
        if hasattr(module, name):
            return wrapper_class(getattr(module, name))
    raise AttributeError(name)


class _QtNamespace(type):
    def __getattr__(cls, name: str) -> Enumerator:
        return Enumerator(getattr(QtCore.Qt, name))


def qt_module() -> ModuleType:
    """Return the module ``qt``."""
    module = ModuleType("qt")
    module.Qt = _QtNamespace("Qt", (), {})  # type: ignore[attr-defined]
    module.__getattr__ = _found  # type: ignore[method-assign]
    return module
