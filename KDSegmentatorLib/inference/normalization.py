"""nnU-Net's intensity normalisation: CT and ZScore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.geometry import slabs
from KDSegmentatorLib.inference.cropping import filled_nonzero_mask
from KDSegmentatorLib.packs.manifest import Normalization

_SMALLEST_STD = 1e-8


def normalize(
    image: npt.NDArray[Any], normalization: Normalization, check: Callable[[], None] = lambda: None
) -> npt.NDArray[np.float32]:
    """Return the normalised image as a float32 copy.

    Args:
        image: (z, y, x), cropped to the non-zero region, not yet resampled: normalising comes first, because the
            non-zero mask would no longer fit after resampling.
        normalization: the scheme from the pack.
        check: called again and again; may raise to stop.
    """
    normalized = np.empty_like(image, dtype=np.float32)  # its axes in memory as the image's, as sums are rounded
    for part in slabs(image):
        check()
        normalized[part] = image[part]
    if normalization.scheme == "CT":
        lower, upper = normalization.percentile_00_5, normalization.percentile_99_5
        mean, std = normalization.mean, normalization.std
        assert lower is not None and upper is not None and mean is not None and std is not None  # noqa: S101 - by the manifest's reader
        for part in slabs(normalized):
            check()
            values = normalized[part]
            np.clip(values, lower, upper, out=values)
            values -= mean
            values /= max(std, _SMALLEST_STD)
    elif normalization.use_mask:
        mask = filled_nonzero_mask(image)
        check()
        inside = normalized[mask]
        normalized[mask] = (inside - inside.mean()) / max(inside.std(), _SMALLEST_STD)
    else:
        mean_intensity = normalized.mean()  # of the whole: a sum over slabs would be rounded differently
        check()
        std_intensity = normalized.std()
        for part in slabs(normalized):
            check()
            normalized[part] -= mean_intensity
            normalized[part] /= max(std_intensity, _SMALLEST_STD)
    return normalized
