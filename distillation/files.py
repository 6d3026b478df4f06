"""Small files that appear whole or not at all, and hashes of large ones."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.io.atomic import atomic_output

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK_BYTES = 1 << 20


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; a kill or a full disk leaves whatever was there before.

    Raises:
        ImageWriteError: the folder is missing or not writable, or the disk is full.
    """
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
