"""nnU-Net's intensity normalisation: CT and ZScore."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.inference.cropping import filled_nonzero_mask
from KDSegmentatorLib.packs.manifest import Normalization

_SMALLEST_STD = 1e-8


def normalize(image: npt.NDArray[Any], normalization: Normalization) -> npt.NDArray[np.float32]:
    """Return the normalised image as a float32 copy.

    Args:
        image: (z, y, x), cropped to the non-zero region, not yet resampled: normalising comes first, because the
            non-zero mask would no longer fit after resampling.
        normalization: the scheme from the pack.
    """
    normalized = image.astype(np.float32)  # always a copy
    if normalization.scheme == "CT":
        lower, upper = normalization.percentile_00_5, normalization.percentile_99_5
        mean, std = normalization.mean, normalization.std
        assert lower is not None and upper is not None and mean is not None and std is not None  # noqa: S101 - by the manifest's reader
        np.clip(normalized, lower, upper, out=normalized)
        normalized -= mean
        normalized /= max(std, _SMALLEST_STD)
    elif normalization.use_mask:
        mask = filled_nonzero_mask(image)
        inside = normalized[mask]
        normalized[mask] = (inside - inside.mean()) / max(inside.std(), _SMALLEST_STD)
    else:
        mean_intensity, std_intensity = normalized.mean(), normalized.std()
        normalized -= mean_intensity
        normalized /= max(std_intensity, _SMALLEST_STD)
    return normalized
