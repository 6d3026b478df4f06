"""JSON documents to frozen dataclasses, and nothing that the dataclasses do not say.

The classes' type hints are the specification, with limits as msgspec writes them (``Annotated[int, Meta(ge=1)]``) and
texts of :func:`text`. Unknown and missing fields, duplicate keys, wrong types (a bool is no number), NaN and wrong
lengths are all refused with the path of the field. A class whose content its hints cannot say reads itself:
``from_document(value, path)``, raising :class:`FieldError`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union

import msgspec

from KDSegmentatorLib.errors import KDSegmentatorError

T = TypeVar("T")

_SHOWN_CHARACTERS = 60
_JSON_NAMES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
}
_COMPARISONS = {">=": "at least", ">": "above", "<=": "at most"}
_meanings: dict[str, str] = {}


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


def text(pattern: str, meaning: str, *, max_length: int | None = None) -> msgspec.Meta:
    """Return the limits of a text.

    Args:
        pattern: regular expression for the whole text.
        meaning: what it stands for, to complete "must be ...".
        max_length: in characters.

    Examples:
        >>> Word = Annotated[str, text("[a-z]+", "lower-case letters")]
    """
    whole = rf"^(?:{pattern})\Z(?#{len(_meanings)})"  # the number tells texts of one pattern and two meanings apart
    _meanings[whole] = meaning
    return msgspec.Meta(pattern=whole, max_length=max_length)


def parse(document: str) -> Any:
    """Return the JSON document; NaN and infinities are left to :func:`build`, which can name their field.

    Raises:
        FieldError: not JSON, nested too deeply, or an object has a key twice.
    """
    try:
        return json.loads(document, object_pairs_hook=_object_without_duplicates)
    except json.JSONDecodeError as error:
        raise FieldError("", f"not valid JSON ({error})") from None
    except RecursionError:
        raise FieldError("", "not valid: nested too deeply") from None
    except ValueError as error:  # an integer with thousands of digits
        raise FieldError("", f"not valid JSON ({error})") from None


def build(cls: type[T], value: Any) -> T:
    """Return an instance of a dataclass made from a parsed JSON object.

    Args:
        cls: the dataclass.
        value: what :func:`parse` returned; from another parser, keys have to be text.

    Raises:
        FieldError: a field is unknown, missing, of the wrong type, beyond its limits, or a check of the class failed.
    """
    return typing.cast("T", _converted(cls, _read(cls, value, ""), ""))


@cache
def field_hints(cls: type) -> dict[str, Any]:
    """Return a dataclass's evaluated type hints, with their limits."""
    return typing.get_type_hints(cls, include_extras=True)


def required(field: dataclasses.Field[Any]) -> bool:
    """Return whether the document has to have the field."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def shown(value: Any) -> str:
    """Return a value for an error message: short, and without control characters."""
    shortened = ascii(value)
    return shortened if len(shortened) <= _SHOWN_CHARACTERS else shortened[: _SHOWN_CHARACTERS - 3] + "..."


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise FieldError("", f"the key {shown(key)} occurs twice in one object")
        found[key] = value
    return found


def _read(hint: Any, value: Any, path: str) -> Any:
    """Return a value with the dataclasses in it made, the innermost first, so that each error has its path."""
    hint = _without_extras(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if hasattr(hint, "from_document"):
        return hint.from_document(value, path)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _read_fields(typing.cast("type", hint), value, path)
    if origin is tuple and isinstance(value, list):
        return [_read(arguments[0], entry, f"{path}[{n}]") for n, entry in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _read_entry(arguments, key, entry, f"{path}[{shown(key)}]") for key, entry in value.items()}
    if origin is Literal and not any(type(value) is type(choice) and value == choice for choice in arguments):
        raise FieldError(path, f"must be {' or '.join(map(repr, arguments))}, got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise FieldError(path, f"must be a finite number, got {value}")
    return value


def _read_fields(cls: type, value: dict[str, Any], path: str) -> Any:
    prefix, hints = f"{path}." if path else "", field_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    for key in value:
        if key not in known:
            name = key if key.isidentifier() and len(key) < 40 else shown(key)
            raise FieldError(prefix + name, f"unknown field; known are: {', '.join(sorted(known))}")
    found = {key: _read(hints[key], entry, prefix + key) for key, entry in value.items()}
    try:
        return _converted(cls, found, path)
    except KDSegmentatorError as error:  # of the class's own checks
        raise FieldError(path, str(error)) from error


def _read_entry(hints: tuple[Any, ...], key: str, value: Any, path: str) -> Any:
    _converted(hints[0], key, path)
    return _converted(hints[1], _read(hints[1], value, path), path)


def _converted(hint: Any, value: Any, path: str) -> Any:
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        inside = place.rstrip("`")
        for part in re.findall(r"\w+", inside):
            value = value[int(part)] if isinstance(value, (list, tuple)) else value[part]
        if missing := re.fullmatch(r"Object missing required field `(\w+)`", problem):
            inside, problem = f"{inside}.{missing[1]}", "missing"
        raise FieldError((path + inside).lstrip("."), _in_words(problem, value)) from None


def _in_words(problem: str, value: Any) -> str:
    """Return what msgspec says in this library's words, with the value."""
    got = f", got {shown(value)}"
    if found := re.fullmatch(r"Expected `(?:int|float).*?` (>=|>|<=) (\S+)", problem):
        return f"must be {_COMPARISONS[found[1]]} {found[2].removesuffix('.0')}{got}"
    if found := re.fullmatch(r"Expected `(\w+).*?` of length (<=|>=)? ?(\d+)(?:, got \d+)?", problem):
        unit = {"str": "characters", "object": "entries"}.get(found[1], "values")
        least = f"{_COMPARISONS[found[2]]} " if found[2] else ""
        return f"must have {least}{found[3]} {unit}, has {len(value)}"
    if found := re.fullmatch(r"Expected `str.*?` matching regex (.*)", problem, re.DOTALL):
        whole = next((meaning for pattern, meaning in _meanings.items() if repr(pattern) == found[1]), found[1])
        return f"must be {whole}{got}"
    if found := re.fullmatch(r"Expected `(\w+).*?`, got .*", problem):
        return f"must be {_JSON_NAMES.get(found[1], found[1])}{got}"
    if problem == "Number out of range":
        return f"is too large: {shown(value)}"
    return problem


def _without_extras(hint: Any) -> Any:
    """Return X for ``X | None`` and for X with limits."""
    if typing.get_origin(hint) is Annotated:
        return _without_extras(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (Union, types.UnionType):
        inner = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        return _without_extras(inner[0]) if len(inner) == 1 else hint
    return hint
