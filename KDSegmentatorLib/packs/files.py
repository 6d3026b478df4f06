"""Naming, syncing and deleting that work the same on Windows, macOS and Linux."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import uuid
from pathlib import Path

from KDSegmentatorLib.errors import PackError

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_WINDOWS_DISK_FULL = (39, 112)


def new_name(prefix: str) -> str:
    """Return a name that nothing has yet."""
    return f"{prefix}{uuid.uuid4().hex[:12]}"


def sync_folder(folder: Path) -> None:
    """Bring a folder's files and its listing to the disk, so that a power cut after this cannot lose them.

    Raises:
        OSError: a file cannot be opened or written.
    """
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_listing(folder)


def sync_listing(folder: Path) -> None:
    """Bring a folder's listing to the disk; Windows has no such call and does not need it.

    Raises:
        OSError: the folder cannot be opened.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)


def delete_tree(folder: Path) -> None:
    """Delete a folder as far as possible; what another process has open on Windows stays for the next time."""
    shutil.rmtree(folder, ignore_errors=True)


def write_error(path: Path, error: OSError) -> PackError:
    """Return the error to raise when something could not be written at a path."""
    if error.errno in _FULL or getattr(error, "winerror", None) in _WINDOWS_DISK_FULL:
        return PackError(f"the disk is full: {path} could not be written; free some space and try again")
    if error.errno in _NOT_ALLOWED:
        return PackError(
            f"{path} cannot be written ({error.strerror}); ask for write permission there, or choose another folder "
            "(for packs with the environment variable KDSEGMENTATOR_PACKS)"
        )
    return PackError(f"{path} could not be written ({error}); check the disk and try again")
