"""The JSON Schema of ``manifest.json``, made from the same classes and rules as the reader.

``python -m KDSegmentatorLib.packs.schema`` writes it anew; a test compares the file with the classes. What the schema
cannot say, only the reader checks: that parts of the manifest agree (id with task and size, label values with their
number, files with the network's parts), and that 3.0 is no whole number.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, Literal

from KDSegmentatorLib.packs.manifest import SCHEMA_VERSION, Manifest, Normalization, Provenance
from KDSegmentatorLib.packs.rules import MAXIMUM_FILES, RULES, TEXT, UNDISTILLED
from KDSegmentatorLib.packs.strict_json import Rule, field_hints, optional_inner, required

SCHEMA_PATH = Path(__file__).with_name("manifest.schema.json")

_TYPES: dict[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}

_FURTHER: dict[type, dict[str, Any]] = {
    Normalization: {
        "if": {"properties": {"scheme": {"const": "CT"}}},
        "then": {
            "required": ["mean", "std", "percentile_00_5", "percentile_99_5"],
            "properties": {name: {"type": "number"} for name in ("mean", "std", "percentile_00_5", "percentile_99_5")},
        },
    },
    Provenance: {
        "allOf": [
            {
                "if": {"properties": {"method": {"not": {"enum": list(UNDISTILLED)}}}},
                "then": {"properties": {"teacher_sha256": {"type": "string"}}},
            },
            {
                "if": {"properties": {"method": {"const": "logit"}}},
                "then": {"properties": {"temperature": {"type": "number"}, "weight": {"type": "number"}}},
            },
        ]
    },
}


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12)."""
    definitions: dict[str, Any] = {}
    schema = _object(Manifest, definitions)
    schema["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    schema["properties"]["files"]["maxProperties"] = MAXIMUM_FILES
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "KDSegmentator student pack: manifest.json",
        **schema,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """Return what ``manifest.schema.json`` has to contain."""
    return json.dumps(manifest_schema(), indent=2) + "\n"


def _object(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = field_hints(cls)
    fields = dataclasses.fields(cls)
    return {
        "type": "object",
        "properties": {
            field.name: _value(hints[field.name], RULES.get((cls, field.name), TEXT), definitions) for field in fields
        },
        "required": [field.name for field in fields if required(field)],
        "additionalProperties": False,
        **_FURTHER.get(cls, {}),
    }


def _value(hint: Any, rule: Rule, definitions: dict[str, Any]) -> dict[str, Any]:
    inner = optional_inner(hint)
    if inner is not None:
        return {"anyOf": [_value(inner, rule, definitions), {"type": "null"}]}
    if dataclasses.is_dataclass(hint):
        cls = typing.cast("type", hint)
        if cls.__name__ not in definitions:
            definitions[cls.__name__] = _object(cls, definitions)
        return {"$ref": f"#/$defs/{cls.__name__}"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        schema: dict[str, Any] = {"type": "array", "items": _value(arguments[0], rule, definitions)}
        if arguments[-1] is not Ellipsis:
            schema |= {"minItems": len(arguments), "maxItems": len(arguments)}
        elif rule.min_items:
            schema["minItems"] = rule.min_items
        return schema | ({"uniqueItems": True} if rule.unique else {})
    if origin is dict:
        return {
            "type": "object",
            "propertyNames": _scalar(str, rule.keys or TEXT),
            "additionalProperties": _value(arguments[1], rule, definitions),
            "minProperties": rule.min_items,
        }
    return _scalar(hint, rule)


def _scalar(hint: type, rule: Rule) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _TYPES[hint]}
    if hint is str:
        limits: dict[str, Any] = {
            "maxLength": rule.max_length,
            "pattern": None if rule.pattern is None else f"^(?:{rule.pattern})$",
        }
    else:
        limits = {"minimum": rule.minimum, "exclusiveMinimum": rule.above, "maximum": rule.maximum}
    return schema | {key: value for key, value in limits.items() if value is not None}


if __name__ == "__main__":
    SCHEMA_PATH.write_text(schema_text(), encoding="utf-8", newline="\n")
