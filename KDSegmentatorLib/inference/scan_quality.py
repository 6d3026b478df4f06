"""What spoils the normalisation of a scan by its own mean and standard deviation: spikes, and noise round the body.

Measured in docs/result-checks.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.geometry import Volume, nonzero_box, slabs
from KDSegmentatorLib.inference.segmentation import ResultWarning
from KDSegmentatorLib.packs.manifest import Manifest

# Spikes lie so many times farther from the median than these percentiles, and widen the standard deviation so often
SPIKE_PERCENTILES, TIMES_SPIKE, SPIKE_SPREAD = (0.1, 99.9), 3.0, 1.1
# What is brighter than this share of the 99th percentile, in so many voxels of a layer, is body; its box fills so much
BODY_BRIGHTNESS, BODY_PROFILE, LEAST_BODY = 0.15, 0.01, 0.25

_SAMPLE = 1_000_000
_SAMPLING = 1.5
"""What is no spike by the percentiles of a sample divided by this is none by those of all voxels."""


def without_spikes(
    volume: Volume, manifest: Manifest, stop: Callable[[], None] = lambda: None
) -> tuple[Volume, tuple[ResultWarning, ...]]:
    """Return a scan with its spikes clipped to what nearly all other voxels lie between, and a warning that says so.

    A scan without spikes is returned as it is: nothing is clipped that the pack's training would not have seen.

    Args:
        volume: the scan, or what the network may see of it, without NaN.
        manifest: of the pack; one that clips by fixed numbers itself, for CT, needs nothing.
        stop: called now and then; may raise to stop.
    """
    normalization = manifest.preprocessing.normalization
    image = volume.voxels[nonzero_box(volume.voxels)]
    if normalization.scheme != "ZScore" or not _may_have_spikes(image, normalization.use_mask, stop):
        return volume, ()
    stop()
    counted = image != 0 if normalization.use_mask else np.ones(image.shape, bool)
    kept = image[counted]
    low, middle, high, far = _usual(kept)
    before = float(kept.std(dtype=np.float64))
    stop()
    spikes = np.abs(kept - middle) > far
    extremes = kept[spikes].astype(np.float64)
    kept = kept.astype(np.result_type(kept.dtype, np.float32))
    np.clip(kept, low, high, out=kept, where=spikes)
    stop()
    if before <= SPIKE_SPREAD * float(kept.std(dtype=np.float64)):
        return volume, ()
    voxels = volume.voxels.astype(kept.dtype)
    voxels[nonzero_box(volume.voxels)][counted] = kept
    furthest = extremes[np.abs(extremes - middle).argmax()]
    sentence = (
        f"{extremes.size:,} voxels are spikes (up to {furthest:g}; nearly all others lie between {low:g} and "
        f"{high:g}). They were clipped to that range: beside them the contrast of all else would be lost. Check the "
        "result, and what made them."
    )
    return volume.with_voxels(voxels), (ResultWarning(kind="spikes", pack_id=manifest.id, sentence=sentence),)


def noise_warnings(
    volume: Volume, manifest: Manifest, stop: Callable[[], None] = lambda: None
) -> tuple[ResultWarning, ...]:
    """Return a warning if much of a scan is neither body nor 0 but noise, which shifts mean and standard deviation.

    Args:
        volume: the scan, or what the network may see of it, without NaN.
        manifest: of the pack; one with fixed numbers, for CT, is not spoilt.
        stop: called now and then; may raise to stop.
    """
    if manifest.preprocessing.normalization.scheme != "ZScore":
        return ()
    image = volume.voxels[nonzero_box(volume.voxels)]
    stop()
    bright = image > BODY_BRIGHTNESS * np.percentile(_sample(image), 99)
    share = 1.0
    for axis in range(3):
        stop()
        profile = bright.mean(axis=tuple(other for other in range(3) if other != axis))
        inside = np.flatnonzero(profile > BODY_PROFILE)
        share *= (inside[-1] - inside[0] + 1) / len(profile) if inside.size else 1.0
    if share >= LEAST_BODY:
        return ()
    sentence = (
        f"What the scan shows fills only {share:.0%} of it, and the rest is not 0 but noise, which shifts the "
        f"contrast. Check the result, or crop the scan to the {manifest.body_part.lower()} first."
    )
    return (ResultWarning(kind="noise", pack_id=manifest.id, sentence=sentence),)


def _may_have_spikes(image: npt.NDArray[Any], use_mask: bool, stop: Callable[[], None]) -> bool:
    """Return False for nearly all scans, from a sample and the extremes alone."""
    sample = _sample(image)
    _, middle, _, far = _usual(sample[sample != 0] if use_mask else sample)
    for part in slabs(image):
        stop()
        if max(float(image[part].max()) - middle, middle - float(image[part].min())) > far / _SAMPLING:
            return True
    return False


def _usual(values: npt.NDArray[Any]) -> tuple[float, float, float, float]:
    """Return what nearly all values lie between, with the median in the middle, and how far from that a spike lies."""
    low, middle, high = (
        float(value) for value in np.percentile(values, [SPIKE_PERCENTILES[0], 50, SPIKE_PERCENTILES[1]])
    )
    return low, middle, high, TIMES_SPIKE * max(high - middle, middle - low)


def _sample(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return image.reshape(-1)[:: max(1, image.size // _SAMPLE)]
