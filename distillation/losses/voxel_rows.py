"""Logits as rows of voxels, a few at a time, for losses that look at every voxel by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from distillation.losses.term import full_precision

CHUNK_VALUES = 1 << 18
"""Values, voxels times classes, that are handled at once: they stay in a CPU's cache. No loss depends on it."""

_TIMES_ELSEWHERE = 64  # a GPU has no use for that cache, but would wait for the start of thousands of kernels

_VECTOR = 16
"""Classes from which torch's softmax over a contiguous row is faster than one across (float32 lanes of AVX-512)."""


def as_rows(patch: torch.Tensor) -> torch.Tensor:
    """Return one patch (classes, z, y, x) as (voxels, classes), voxels in C order; a view of either memory layout.

    Where channels lie last in memory, as a CPU's fast convolutions leave them, a row is contiguous, and a softmax over
    it several times as fast as one that strides through the whole patch for every voxel.
    """
    return patch.flatten(1).t()


def chunks(rows: torch.Tensor) -> Iterator[slice]:
    """Yield slices that cover rows (voxels, classes)."""
    voxels, classes = rows.shape
    values = CHUNK_VALUES if rows.device.type == "cpu" else _TIMES_ELSEWHERE * CHUNK_VALUES
    step = max(1, values // classes)
    for start in range(0, voxels, step):
        yield slice(start, start + step)


def log_softmax(rows: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return log-probabilities of rows of logits / temperature, in float32 whatever they come in (float64 stays)."""
    wide = full_precision(rows)
    if temperature != 1:
        wide = wide / temperature
    if rows.shape[1] < _VECTOR:
        return torch.log_softmax(wide.t().contiguous(), dim=0).t()
    return torch.log_softmax(wide.contiguous(), dim=1)


def empty_gradient(logits: torch.Tensor) -> torch.Tensor:
    """Return memory for the gradient of logits (batch, classes, z, y, x) that :func:`as_rows` can write to.

    Channels lie last where the logits' do, so that nobody has to turn it round.
    """
    last = logits.is_contiguous(memory_format=torch.channels_last_3d)
    layout = torch.channels_last_3d if last else torch.contiguous_format
    return torch.empty_like(logits, memory_format=layout)
