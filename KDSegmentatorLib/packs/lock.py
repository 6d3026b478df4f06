"""One process at a time: a lock that the operating system releases when its holder ends, however it ends.

A lock file that means "locked" by its existence would have to be declared stale after a kill, by guessing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from KDSegmentatorLib.errors import PackError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_POLL_SECONDS = 0.05
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


@contextlib.contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of a file while the block runs; threads exclude each other as well.

    Args:
        path: the lock's file; made if needed, never deleted (deleting it would let two holders lock two files).
        seconds: how long to wait for another holder.

    Raises:
        PackError: another process held the lock all the time, or the file system has no locks.
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + seconds
        while not _try_lock(descriptor, path):
            if time.monotonic() >= deadline:
                raise PackError(
                    f"another process is changing the packs in {path.parent} since {seconds:g} s; wait for it to end "
                    "and try again"
                )
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            _unlock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise PackError(
            f"{path.parent} is on a file system without locks ({error.strerror}); choose another folder with the "
            "environment variable KDSEGMENTATOR_PACKS"
        ) from error
    return True


def _unlock(descriptor: int) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
