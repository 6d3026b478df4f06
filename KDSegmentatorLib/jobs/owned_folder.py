"""Folders that live as long as their owner: removed at its end, and by the next one if it did not get there.

Beside a folder ``.kdseg-job-5d0e...`` lies a file of the same name with ``.lock``, which the owner keeps locked. The
operating system unlocks it when the owner ends, however that comes about: what is not locked is nobody's.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.io.files import delete_tree, new_name
from KDSegmentatorLib.jobs.failures import storage_error
from KDSegmentatorLib.packs.lock import locked

PREFIX = ".kdseg-job-"
_LOCK_SUFFIX = ".lock"


@contextlib.contextmanager
def owned_folder(parent: Path) -> Iterator[Path]:
    """Make an empty folder that only this user can read, and remove it at the end, whatever happens.

    Before that, folders in the same place whose owners are gone are removed.

    Args:
        parent: an existing folder.

    Raises:
        JobError: the folder cannot be made.
    """
    remove_abandoned(parent)
    with contextlib.ExitStack() as lock:
        try:
            folder = _made(parent, lock)
        except OSError as error:
            raise storage_error(parent, error) from error
        try:
            yield folder
        finally:
            delete_tree(folder)
            _remove_lock(folder)
            lock.close()
            _remove_lock(folder)  # Windows does not remove what is open


def remove_abandoned(parent: Path) -> None:
    """Remove the folders in ``parent`` that processes of this user left behind when they crashed or were ended."""
    with contextlib.suppress(OSError):
        for lock in parent.glob(f"{PREFIX}*{_LOCK_SUFFIX}"):
            if _is_ours(lock):
                _remove_if_abandoned(lock.with_suffix(""))


def _made(parent: Path, lock: contextlib.ExitStack) -> Path:
    """Return a new folder whose lock is held."""
    while True:
        folder = parent / new_name(PREFIX)
        path = _lock_path(folder)
        # A file system without locks will do: what is left behind there stays until somebody removes it by hand.
        with contextlib.suppress(PackError):
            lock.enter_context(locked(path, 0))
        if path.exists():  # else it was taken for abandoned in the moment before it was locked
            break
        lock.close()
    try:
        folder.mkdir(mode=0o700)
    except OSError:
        _remove_lock(folder)
        lock.close()
        _remove_lock(folder)
        raise
    return folder


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(PackError, OSError):  # somebody's, or a file system without locks
        with locked(_lock_path(folder), 0):
            delete_tree(folder)
            _remove_lock(folder)
        _remove_lock(folder)


def _lock_path(folder: Path) -> Path:
    return folder.with_name(folder.name + _LOCK_SUFFIX)


def _remove_lock(folder: Path) -> None:
    """Remove a folder's lock, unless a file that is still open on Windows keeps the folder for the next time."""
    if not folder.exists():
        with contextlib.suppress(OSError):
            _lock_path(folder).unlink()


def _is_ours(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and (sys.platform == "win32" or status.st_uid == os.getuid())
