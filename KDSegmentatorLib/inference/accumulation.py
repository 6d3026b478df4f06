"""Running the network over all windows and blending what it gives, in a slab that rolls along the first axis.

What is blended are the features that enter the network's last layer, the head, or its logits: the head is a 1x1x1
convolution, blending is linear, so both give the same logits, and the smaller of the two arrays is kept. Rows that no
later window touches are handed on and forgotten, so that no array of the whole volume is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import groupby

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.head import head_logits
from KDSegmentatorLib.errors import EngineError
from KDSegmentatorLib.inference.progress import Steps
from KDSegmentatorLib.inference.windows import gaussian_weights, padding, windows_reaching
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.pack import Head

Array = npt.NDArray[np.float32]


def head_comes_early(manifest: Manifest) -> bool:
    """Return whether to apply the head to every window instead of once at the end.

    Both give the same logits as long as restoring is linear. Splines above order 1 are clipped, which is not linear,
    so that the logits themselves have to be resampled.
    """
    resampling = manifest.preprocessing.logits_resampling
    return _rows(manifest) <= manifest.network.features or max(resampling.order, resampling.order_z) > 1


def blended_channels(manifest: Manifest) -> int:
    """Return how many channels are blended and restored: logits if the head comes early, else features."""
    return _rows(manifest) if head_comes_early(manifest) else manifest.network.features


def _rows(manifest: Manifest) -> int:
    return len(manifest.labels) + 1  # the background has one


def blended_slabs(
    image: Array,
    engine: Engine,
    *,
    patch_size: tuple[int, int, int],
    starts: list[tuple[int, int, int]],
    mirrorings: list[tuple[int, ...]],
    features: int,
    early_head: Head | None,
    steps: Steps,
    threads: int = 1,
    strip: slice | None = None,
) -> Iterator[Array]:
    """Yield the Gaussian-weighted mean of the network's output over the windows, slab by slab.

    Args:
        image: (z, y, x), normalised and resampled; padded here where it is smaller than a window.
        engine: runs the network's body.
        patch_size: (z, y, x) of a window.
        starts: windows on the padded image, sorted by their first axis.
        mirrorings: axes to mirror, one entry a network call; the results are averaged.
        features: channels that the network's body gives.
        early_head: the head, if logits are to be blended; None to blend features.
        steps: one step a network call.
        threads: how many planes go through an early head, and channels are blended, at a time.
        strip: range of the image's y to blend, from the windows that reach into it; None for all.

    Yields:
        (features or logits, rows, y, x) of the image's own y (or the strip's) and x, float32: one slab after the other
        along z, all rows of the image. The next slab takes the place of the last one in memory.

    Raises:
        CancelledError: the work was cancelled.
        EngineError: the engine failed or gave another shape, or numbers that are not finite.
    """
    pads = padding(image.shape, patch_size)
    padded = np.pad(image, pads) if any(low + high for low, high in pads) else image
    rows, y, x = (slice(low, low + length) for (low, _), length in zip(pads, image.shape, strict=True))
    channels = features if early_head is None else len(early_head.bias)
    if strip is not None:
        y = slice(y.start + strip.start, y.start + strip.stop)
    # without a strip the slab is as wide as the padded image, which all windows reach into
    wide = slice(0, padded.shape[1]) if strip is None else y
    reaching = windows_reaching(starts, image.shape, patch_size, strip)
    groups = [list(group) for _, group in groupby(reaching, key=lambda start: start[0])]
    with ThreadPoolExecutor(max_workers=threads) as executor:
        network = _Network(engine, features, early_head, mirrorings, patch_size, steps, executor)
        if len(starts) == 1:
            yield network(padded)[:, rows, y, x]
            return
        slab = _Slab(channels, patch_size, wide, padded.shape[2], executor)
        for number, group in enumerate(groups):
            first = group[0][0]
            for start in group:
                z, *plane = (slice(at, at + length) for at, length in zip(start, patch_size, strict=True))
                slab.add(network(padded[z, plane[0], plane[1]]), plane[0], plane[1])
            after = groups[number + 1][0][0] if number + 1 < len(groups) else first + patch_size[0]
            steps.check()
            mean = slab.mean(after - first)
            inside = slice(y.start - wide.start, y.stop - wide.start)
            yield mean[:, max(rows.start - first, 0) : rows.stop - first, inside, x]
            slab.roll(after - first)


class _Slab:
    """Weighted sums of as many rows as a window has, one channel a thread.

    Args:
        channels: of the network's output.
        patch_size: (z, y, x) of a window.
        wide: range of the padded image's y.
        width: of the padded image along x.
        executor: computes the channels.
    """

    def __init__(
        self, channels: int, patch_size: tuple[int, int, int], wide: slice, width: int, executor: Executor
    ) -> None:
        self._first, plane = wide.start, (wide.stop - wide.start, width)
        self._weights = gaussian_weights(patch_size)
        self._sums = np.zeros((channels, patch_size[0], *plane), dtype=np.float32)
        self._total = np.zeros((patch_size[0], *plane), dtype=np.float32)
        self._executor = executor

    def add(self, output: Array, y: slice, x: slice) -> None:
        """Add a window (channels, z, y, x) that starts with the slab's first row, as far as it reaches into the slab.

        Args:
            output: of the network.
            y: of the window in the padded image.
            x: of the window in the padded image.
        """
        low, high = max(y.start - self._first, 0), min(y.stop - self._first, self._total.shape[1])
        part = slice(low + self._first - y.start, high + self._first - y.start)
        y = slice(low, high)

        def add(channel: int) -> None:
            planes = zip(self._sums[channel, :, y, x], output[channel, :, part], self._weights[:, part], strict=True)
            for plane, values, weights in planes:  # plane by plane, which stay in the processor's cache
                plane += values * weights

        self._each_channel(add)
        self._total[:, y, x] += self._weights[:, part]

    def mean(self, rows: int) -> Array:
        """Return the first rows, (channels, rows, y, x), divided by their weights in place."""

        def divide(channel: int) -> None:
            for plane, weights in zip(self._sums[channel, :rows], self._total[:rows], strict=True):
                plane /= weights

        self._each_channel(divide)
        return self._sums[:, :rows]

    def roll(self, rows: int) -> None:
        """Forget the first rows, and make room for as many after the last."""

        def roll(sums: Array) -> None:
            kept = len(sums) - rows
            sums[:kept] = sums[rows:]
            sums[kept:] = 0

        self._each_channel(lambda channel: roll(self._sums[channel]))
        roll(self._total)

    def _each_channel(self, work: Callable[[int], None]) -> None:
        for _ in self._executor.map(work, range(len(self._sums))):
            pass


class _Network:
    """The network on one window, averaged over its mirrored copies.

    Windows of one value, as the air of a CT after clipping, are all alike, so that the network sees them once.
    """

    def __init__(
        self,
        engine: Engine,
        features: int,
        early_head: Head | None,
        mirrorings: list[tuple[int, ...]],
        patch_size: tuple[int, int, int],
        steps: Steps,
        executor: Executor,
    ) -> None:
        self._engine = engine
        self._shape = (features, *patch_size)
        self._early_head = early_head
        self._mirrorings = mirrorings
        self._steps = steps
        self._executor = executor
        self._constant: tuple[float, Array] | None = None

    def __call__(self, window: Array) -> Array:
        """Return features or logits (channels, z, y, x) of a window (z, y, x); the next call may overwrite them."""
        value = window[0, 0, 0]
        constant = bool((window == value).all())
        if constant and self._constant is not None and self._constant[0] == value:
            self._steps.skip(len(self._mirrorings))
            return self._constant[1]
        output = self._mean(window)
        if self._early_head is not None:
            output = head_logits(self._early_head, output, self._executor)
        if constant:
            self._constant = (float(value), output.copy())
        return output

    def _mean(self, window: Array) -> Array:
        total: Array | None = None
        for axes in self._mirrorings:
            batch = np.ascontiguousarray(np.flip(window, axes)[None, None])
            features = self._engine.run(batch, self._steps.cancelled)[0]
            if features.shape != self._shape:
                raise EngineError(
                    f"the network gave an output of shape {features.shape} for a window, the pack's manifest promises "
                    f"{self._shape}; the pack is damaged, install it again"
                )
            with np.errstate(invalid="ignore"):  # infinities of both signs: the error below says it
                finite = all(np.isfinite(channel.sum()) for channel in features)
            if not finite:
                raise EngineError(
                    f"the engine {self._engine.name} ({self._engine.precision}) gave numbers that are not finite; take "
                    "another engine or precision, and check the pack with 'kdseg packs verify'"
                )
            features = np.flip(features, tuple(axis + 1 for axis in axes))
            if len(self._mirrorings) == 1:
                total = features
            elif total is None:
                total = features.copy()
            else:
                total += features
            self._steps.advance()
        assert total is not None  # noqa: S101 - there is always the window that is not mirrored
        return total / np.float32(len(self._mirrorings)) if len(self._mirrorings) > 1 else total
