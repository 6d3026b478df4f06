"""How bright every structure of a label map is in the image, compared with all of them together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.geometry import Volume, slabs


def structure_intensities(
    segmentation: Volume, image: Volume, largest_value: int, check: Callable[[], None] = lambda: None
) -> npt.NDArray[np.float64]:
    """Return the mean intensities of the structures 1 to ``largest_value``, standardised over all labelled voxels.

    Standardised is (mean of the structure - mean of all labelled voxels) / (standard deviation of all labelled voxels),
    so that neither the scanner's scale nor its offset matters.

    Args:
        segmentation: label values, unsigned, (z, y, x); larger values are left out.
        image: the scan on the same grid.
        largest_value: of the labels.
        check: called once for each of the :func:`~KDSegmentatorLib.geometry.slabs`; may raise to stop the work.

    Returns:
        float64 by label value; nan for the background and for structures that are not there, and for all if the
        labelled voxels are of one intensity.
    """
    length = largest_value + 1
    counts, sums = np.zeros(length), np.zeros(length)
    squares = 0.0
    origin: float | None = None  # intensities are counted from the first one, so that equal ones differ by exactly 0
    for part in slabs(segmentation.voxels):
        values = segmentation.voxels[part].reshape(-1)
        labelled = (values > 0) & (values <= largest_value)
        values, intensities = values[labelled], image.voxels[part].reshape(-1)[labelled].astype(np.float64)
        if origin is None and values.size:
            origin = float(intensities[0])
        intensities -= origin or 0.0
        counts += np.bincount(values, minlength=length)
        sums += np.bincount(values, weights=intensities, minlength=length)
        squares += float(np.square(intensities).sum())
        check()
    total = counts.sum()
    if total == 0:
        return np.full(length, np.nan)
    mean = sums.sum() / total
    variance = squares / total - mean**2
    if variance <= 0:
        return np.full(length, np.nan)
    means = np.divide(sums, counts, out=np.full(length, np.nan), where=counts > 0)
    standardised: npt.NDArray[np.float64] = (means - mean) / np.sqrt(variance)
    return standardised
