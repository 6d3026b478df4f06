"""Running the network over all windows and blending what it gives.

What is blended are the features that enter the network's last layer, the head, or its logits: the head is a 1x1x1
convolution, blending is linear, so both give the same logits, and the smaller of the two arrays is kept.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.errors import EngineError
from KDSegmentatorLib.inference.head import head_logits
from KDSegmentatorLib.inference.progress import Steps
from KDSegmentatorLib.inference.windows import gaussian_weights, padding
from KDSegmentatorLib.packs.pack import Head


def mirrored_axes(mirroring_axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return all subsets of the axes, the empty one first: the ways to mirror a window."""
    return [axes for count in range(len(mirroring_axes) + 1) for axes in combinations(mirroring_axes, count)]


def blended_windows(
    image: npt.NDArray[np.float32],
    engine: Engine,
    *,
    patch_size: tuple[int, int, int],
    starts: list[tuple[int, int, int]],
    mirrorings: list[tuple[int, ...]],
    features: int,
    early_head: Head | None,
    steps: Steps,
) -> npt.NDArray[np.float32]:
    """Return the Gaussian-weighted mean of the network's output over the windows.

    Args:
        image: (z, y, x), normalised and resampled; padded here where it is smaller than a window.
        engine: runs the network's body.
        patch_size: (z, y, x) of a window.
        starts: windows on the padded image.
        mirrorings: axes to mirror, one entry a network call; the results are averaged.
        features: channels that the network's body gives.
        early_head: the head, if logits are to be blended; None to blend features.
        steps: one step a network call.

    Returns:
        (features or logits, z, y, x) of the image's own shape, float32.

    Raises:
        CancelledError: the work was cancelled.
        EngineError: the engine failed or gave another shape, or numbers that are not finite.
    """
    pads = padding(image.shape, patch_size)
    padded = np.pad(image, pads) if any(low + high for low, high in pads) else image
    channels = features if early_head is None else len(early_head.bias)
    weights = gaussian_weights(patch_size)
    blended = np.zeros((channels, *padded.shape), dtype=np.float32)
    total_weight = np.zeros(padded.shape, dtype=np.float32)
    for start in starts:
        z, y, x = (slice(first, first + length) for first, length in zip(start, patch_size, strict=True))
        output = _mean_over_mirrorings(engine, padded[z, y, x], mirrorings, steps)
        if output.shape != (features, *patch_size):
            raise EngineError(
                f"the network gave an output of shape {output.shape} for a window, the pack's manifest promises "
                f"{(features, *patch_size)}; the pack is damaged, install it again"
            )
        if early_head is not None:
            output = head_logits(early_head, output)
        output *= weights
        blended[:, z, y, x] += output
        total_weight[z, y, x] += weights
    for plane in range(len(total_weight)):
        steps.check()
        blended[:, plane] /= total_weight[plane]
    z, y, x = (slice(low, low + length) for (low, _), length in zip(pads, image.shape, strict=True))
    return blended[:, z, y, x]


def _mean_over_mirrorings(
    engine: Engine, window: npt.NDArray[np.float32], mirrorings: list[tuple[int, ...]], steps: Steps
) -> npt.NDArray[np.float32]:
    """Return the features of one window (z, y, x), averaged over its mirrored copies."""
    total: npt.NDArray[np.float32] | None = None
    for axes in mirrorings:
        batch = np.ascontiguousarray(np.flip(window, axes)[None, None])
        features = engine.run(batch, steps.cancelled)[0]
        if not np.isfinite(features).all():
            raise EngineError(
                f"the engine {engine.name} ({engine.precision}) gave numbers that are not finite; take another engine "
                "or precision, and check the pack with 'kdseg packs verify'"
            )
        features = np.flip(features, tuple(axis + 1 for axis in axes))
        total = features.copy() if total is None else total + features
        steps.advance()
    assert total is not None  # noqa: S101 - there is always the window that is not mirrored
    return total / np.float32(len(mirrorings)) if len(mirrorings) > 1 else total
