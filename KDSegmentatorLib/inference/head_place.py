"""Where the head is applied: to every window, or once at the end. The smaller array is blended."""

from __future__ import annotations

from KDSegmentatorLib.packs.manifest import Manifest


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
