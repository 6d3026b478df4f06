"""Torch on this machine: number format, memory layout, allocator, and less memory for more time."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from distillation.training_settings import Precision

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


_VECTOR = 16
"""Channels from which torch's statistics over channels-last memory are the faster ones (float32 lanes of AVX-512)."""


def keep_channels_last(network: nn.Module) -> None:
    """Make a network's instance normalisation keep the layout ``channels_last_3d``; weights and their names stay.

    torch's own copies every image to channels first, so that each convolution after it turns it round again: 40 % of a
    training step of a nnU-Net on a CPU. The statistics of an instance are those of a batch of one, which torch does
    take in either layout.

    Args:
        network: its ``InstanceNorm3d`` are changed, except narrow ones and those with running statistics.
    """
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d) and not module.track_running_stats and module.num_features >= _VECTOR:
            part: Any = module
            part.forward = _one_by_one(module)


def _one_by_one(norm: nn.InstanceNorm3d) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(values: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [
                functional.batch_norm(one, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
                for one in values.split(1)
            ]
        )

    return run


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


def checkpoint_stages(network: nn.Module) -> None:
    """Make every stage of a U-Net's encoder and decoder keep its inputs only; weights and their names stay.

    Gradients are the same. Stages hold no random operation (dropout is not on the list of allowed ones), so that no
    state of a random number generator has to be kept.

    Args:
        network: a U-Net of dynamic_network_architectures.
    """
    parts: Any = network
    for stage in (*parts.encoder.stages, *parts.decoder.stages):
        stage.forward = _recomputing(stage.forward)


def _recomputing(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(values: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return forward(values)
        output: torch.Tensor = checkpoint(forward, values, use_reentrant=False, preserve_rng_state=False)
        return output

    return run
