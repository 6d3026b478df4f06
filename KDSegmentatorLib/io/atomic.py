"""Output files that appear whole or not at all."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import ImageWriteError
from KDSegmentatorLib.io.files import replacing

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
    try:
        with replacing(target, _suffix(target)) as temporary:
            yield temporary
    except OSError as error:
        raise ImageWriteError(f"cannot write {path}: {_reason(error)}") from error


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


def _reason(error: OSError) -> str:
    if error.errno in _NO_SPACE:
        return "the disk is full or the quota is used up; free some space or write somewhere else"
    if isinstance(error, PermissionError):
        return (
            "no permission; write into a folder of your own, and close the file if it is open in another program "
            f"({error.strerror})"
        )
    return f"{error.strerror or error}; check the disk or write somewhere else"
