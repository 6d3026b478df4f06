"""What to say when a pack cannot be written; the rest is in :mod:`KDSegmentatorLib.io.files`."""

from __future__ import annotations

import errno
from pathlib import Path

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.io.files import is_disk_full

_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_error(path: Path, error: OSError) -> PackError:
    """Return the error to raise when something could not be written at a path."""
    if is_disk_full(error):
        return PackError(f"the disk is full: {path} could not be written; free some space and try again")
    if error.errno in _NOT_ALLOWED:
        return PackError(
            f"{path} cannot be written ({error.strerror}); ask for write permission there, or choose another folder "
            "(for packs with the environment variable KDSEGMENTATOR_PACKS)"
        )
    return PackError(f"{path} could not be written ({error}); check the disk and try again")
