"""What went wrong with a job, in words for its user."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from KDSegmentatorLib import errors
from KDSegmentatorLib.errors import JobError, KDSegmentatorError
from KDSegmentatorLib.io.files import is_disk_full

_MEMORY_HINT = (
    "Most often the computer's memory is too small for it: close other programs, take a smaller size of the task, or "
    "crop the volume"
)


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


def worker_error(kind: str, message: str) -> KDSegmentatorError:
    """Return a worker's error as the exception that it was.

    Args:
        kind: name of its class.
        message: its message.
    """
    cls = getattr(errors, kind, None)
    if isinstance(cls, type) and issubclass(cls, KDSegmentatorError):
        return cls(message)
    return JobError(message)


def crash_error(exit_code: int | None) -> JobError:
    """Return the error to raise when a worker ended without a result.

    Args:
        exit_code: of the process, as in ``subprocess.Popen.returncode``; None if it had to be ended.
    """
    return JobError(
        f"the process of the segmentation stopped before it was done ({_exit_text(exit_code)}); nothing was changed. "
        f"{_MEMORY_HINT}"
    )


def _exit_text(exit_code: int | None) -> str:
    if exit_code is None:
        return "it did not answer any more"
    if exit_code < 0:
        try:
            return f"ended by the system, {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"ended by the system, signal {-exit_code}"
    if sys.platform == "win32" and exit_code > 0xFFFF:
        return f"exit code 0x{exit_code:08X}"
    return f"exit code {exit_code}"
