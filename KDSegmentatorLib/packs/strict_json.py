"""JSON text to frozen dataclasses, and nothing that the dataclasses do not say.

The classes' type hints are the specification: unknown and missing fields, duplicate keys, wrong types (a bool is no
number), NaN and wrong lengths are all refused with the path of the field. Supported hints: ``str``, ``int``, ``float``,
``bool``, ``Literal``, ``X | None``, ``tuple[X, ...]``, ``tuple[X, Y, Z]``, ``dict[str, X]`` and dataclasses. A class
whose content its hints cannot say reads itself: ``from_document(value, path)``, raising :class:`FieldError`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union

from KDSegmentatorLib.errors import KDSegmentatorError

T = TypeVar("T")

_SHOWN_CHARACTERS = 60
_JSON_NAMES: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class FieldError(Exception):
    """A field has a value that it must not have.

    Args:
        path: of the field, for example ``labels[2].color[1]``; empty for the whole document.
        problem: what is wrong with it.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """What a field's value has to satisfy beyond its type.

    Numbers and texts inside a tuple or a dictionary are checked one by one; ``keys`` is for a dictionary's keys.

    Attributes:
        minimum: smallest allowed number.
        above: the number has to be larger than this.
        maximum: largest allowed number.
        pattern: regular expression for the whole text, in the dialect that Python and ECMA 262 share.
        max_length: of a text, in characters.
        min_items: smallest length of a tuple or dictionary.
        unique: no value of a tuple occurs twice.
        keys: rule for a dictionary's keys.
        meaning: what the pattern stands for, to complete "must be ...".
    """

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    max_length: int | None = None
    min_items: int = 0
    unique: bool = False
    keys: Rule | None = None
    meaning: str = ""


Rules = Mapping[tuple[type, str], Rule]


def parse(text: str) -> Any:
    """Return the JSON document; NaN and infinities are left to :func:`build`, which can name their field.

    Raises:
        FieldError: not JSON, nested too deeply, or an object has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object_without_duplicates)
    except json.JSONDecodeError as error:
        raise FieldError("", f"not valid JSON ({error})") from None
    except RecursionError:
        raise FieldError("", "not valid: nested too deeply") from None
    except ValueError as error:  # an integer with thousands of digits
        raise FieldError("", f"not valid JSON ({error})") from None


def build(cls: type[T], value: Any, rules: Rules, default: Rule) -> T:
    """Return an instance of a dataclass made from a parsed JSON object.

    Args:
        cls: the dataclass.
        value: what :func:`parse` returned; from another parser, keys have to be text.
        rules: by (dataclass, field name).
        default: rule of the fields that have none.

    Raises:
        FieldError: a field is unknown, missing, of the wrong type, breaks its rule, or a check of the class itself.
    """
    return typing.cast("T", _Builder(rules, default).dataclass(cls, value, ""))


@cache
def field_hints(cls: type) -> dict[str, Any]:
    """Return a dataclass's evaluated type hints."""
    return typing.get_type_hints(cls)


def optional_inner(hint: Any) -> Any | None:
    """Return X if the hint is ``X | None``, otherwise None."""
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return None
    inner = [argument for argument in typing.get_args(hint) if argument is not type(None)]
    if len(inner) != 1:
        raise TypeError(f"strict_json supports X | None only, not {hint}")
    return inner[0]


def required(field: dataclasses.Field[Any]) -> bool:
    """Return whether the document has to have the field."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def shown(value: Any) -> str:
    """Return a value for an error message: short, and without control characters."""
    text = ascii(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise FieldError("", f"the key {shown(key)} occurs twice in one object")
        found[key] = value
    return found


class _Builder:
    def __init__(self, rules: Rules, default: Rule) -> None:
        self._rules = rules
        self._default = default

    def dataclass(self, cls: type, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise FieldError(path, f"must be an object, got {shown(value)}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        prefix = f"{path}." if path else ""
        for key in value:
            if key not in fields:
                name = key if key.isidentifier() and len(key) < 40 else shown(key)
                raise FieldError(prefix + name, f"unknown field; known are: {', '.join(sorted(fields))}")
        for name, field in fields.items():
            if name not in value and required(field):
                raise FieldError(prefix + name, "missing")
        hints = field_hints(cls)
        values = {
            name: self.value(hints[name], value[name], prefix + name, self._rules.get((cls, name), self._default))
            for name in fields
            if name in value
        }
        try:
            return cls(**values)
        except KDSegmentatorError as error:  # of the class's own checks
            raise FieldError(path, str(error)) from error

    def value(self, hint: Any, value: Any, path: str, rule: Rule) -> Any:
        inner = optional_inner(hint)
        if inner is not None:
            return None if value is None else self.value(inner, value, path, rule)
        own_reader = getattr(hint, "from_document", None)
        if own_reader is not None:
            return own_reader(value, path)
        if dataclasses.is_dataclass(hint):
            return self.dataclass(typing.cast("type", hint), value, path)
        origin = typing.get_origin(hint)
        if origin is Literal:
            choices = typing.get_args(hint)
            if not any(type(value) is type(choice) and value == choice for choice in choices):
                raise FieldError(path, f"must be {' or '.join(map(repr, choices))}, got {shown(value)}")
            return value
        if origin is tuple:
            return self.sequence(hint, value, path, rule)
        if origin is dict:
            return self.mapping(hint, value, path, rule)
        return _scalar(hint, value, path, rule)

    def sequence(self, hint: Any, value: Any, path: str, rule: Rule) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise FieldError(path, f"must be a list, got {shown(value)}")
        items = typing.get_args(hint)
        if items[-1] is Ellipsis:
            items = (items[0],) * len(value)
        elif len(value) != len(items):
            raise FieldError(path, f"must have {len(items)} values, has {len(value)}")
        if len(value) < rule.min_items:
            raise FieldError(path, f"must have at least {rule.min_items} values, has {len(value)}")
        found = tuple(
            self.value(item, entry, f"{path}[{n}]", rule)
            for n, (item, entry) in enumerate(zip(items, value, strict=True))
        )
        if rule.unique and len(set(found)) != len(found):
            raise FieldError(path, f"must not have a value twice, got {shown(value)}")
        return found

    def mapping(self, hint: Any, value: Any, path: str, rule: Rule) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise FieldError(path, f"must be an object, got {shown(value)}")
        if len(value) < rule.min_items:
            raise FieldError(path, f"must have at least {rule.min_items} entries, has {len(value)}")
        key_type, item = typing.get_args(hint)
        found = {}
        for key, entry in value.items():
            entry_path = f"{path}[{shown(key)}]"
            _scalar(key_type, key, entry_path, rule.keys or self._default)
            found[key] = self.value(item, entry, entry_path, rule)
        return found


def _scalar(hint: Any, value: Any, path: str, rule: Rule) -> Any:
    if hint not in _JSON_NAMES:
        raise TypeError(f"strict_json does not support the type {hint} of {path}")
    accepted = (int, float) if hint is float else (hint,)
    # bool is a subclass of int in Python, but "features": true is no number
    if type(value) not in accepted:
        raise FieldError(path, f"must be {_JSON_NAMES[hint]}, got {shown(value)}")
    if hint is str:
        _check_text(value, path, rule)
    elif hint in (int, float):
        try:
            value = hint(value)
        except OverflowError:
            raise FieldError(path, f"is too large: {shown(value)}") from None
        _check_number(value, path, rule)
    return value


def _check_text(value: str, path: str, rule: Rule) -> None:
    if rule.max_length is not None and len(value) > rule.max_length:
        raise FieldError(path, f"must have at most {rule.max_length} characters, has {len(value)}")
    if rule.pattern is not None and re.fullmatch(rule.pattern, value) is None:
        raise FieldError(path, f"must be {rule.meaning or f'like {rule.pattern}'}, got {shown(value)}")


def _check_number(value: float, path: str, rule: Rule) -> None:
    if not math.isfinite(value):
        raise FieldError(path, f"must be a finite number, got {value}")
    if rule.minimum is not None and value < rule.minimum:
        raise FieldError(path, f"must be at least {rule.minimum}, got {shown(value)}")
    if rule.above is not None and value <= rule.above:
        raise FieldError(path, f"must be above {rule.above}, got {shown(value)}")
    if rule.maximum is not None and value > rule.maximum:
        raise FieldError(path, f"must be at most {rule.maximum}, got {shown(value)}")
