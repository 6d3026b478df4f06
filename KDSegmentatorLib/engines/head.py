"""The head: the 1x1x1 convolution that turns features into logits, and what is read off the logits.

It is applied to some thousand voxels at a time, so that the logits of all labels never exist at once: they stay in the
processor's cache, and neither time nor memory grow much with the number of labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.machine.small_products import multiply_columns
from KDSegmentatorLib.packs.pack import Head

_BLOCK_LOGITS = 1 << 19
"""Logits of one block: 2 MB in float32."""

_GROUP = 512
_GROUP_PRODUCTS = 1 << 19
"""Most voxels and multiplications of one matrix product. BLAS libraries start threads of their own for larger ones, and
those get in the way of ours: two threads in each of two products take twice as long as one in each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VoxelMaps:
    """What is known about every voxel of an array (z, y, x).

    Attributes:
        labels: value of the label with the largest logit, uint8 (uint16 from 256 labels on).
        entropy: of the labels' probabilities in bits, float32; None if it was not asked for.
        probabilities: label value to its probability, float32, for those that were asked for.
    """

    labels: npt.NDArray[np.uint8 | np.uint16]
    entropy: npt.NDArray[np.float32] | None = None
    probabilities: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)

    def strip(self, y: slice) -> VoxelMaps:
        """Return the maps of a range of y, as views."""
        return VoxelMaps(
            labels=self.labels[:, y],
            entropy=None if self.entropy is None else self.entropy[:, y],
            probabilities={value: map_[:, y] for value, map_ in self.probabilities.items()},
        )

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """Iterate over the arrays."""
        yield self.labels
        if self.entropy is not None:
            yield self.entropy
        yield from self.probabilities.values()


def background_maps(
    shape: Sequence[int], rows: int, *, entropy: bool = False, probabilities: Sequence[int] = ()
) -> VoxelMaps:
    """Return maps to be filled: background, of which there is no doubt.

    Args:
        shape: (z, y, x).
        rows: number of labels, background included.
        entropy: whether the entropy is wanted.
        probabilities: values of the labels whose probability is wanted.
    """
    return VoxelMaps(
        labels=np.zeros(shape, dtype=np.uint8 if rows <= 256 else np.uint16),
        entropy=np.zeros(shape, dtype=np.float32) if entropy else None,
        probabilities={value: np.zeros(shape, dtype=np.float32) for value in probabilities},
    )


def read_off(head: Head | None, values: npt.NDArray[np.float32], into: VoxelMaps) -> None:
    """Fill maps from features, or from logits.

    Args:
        head: turns features into logits; None if ``values`` are logits.
        values: (features or labels, y, x).
        into: maps of the shape (y, x), overwritten; they may be views with any strides.
    """
    rows = len(values) if head is None else len(head.bias)
    height, width = values.shape[1:]
    lines = max(1, _BLOCK_LOGITS // (rows * width))
    for start in range(0, height, lines):
        part = slice(start, min(start + lines, height))
        block = values[:, part]
        shape = block.shape[1:]
        logits = _logits(head, block.reshape(len(values), -1))
        best = logits.max(axis=1, keepdims=True)
        into.labels[part] = _in_order(_first_equal(logits, best), shape)
        if into.entropy is None and not into.probabilities:
            continue
        logits -= best
        exponentials = np.exp(logits)
        total = exponentials.sum(axis=1)
        for value, probability in into.probabilities.items():
            probability[part] = _in_order(exponentials[:, value] / total, shape)
        if into.entropy is not None:  # H = log(sum e^l) - sum(l e^l) / sum(e^l), with 0 for the largest l
            logits *= exponentials
            nats = np.log(total) - logits.sum(axis=1) / total
            into.entropy[part] = _in_order(np.maximum(nats, 0) / np.float32(np.log(2)), shape)


def label_values(head: Head, features: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return the labels (z, y, x) of features (features, z, y, x)."""
    maps = background_maps(features.shape[1:], len(head.bias))
    for z, labels in enumerate(maps.labels):
        read_off(head, features[:, z], VoxelMaps(labels=labels))
    return maps.labels


def head_logits(
    head: Head, features: npt.NDArray[np.float32], executor: Executor | None = None
) -> npt.NDArray[np.float32]:
    """Return logits (labels, z, y, x) for features (features, z, y, x); labels include the background.

    Args:
        head: turns features into logits.
        features: of any number of voxels.
        executor: computes planes at a time; None for the thread that asks.

    Raises:
        ValueError: the number of features is not the head's.
    """
    if len(features) != head.weight.shape[1]:
        raise ValueError(f"the head takes {head.weight.shape[1]} features, got {len(features)}")
    planes = features.reshape(*features.shape[:2], -1)
    logits = np.empty((len(head.bias), *planes.shape[1:]), dtype=np.float32)

    def plane(z: int) -> None:
        multiply_columns(head.weight, planes[None, :, z], logits[None, :, z])
        logits[:, z] += head.bias[:, None]

    for _ in (map if executor is None else executor.map)(plane, range(planes.shape[1])):
        pass
    return logits.reshape(len(head.bias), *features.shape[1:])


def _logits(head: Head | None, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return logits (groups, labels, voxels of a group); the caller may change them. The last group may be longer.

    Args:
        head: turns features into logits; None if ``values`` are logits.
        values: (features or labels, voxels).
    """
    features, voxels = values.shape
    if head is None:
        return np.array(values[None])
    weight = np.column_stack([head.weight, head.bias])
    group = max(1, min(_GROUP, voxels, _GROUP_PRODUCTS // weight.size))
    with_one = np.zeros((features + 1, -(-voxels // group) * group), dtype=np.float32)
    with_one[:-1, :voxels] = values
    with_one[-1] = 1  # the bias is the weight of a feature that is always 1
    logits: npt.NDArray[np.float32] = weight @ with_one.reshape(features + 1, -1, group).transpose(1, 0, 2)
    return logits


def _in_order(grouped: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return (groups, voxels of a group) as (y, x), without what the last group has too much."""
    ordered: npt.NDArray[Any] = grouped.reshape(-1)[: math.prod(shape)].reshape(shape)
    return ordered


def _first_equal(logits: npt.NDArray[np.float32], best: npt.NDArray[np.float32]) -> npt.NDArray[np.unsignedinteger]:
    """Return the first label whose logit is the best one, (groups, voxels).

    ``argmax`` along an axis that is not the last takes four times as long as ``max``: so the labels are ranked from
    the last to the first, and the highest rank of those that reach the best logit is taken.

    Args:
        logits: (groups, labels, voxels).
        best: (groups, 1, voxels), their maximum.
    """
    rows = logits.shape[1]
    kind = np.uint8 if rows < 256 else np.uint16
    ranks = np.arange(rows, 0, -1, dtype=kind)[:, None]
    reached = np.multiply(logits == best, ranks, dtype=kind)
    found: npt.NDArray[np.unsignedinteger] = (rows - reached.max(axis=1)).astype(kind)
    return found
