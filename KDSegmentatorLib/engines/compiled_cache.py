"""Compiled networks on disk, checked before they are used again.

OpenVINO takes weights out of its cache without a checksum. With a few bytes changed there a network gives other labels,
and nothing tells. So the files of a folder are listed with their SHA-256 beside it, and a folder that does not hold
exactly those is thrown away.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from KDSegmentatorLib.io.atomic import atomic_output

_CHUNK_BYTES = 1 << 20


def prepare(folder: Path) -> bool:
    """Return whether OpenVINO may take compiled networks from a folder, and put new ones there.

    Args:
        folder: made if it is missing, emptied if it is not as :func:`seal` left it.

    Returns:
        False if the folder cannot be made or emptied; a cache only saves time.
    """
    try:
        if folder.exists() and _hashes(folder) != _listed(folder):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


def seal(folder: Path) -> None:
    """List a folder's files with their hashes, if there are others than before; without the list they are not used."""
    with suppress(Exception):  # made anew next time
        if {_name(folder, path) for path in _files(folder)} != set(_listed(folder)):
            with atomic_output(_list_of(folder)) as temporary:
                temporary.write_text(json.dumps(_hashes(folder)), encoding="utf-8")


def _list_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _hashes(folder: Path) -> dict[str, str]:
    return {_name(folder, path): _sha256(path) for path in _files(folder)}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _listed(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(_list_of(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
