"""``manifest.json`` to :class:`Manifest` and back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from KDSegmentatorLib.errors import ManifestError
from KDSegmentatorLib.packs import rules
from KDSegmentatorLib.packs.manifest import SCHEMA_VERSION, Manifest
from KDSegmentatorLib.packs.strict_json import FieldError, build, parse, required, shown

_REMEDY = "get an intact copy of the pack, or correct the manifest if the pack is yours"


def read_manifest(text: str, where: str) -> Manifest:
    """Return the manifest that a JSON text describes.

    Args:
        text: the JSON document.
        where: file or pack that it comes from, for error messages.

    Raises:
        ManifestError: not JSON, an unknown, missing or unusable field (the message names it, for example
            ``labels[2].color[1]``), parts that contradict each other, or a schema newer than this library.
    """
    try:
        document = parse(text)
        _check_schema_version(document)
        manifest = build(Manifest, document, rules.RULES, rules.TEXT)
        rules.check(manifest)
    except FieldError as error:
        raise ManifestError(f"{where}: {error}; {_REMEDY}") from None
    except _NewerSchemaError as error:
        raise ManifestError(f"{where}: {error}") from None
    return manifest


def write_manifest(manifest: Manifest) -> str:
    """Return a manifest as JSON text that :func:`read_manifest` turns into an equal manifest.

    The text is stable: fields in the order of the classes, files and versions sorted by name, optional fields that are
    None left out, and ``recommended`` if it is not.

    Raises:
        ManifestError: the manifest is not valid; an invalid one is never written.
    """
    try:
        text = json.dumps(_plain(manifest), indent=2, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ManifestError(f"the manifest of {manifest.id!r} cannot be written as JSON: {error}") from error
    read_manifest(text, f"new manifest of {manifest.id!r}")
    return text


class _NewerSchemaError(Exception):
    pass


def _check_schema_version(document: Any) -> None:
    """Look at the version first: a newer manifest's other fields would only give misleading messages."""
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        raise _NewerSchemaError(
            f"schema_version: the pack uses schema {shown(version)}, this KDSegmentator reads up to "
            f"{SCHEMA_VERSION}; update KDSegmentator"
        )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(entry)
            for field in dataclasses.fields(value)
            if (entry := getattr(value, field.name)) is not None or required(field)
            if entry or field.name != "recommended"
        }
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return value
