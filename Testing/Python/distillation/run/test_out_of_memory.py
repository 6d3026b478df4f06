from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.run.out_of_memory import explaining_memory  # noqa: E402
from distillation.run.steps import Step  # noqa: E402
from KDSegmentatorLib.errors import InsufficientMemoryError  # noqa: E402


def step(work: Callable[[], None]) -> Step:
    return Step(
        stage="students", name="student x1/4 logit", inputs=dict, outputs=list, work=work, trained=lambda: Path()
    )


def more_than_there_is() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def of_a_gpu() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def of_windows() -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate")


def of_python() -> None:
    raise MemoryError


@pytest.mark.parametrize("work", [more_than_there_is, of_a_gpu, of_windows, of_python])
def test_memory_that_runs_out_is_said_in_words(work: Callable[[], None]) -> None:
    with pytest.raises(InsufficientMemoryError, match=r"student x1/4 logit ran out of memory .*gradient_checkpointing"):
        explaining_memory(step(work)).work()
    evaluation = replace(step(work), stage="evaluate", name="evaluate", trained=None)
    with pytest.raises(InsufficientMemoryError, match=r"^evaluate ran out of memory .*; close other programs, or"):
        explaining_memory(evaluation).work()


def test_other_errors_stay_what_they_are() -> None:
    def broken() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        explaining_memory(step(broken)).work()
