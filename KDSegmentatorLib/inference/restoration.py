"""From blended network output to labels on the cropped grid, a few slices at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.inference.head import head_logits
from KDSegmentatorLib.inference.progress import Steps
from KDSegmentatorLib.inference.resampling import Operator, apply_operator
from KDSegmentatorLib.packs.pack import Head

_SLAB_ELEMENTS = 1 << 24


def slabs(shape: tuple[int, int, int], channels: int) -> list[slice]:
    """Return ranges along the first axis that keep a slab of all channels at some 64 MB."""
    rows = max(1, _SLAB_ELEMENTS // (channels * shape[1] * shape[2]))
    return [slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]


def label_map(
    blended: npt.NDArray[np.float32],
    shape: tuple[int, int, int],
    operators: tuple[Operator | None, Operator | None, Operator | None],
    late_head: Head | None,
    steps: Steps,
) -> npt.NDArray[np.uint16]:
    """Resample to the shape before resampling, apply the head, and take the label of the largest logit.

    Memory beyond the input and the result stays at one slab, whatever the number of labels.

    Args:
        blended: features, or logits, (channels, z, y, x) at the network's spacing.
        shape: (z, y, x) of the result.
        operators: one an axis, order 0 or 1 if the head comes late (anything else is not linear because of clipping).
        late_head: turns features into logits; None if ``blended`` holds logits.
        steps: one step for each of :func:`slabs`.

    Returns:
        Label values (z, y, x).
    """
    labels = np.empty(shape, dtype=np.uint16)
    channels = len(blended) if late_head is None else max(len(blended), len(late_head.bias))
    for rows in slabs(shape, channels):
        slab = _resampled_slab(blended, rows, operators, steps)
        if late_head is not None:
            slab = head_logits(late_head, slab)
        labels[rows] = slab.argmax(axis=0)
        steps.advance()
    return labels


def _resampled_slab(
    blended: npt.NDArray[np.float32],
    rows: slice,
    operators: tuple[Operator | None, Operator | None, Operator | None],
    steps: Steps,
) -> npt.NDArray[np.float32]:
    """Return (channels, rows, y, x) of the resampled array."""
    along_z, along_y, along_x = operators
    parts = []
    for channel in blended:
        if along_z is None:
            part = channel[rows]
        else:
            operator = along_z[rows]
            needed = np.flatnonzero(operator.any(axis=0))
            columns = slice(int(needed[0]), int(needed[-1]) + 1)
            part = apply_operator(channel[columns], np.ascontiguousarray(operator[:, columns]), 0, steps.check)
        if along_y is not None:
            part = apply_operator(part, along_y, 1, steps.check)
        if along_x is not None:
            part = apply_operator(part, along_x, 2, steps.check)
        parts.append(part)
    return np.stack(parts)
