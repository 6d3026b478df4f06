"""Read plain data (from YAML) into frozen dataclasses, strictly: unknown, missing and ill-typed values are errors."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar, Union

from KDSegmentatorLib.errors import InvalidSettingsError, KDSegmentatorError

T = TypeVar("T")


def read_dataclass(cls: type[T], value: object, where: str) -> T:
    """Return an instance of a dataclass from a mapping.

    Supported field types: str, int, float, bool, Literal, X | None, tuple[X, ...], tuple[X, Y], dict[str, X] and other
    dataclasses.

    Args:
        cls: the dataclass.
        value: what was read.
        where: name of the place, for messages (``"recipe.teacher"``).

    Raises:
        InvalidSettingsError: a key is unknown or missing, or a value has the wrong type or makes no sense; the message
            names the place.
    """
    if not isinstance(value, dict):
        raise InvalidSettingsError(f"{where} must be a mapping of settings, got {_describe(value)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [str(key) for key in value if key not in fields]
    if unknown:
        raise InvalidSettingsError(
            f"{where} has the unknown setting '{unknown[0]}'; known are: {', '.join(sorted(fields))}"
        )
    missing = [
        name
        for name, field in fields.items()
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InvalidSettingsError(f"{where} lacks the setting '{missing[0]}'")
    hints = typing.get_type_hints(cls)
    arguments = {name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return cls(**arguments)
    except KDSegmentatorError as error:
        raise InvalidSettingsError(f"{where}: {error}") from error


def _read(kind: Any, value: object, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return read_dataclass(typing.cast("type[Any]", kind), value, where)
    if origin is Literal:
        return _read_choice(arguments, value, where)
    if origin in (Union, types.UnionType):
        (other,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _read(other, value, where)
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise InvalidSettingsError(f"{where} must be a mapping, got {_describe(value)}")
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    return _read_scalar(kind, value, where)


def _read_choice(choices: tuple[Any, ...], value: object, where: str) -> Any:
    if value not in choices:
        raise InvalidSettingsError(f"{where} must be one of {', '.join(map(str, choices))}, got {_describe(value)}")
    return value


def _read_tuple(arguments: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise InvalidSettingsError(f"{where} must be a list, got {_describe(value)}")
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise InvalidSettingsError(f"{where} must have {len(kinds)} entries, got {len(value)}")
    return tuple(_read(kind, item, f"{where}[{n}]") for n, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _read_scalar(kind: type[Any], value: object, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InvalidSettingsError(f"{where} must be a value of type {kind.__name__}, got {_describe(value)}")
    return value


def _describe(value: object) -> str:
    return "nothing" if value is None else f"{value!r} ({type(value).__name__})"
