"""Compiled networks on disk, checked before they are used again.

OpenVINO takes weights out of its cache without a checksum. With a few bytes changed there a network gives other labels,
and nothing tells. So the files of a folder are listed with their SHA-256 beside it, and a folder that does not hold
exactly those is thrown away. One process at a time looks, compiles and lists. What nobody used for a month goes: packs
and OpenVINO come in new versions, and each has folders of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from KDSegmentatorLib.errors import LockedError
from KDSegmentatorLib.io.files import atomic_output, file_sha256
from KDSegmentatorLib.io.lock import locked

KEPT_SECONDS = 30 * 24 * 3600.0
"""How long a compiled network is kept that nobody uses."""

_WAIT_SECONDS = 5.0
_LOCK_NAME = "lock"


@contextmanager
def opened(folder: Path) -> Iterator[bool]:
    """Hold a folder of compiled networks, so that no other process looks at what is half written.

    Args:
        folder: see :func:`prepare`. All folders beside it are held as well.

    Yields:
        Whether the folder may be used; not if another process holds it for long, or it cannot be made or emptied.
    """
    with ExitStack() as held:
        usable = False
        with suppress(OSError, LockedError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder.parent / _LOCK_NAME, _WAIT_SECONDS))
            usable = prepare(folder)
        yield usable


def prepare(folder: Path) -> bool:
    """Return whether OpenVINO may take compiled networks from a folder, and put new ones there.

    Args:
        folder: made if it is missing, emptied if it is not as :func:`seal` left it.

    Returns:
        False if the folder cannot be made or emptied; a cache only saves time.
    """
    try:
        if folder.exists() and _hashes(folder) != _listed(folder):
            _drop(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    with suppress(OSError):
        os.utime(_list_of(folder))  # used today
    return True


def seal(folder: Path) -> None:
    """List a folder's files with their hashes, if there are others than before; without the list they are not used."""
    with suppress(Exception):  # made anew next time
        if {_name(folder, path) for path in _files(folder)} != set(_listed(folder)):
            with atomic_output(_list_of(folder)) as temporary:
                temporary.write_text(json.dumps(_hashes(folder)), encoding="utf-8")


def is_sealed(folder: Path) -> bool:
    """Return whether a folder was left by :func:`seal`; whether it is whole, :func:`prepare` finds out."""
    return _list_of(folder).is_file()


def drop_unused(root: Path) -> None:
    """Delete the compiled networks that were not used for :data:`KEPT_SECONDS`; what cannot be deleted stays.

    Args:
        root: folder with one folder for each version of OpenVINO, which holds folders as of :func:`prepare`.
    """
    oldest = time.time() - KEPT_SECONDS
    for version in root.glob("openvino-*"):
        with suppress(OSError, LockedError), locked(version / _LOCK_NAME, 0):
            for folder in [path for path in version.iterdir() if path.is_dir()]:
                with suppress(OSError):
                    if _used(folder) < oldest:
                        _drop(folder)


def _used(folder: Path) -> float:
    """Return when a folder was used last, in seconds since the epoch."""
    try:
        return _list_of(folder).stat().st_mtime
    except FileNotFoundError:  # never sealed
        return folder.stat().st_mtime


def _drop(folder: Path) -> None:
    """Delete a folder and its list, the list first: files that come later must not be taken for those it names."""
    path = _list_of(folder)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    shutil.rmtree(folder)


def _list_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _hashes(folder: Path) -> dict[str, str]:
    return {_name(folder, path): file_sha256(path) for path in _files(folder)}


def _listed(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(_list_of(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
