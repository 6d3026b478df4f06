"""What every part that keeps files needs: a file's hash, and replacing a file in one step."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CHUNK_BYTES = 1 << 20

TEMPORARY_PREFIX = ".kdseg-"
"""What the names of temporary files begin with; a killed process leaves them."""

_ATTEMPTS = 20
_PAUSE_SECONDS = 0.1


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits; it is read in pieces.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def replace(source: Path, target: Path) -> None:
    """Rename, replacing an existing file, in one step.

    On Windows a file that a virus scanner or another process has open for a moment cannot be renamed or replaced, so
    it is tried for two seconds.

    Raises:
        OSError: it did not work.
    """
    for attempt in range(_ATTEMPTS):
        try:
            source.replace(target)
            return
        except PermissionError:
            if sys.platform != "win32" or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE_SECONDS)


@contextmanager
def replacing(target: Path, suffix: str = "") -> Iterator[Path]:
    """Give a temporary file to write into, and put it in the place of ``target`` at the end.

    The temporary lies in the same folder, as renaming is atomic only inside one file system. It exists already, empty,
    and is overwritten by the caller. If the block raises, it is removed, and whatever was at ``target`` stays.

    Args:
        target: the file that shall appear; its folder must exist.
        suffix: of the temporary's name, for writers that choose their format by it.

    Raises:
        OSError: a file cannot be made, written or replaced, or the block raised it.
    """
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{suffix}")
    try:
        # Created here so that a folder without permission is reported by the operating system, not by ITK.
        temporary.open("xb").close()
        yield temporary
        _flush(temporary)
        replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    # Some file systems (network, quota) report a full disk only here.
    with path.open("rb+") as file:
        os.fsync(file.fileno())
