"""Hashes of what goes into a step: parts of the recipe, and files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from distillation.files import write_json
from KDSegmentatorLib.io.files import file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class FileHashes:
    """SHA-256 of files, remembered as long as their size and time of change stay the same.

    Where a file was only copied or touched, its new hash is the old one.

    Args:
        path: where the hashes are kept; a missing or damaged file costs no more than reading everything again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self._known = {str(name): list(entry) for name, entry in content.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self._known = {}

    def of(self, path: Path) -> str:
        """Return a file's hash.

        Raises:
            OSError: it cannot be read.
        """
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        name = str(path.resolve())
        known = self._known.get(name)
        if known is not None and known[:2] == stamp:
            return str(known[2])
        digest = file_sha256(path)
        self._known[name] = [*stamp, digest]
        return digest

    def of_all(self, paths: Iterable[Path], below: Path) -> str:
        """Return one hash of several files and of their names below a folder."""
        lines = sorted(f"{path.relative_to(below).as_posix()} {self.of(path)}" for path in paths)
        return text_hash("\n".join(lines))

    def save(self) -> None:
        """Write the hashes down."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._known)


def text_hash(text: str) -> str:
    """Return a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()


def settings_hash(settings: Any) -> str:
    """Return a hash of dataclasses, lists, dictionaries and plain values.

    The order of keys does not matter. A dataclass's fields that have their default are left out, so that a setting that
    a later version adds does not change the hash of an older recipe.
    """
    return text_hash(json.dumps(_plain(settings), sort_keys=True))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {
            entry.name: _plain(getattr(value, entry.name))
            for entry in fields(value)
            if entry.default is MISSING or getattr(value, entry.name) != entry.default
        }
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
