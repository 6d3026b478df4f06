"""Output files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import ImageWriteError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextmanager
def atomic_output(path: Path | str) -> Iterator[Path]:
    """Give a temporary file to write into, and put it in the place of ``path`` at the end.

    The temporary lies in the same folder (renaming is atomic only inside one file system) and has the same suffix
    (writers choose their format by it). It exists already, empty, and is overwritten by the caller. If the block
    raises, it is removed, and whatever was at ``path`` before stays as it was. A symbolic link is followed.

    Args:
        path: the file that shall appear; its folder must exist.

    Raises:
        ImageWriteError: the folder is missing or not writable, the disk is full, or ``path`` cannot be replaced. Any
            ``OSError`` that the block raises becomes this error too.
    """
    path = Path(path)
    target = check_output(path)
    temporary = target.with_name(f".kdseg-{secrets.token_hex(6)}{_suffix(target)}")
    try:
        # Created here so that a folder without permission is reported by the operating system, not by ITK.
        temporary.open("xb").close()
        yield temporary
        _flush(temporary)
        temporary.replace(target)
    except OSError as error:
        raise ImageWriteError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_output(path: Path | str) -> Path:
    """Check, before long work starts, that a file can be made at ``path``; return it with symbolic links followed.

    Raises:
        ImageWriteError: its folder does not exist or is not a folder, or ``path`` is a folder.
    """
    path = Path(path)
    try:
        target = path.resolve() if path.is_symlink() else path
        if target.is_dir():
            raise ImageWriteError(f"cannot write {path}: it is a folder; give the name of a file")
        if not target.parent.is_dir():
            raise ImageWriteError(f"cannot write {path}: there is no folder {target.parent}; create it first")
    except (OSError, ValueError, RuntimeError) as error:  # a link that leads to itself, a name no file can have
        raise ImageWriteError(f"cannot write {path}: {error}; give another name") from error
    return target


def _suffix(path: Path) -> str:
    """Return the last suffix in lower case, with the one before it if compressed: ``.nii.gz``, ``.csv``."""
    return "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()


def _flush(path: Path) -> None:
    # Some file systems (network, quota) report a full disk only here.
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _reason(error: OSError) -> str:
    if error.errno in _NO_SPACE:
        return "the disk is full or the quota is used up; free some space or write somewhere else"
    if isinstance(error, PermissionError):
        return (
            "no permission; write into a folder of your own, and close the file if it is open in another program "
            f"({error.strerror})"
        )
    return f"{error.strerror or error}; check the disk or write somewhere else"
