"""Which number format training should run in on this machine."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch.nn import functional

from distillation.settings import Precision

_WORTHWHILE_SPEED_UP = 1.2


def training_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the autocast type for a precision setting.

    ``auto`` means bfloat16 on a GPU that has it, on a CPU where it is faster, and float32 elsewhere. Without native
    instructions
    (avx512_bf16, AMX) bfloat16 convolutions are emulated and over a hundred times slower, and no public torch call
    tells the two kinds of machine apart on every operating system, so that the speed itself is measured.
    """
    if precision == "float32":
        return torch.float32
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    if device.type == "cpu" and _bfloat16_speed_up() >= _WORTHWHILE_SPEED_UP:
        return torch.bfloat16
    return torch.float32


@cache
def _bfloat16_speed_up() -> float:
    """Return how many times faster than in float32 a small 3-D convolution runs in bfloat16."""
    image = torch.ones(1, 16, 16, 16, 16)
    kernel = torch.ones(16, 16, 3, 3, 3)
    return _best_seconds(image, kernel) / _best_seconds(image.bfloat16(), kernel.bfloat16())


def _best_seconds(image: torch.Tensor, kernel: torch.Tensor, repeats: int = 3) -> float:
    image = image.to(memory_format=torch.channels_last_3d)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            functional.conv3d(image, kernel, padding=1)
            best = min(best, time.perf_counter() - start)
    return best
