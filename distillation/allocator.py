"""Keep the memory of training for the next step instead of giving it back to the operating system."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# of glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_DEFAULTS = {_M_MMAP_MAX: 65_536, _M_TRIM_THRESHOLD: 128 * 1024}


@contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, the C library keeps the memory that this process frees; at the end all of it goes back.

    A training step frees and takes again the same hundreds of megabytes: logits of 46 classes on a patch are 72 MB, and
    the loss makes a dozen such tensors. glibc maps each anew, and the kernel clears every page of it, which a narrow
    student of many classes feels most. Other C libraries than glibc stay as they are.
    """
    library = _glibc()
    if library is None:
        yield
        return
    # no mappings of their own for large blocks, and the heap's end is never given back
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        for parameter, value in _DEFAULTS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def _glibc() -> Any:
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return None
