from __future__ import annotations

import errno
from pathlib import Path

from KDSegmentatorLib.packs.files import write_error


def test_every_write_error_has_a_remedy(tmp_path: Path) -> None:
    assert "the disk is full" in str(write_error(tmp_path, OSError(errno.ENOSPC, "x")))
    windows = OSError(errno.EINVAL, "x")
    windows.winerror = 112  # type: ignore[attr-defined, unused-ignore]
    assert "the disk is full" in str(write_error(tmp_path, windows))
    for number in (errno.EACCES, errno.EROFS):
        assert "KDSEGMENTATOR_PACKS" in str(write_error(tmp_path, OSError(number, "x")))
    assert "check the disk" in str(write_error(tmp_path, OSError(errno.EIO, "x")))
