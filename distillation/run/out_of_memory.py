"""Steps that run out of memory say so in words, with what helps."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from KDSegmentatorLib.errors import InsufficientMemoryError

if TYPE_CHECKING:
    from distillation.run.steps import Step

# torch on Linux and macOS, on Windows, and of CUDA
_MESSAGES = re.compile(r"can't allocate memory|not enough memory|out of memory|bad allocation|bad_alloc", re.IGNORECASE)


def explaining_memory(step: Step) -> Step:
    """Return a step whose work raises InsufficientMemoryError when torch, CUDA or Python get no more memory."""

    def work() -> None:
        try:
            step.work()
        except (MemoryError, RuntimeError) as error:  # torch raises RuntimeErrors, its OutOfMemoryError among them
            if not isinstance(error, MemoryError) and not _MESSAGES.search(str(error)):
                raise
            remedy = "close other programs, or go on on a larger machine"
            if step.trained is not None:
                remedy = (
                    "close other programs, set gradient_checkpointing: true or a smaller batch_size in the recipe's "
                    "training, or a smaller memory_target_gb in its dataset"
                )
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InsufficientMemoryError(f"{step.name} ran out of memory ({first}); {remedy}") from error

    return replace(step, work=work)
