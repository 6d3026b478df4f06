from __future__ import annotations

import numpy as np
import pytest

from KDSegmentatorLib.engines.memory_failure import is_memory_failure, memory_failure


@pytest.mark.parametrize(
    "message",
    [
        "std::bad_alloc",
        "bad allocation",
        "[CPU] could not allocate the memory for a primitive: out of memory",
        "Failed to allocate memory for requested buffer of size 4194304",
        "CUDA error: Out Of Memory",
        "BFCArena: Available memory is smaller than requested; memory allocation failed",
        "clEnqueue: not enough memory",
        "insufficient memory for the operation",
        "can't start new thread",
        "Resource temporarily unavailable",
    ],
)
def test_the_engines_ways_to_say_it(message: str) -> None:
    assert is_memory_failure(RuntimeError(message))


def test_python_and_numpy_say_it_with_a_type() -> None:
    assert is_memory_failure(MemoryError())
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 60, dtype=np.uint8)
    assert is_memory_failure(caught.value)


@pytest.mark.parametrize("message", ["", "Invalid input shape", "node Conv_3 is not implemented", "allocator created"])
def test_other_failures(message: str) -> None:
    assert not is_memory_failure(RuntimeError(message))


def test_the_message_says_what_did_not_fit_and_what_to_do() -> None:
    assert str(memory_failure("for a window of (8, 8, 8) voxels")) == (
        "there is not enough memory for a window of (8, 8, 8) voxels; close other programs, take a smaller size of the "
        "task, or crop the volume"
    )
