"""Telling a lack of memory from other failures: engines report it in words of their own.

A thread that cannot be started counts too: the memory for its stack is what lacks as a rule.
"""

from __future__ import annotations

import re

from KDSegmentatorLib.errors import InsufficientMemoryError

_SIGNS = re.compile(
    r"bad[ _]alloc|out of memory|failed to allocate|could not allocate|cannot allocate|not enough memory|"
    r"insufficient memory|allocation failed|can't start new thread|resource temporarily unavailable",
    re.IGNORECASE,
)


def is_memory_failure(error: BaseException) -> bool:
    """Return whether something failed for want of memory."""
    return isinstance(error, MemoryError) or _SIGNS.search(str(error)) is not None


def memory_failure(doing: str) -> InsufficientMemoryError:
    """Return the error to raise.

    Args:
        doing: what did not fit, to complete "there is not enough memory ...".
    """
    return InsufficientMemoryError(
        f"there is not enough memory {doing}; close other programs, take a smaller size of the task, or crop the volume"
    )
