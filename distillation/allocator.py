"""Keep the memory of training for the next step instead of giving it back to the operating system."""

from __future__ import annotations

import ctypes

# of glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Make the C library keep the memory that this process frees; return whether it does.

    A training step frees and takes again the same hundreds of megabytes: logits of 46 classes on a patch are 72 MB, and
    the loss makes a dozen such tensors. glibc maps each anew, and the kernel clears every page of it: a third of a
    step's time for a narrow student of many classes. Other C libraries than glibc stay as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    # no mappings of their own for large blocks, and the heap's end is never given back
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
