from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from KDSegmentatorLib.errors import ImageWriteError
from KDSegmentatorLib.io.files import is_disk_full
from KDSegmentatorLib.jobs import failures
from KDSegmentatorLib.jobs.failures import crash_error, storage_error


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "exit code 1"),
        (-9, "ended by the system, SIGKILL"),
        (-11, "ended by the system, SIGSEGV"),
        (-99, "ended by the system, signal 99"),
        (None, "it did not answer any more"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals have names on Linux and macOS")
def test_a_crash_in_words(code: int | None, words: str) -> None:
    message = str(crash_error(code))
    assert f"({words}); nothing was changed" in message
    assert "take a smaller size" in message


def test_a_crash_on_windows_has_the_code_that_people_search_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures.sys, "platform", "win32")
    assert "exit code 0xC0000005" in str(crash_error(0xC0000005))


def windows_error(number: int) -> OSError:
    error = OSError(errno.EINVAL, "There is not enough space on the disk")
    error.winerror = number  # type: ignore[attr-defined, unused-ignore]
    return error


def test_a_full_disk_is_told_from_other_troubles() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert is_disk_full(full)
    assert is_disk_full(OSError(errno.EFBIG, "File too large"))
    assert is_disk_full(windows_error(112))
    assert not is_disk_full(windows_error(5))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(None)
    try:
        raise ImageWriteError("cannot write") from full
    except ImageWriteError as error:
        assert is_disk_full(error)


def test_troubles_with_the_disk_in_words() -> None:
    assert "the disk is full" in str(storage_error(Path("jobs"), OSError(errno.ENOSPC, "No space left on device")))
    denied = str(storage_error(Path("jobs"), OSError(errno.EACCES, "Permission denied")))
    assert "(Permission denied); check the disk and the permissions" in denied
