"""A job's folder: made for one owner, removed at its end, with volumes in it as plain arrays.

Beside a folder ``.kdseg-job-5d0e...`` lies a file of the same name with ``.lock``, which the owner keeps locked. The
operating system unlocks it when the owner ends, however that comes about: what is not locked is nobody's, and is
removed when the next folder is made.

A volume is a small JSON file with its place and, beside it, its voxels in numpy's own format: exact, at the speed of
the disk, in every numeric type. The voxels are written and read in one piece, outside of Python's lock: 3D Slicer keeps
that lock while it waits for its user, so that a thread of ours gets on only now and then.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.errors import JobError, LockedError
from KDSegmentatorLib.io.files import delete_tree, is_disk_full, new_name
from KDSegmentatorLib.io.lock import locked

if TYPE_CHECKING:
    import numpy.typing as npt

PREFIX = ".kdseg-job-"
_LOCK_SUFFIX = ".lock"

_SAFE_LENGTH = 200
"""Temporary names beside a file are longer than its own."""

_LONG_PREFIX = "\\\\?\\"
_ARRAY_VERSION = (1, 0)


def long_path(path: Path) -> Path:
    r"""Return a path that Windows opens also if it has more than 259 characters (``\\?\``); elsewhere the path."""
    if sys.platform != "win32" or len(str(path)) < _SAFE_LENGTH or str(path).startswith(_LONG_PREFIX):
        return path
    absolute = os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links and mapped drives
    return Path(_LONG_PREFIX + "UNC" + absolute[1:] if absolute.startswith("\\\\") else _LONG_PREFIX + absolute)


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


def storage_error(folder: Path, error: OSError) -> JobError:
    """Return the error to raise when the files of a job cannot be written or read.

    Args:
        folder: where they are.
        error: what the system said.
    """
    if is_disk_full(error):
        return JobError(
            f"the disk is full: the files of the segmentation do not fit into {folder}; free some space, or choose "
            "another folder for temporary files"
        )
    return JobError(
        f"the files of the segmentation in {folder} cannot be written or read ({error.strerror or error}); check the "
        "disk and the permissions, or choose another folder for temporary files"
    )


def write_array(array: npt.NDArray[Any], path: Path) -> None:
    """Write an array in numpy's format, in this computer's byte order.

    Raises:
        JobError: the disk is full, or the file cannot be written; nothing was left behind.
    """
    import numpy as np

    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    try:
        with path.open("wb", buffering=0) as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            _write_all(file, array)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise storage_error(path.parent, error) from error


def read_array(path: Path) -> npt.NDArray[Any]:
    """Return the array in a file of :func:`write_array`.

    Raises:
        JobError: the file is missing, truncated or damaged.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return _read_all(file)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> JobError:
    """Return the error to raise when a file that the other process wrote cannot be used."""
    return JobError(
        f"{path} is not complete ({error}); start the segmentation again, and check the disk if it happens once more"
    )


def _write_all(file: FileIO, array: npt.NDArray[Any]) -> None:
    import numpy as np

    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        rest = rest[file.write(rest) :]


def _read_all(file: FileIO) -> npt.NDArray[Any]:
    import numpy as np

    if np.lib.format.read_magic(file) != _ARRAY_VERSION:
        raise ValueError("another version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if dtype.hasobject or np.prod(shape, dtype=np.float64) * dtype.itemsize > left:
        raise ValueError(f"{left:,} bytes are left for {shape} numbers of type {dtype}")
    array: npt.NDArray[Any] = np.empty(shape, dtype)
    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        count = file.readinto(rest)
        if not count:
            raise ValueError("the file ends too early")
        rest = rest[count:]
    return array


def _made(parent: Path, lock: contextlib.ExitStack) -> Path:
    """Return a new folder whose lock is held."""
    while True:
        folder = parent / new_name(PREFIX)
        path = _lock_path(folder)
        # A file system without locks will do: what is left behind there stays until somebody removes it by hand.
        with contextlib.suppress(LockedError):
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
    with contextlib.suppress(LockedError, OSError):  # somebody's, or a file system without locks
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
