"""One process at a time: a lock that the operating system releases when its holder ends, however it ends."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from KDSegmentatorLib.errors import LockedError

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of a file while the block runs; threads exclude each other as well.

    Args:
        path: the lock's file; made if needed. That it exists means nothing: after a kill that would have to be guessed.
        seconds: how long to wait for another holder.

    Raises:
        LockedError: another process held the lock all the time, or the file system has no locks.
        OSError: the file cannot be opened.
    """
    from filelock import FileLock, Timeout  # not every command locks something

    path.touch()  # or the lock would make missing folders, too
    lock = FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except Timeout:
        raise LockedError(
            f"another process is at work in {path.parent} since {seconds:g} s; wait for it to end and try again"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _WITHOUT_LOCKS:
            raise
        raise LockedError(f"{path.parent} is on a file system without locks; choose another folder") from error
    try:
        yield
    finally:
        lock.release()
