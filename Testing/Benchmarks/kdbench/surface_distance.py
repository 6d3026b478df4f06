"""Speed of our surface metrics beside MONAI's, on one pair of segmentations with many labels.

The pair is made up: one map of touching, irregular structures in an ellipsoid, and the same with every boundary moved
by a smooth random field. MONAI gets its one-hot arrays ready-made and computes HD95 and NSD, which is what we compute
together, with Dice on top. Torch has one thread, because threads that wait for each other cost it processor time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice

from kdbench.label_pair import make_pair
from kdbench.results import Measured
from kdbench.stopwatch import timed
from KDSegmentatorLib.analysis.overlap import dice
from KDSegmentatorLib.analysis.surface_distance import surface_agreement
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.packs.manifest import SurfaceKind

TOLERANCE_MM = 1.0
SPACING = (1.0, 1.0, 1.0)
SHIFT = 2.0
"""About twice how far apart the boundaries are, in voxels."""


def compare(size: tuple[int, int, int], labels: int, surface: SurfaceKind) -> Measured:
    """Time MONAI and ours once each on the same pair, after a run of both that does not count.

    Args:
        size: voxels of the pair, (z, y, x).
        labels: structures in it.
        surface: of NSD.

    Returns:
        ``monai`` and ``ours`` in seconds of processor time, ``monai_wall`` and ``ours_wall``, and the pair's
        ``mean_dice``.

    Raises:
        ValueError: both do not give the same values, so that their times compare nothing.
    """
    torch.set_num_threads(1)
    first, second = make_pair((size[0], size[1], size[2]), labels, SHIFT)
    volumes = Volume(first, SPACING), Volume(second, SPACING)
    values = range(1, labels + 1)
    prediction, reference = (
        torch.from_numpy(np.stack([each == value for value in (0, *values)]))[None] for each in (second, first)
    )

    def theirs() -> list[npt.NDArray[np.float64]]:
        thresholds = [TOLERANCE_MM] * labels
        nsd = compute_surface_dice(
            prediction, reference, thresholds, spacing=SPACING, use_subvoxels=surface == "subvoxel"
        )
        hd95 = compute_hausdorff_distance(prediction, reference, percentile=95, spacing=SPACING)
        return [nsd[0].numpy(), hd95[0].numpy()]

    def ours() -> list[npt.NDArray[np.float64]]:
        scores = surface_agreement(*volumes, values, tolerance_mm=TOLERANCE_MM, surface=surface).values()
        return [np.array([score.nsd for score in scores]), np.array([score.hd95_mm for score in scores])]

    # MONAI sums NSD's areas in float32; HD95 is equal
    for name, mine, monai, tolerance in zip(("NSD", "HD95"), ours(), theirs(), (2e-6, 0), strict=True):
        if not np.allclose(mine, monai, rtol=tolerance, atol=0):
            raise ValueError(f"{name} is {mine.tolist()}, MONAI's {monai.tolist()}")
    (monai_cpu, monai_wall), (our_cpu, our_wall) = timed(theirs), timed(ours)
    return Measured(
        details={
            "monai": monai_cpu,
            "ours": our_cpu,
            "monai_wall": monai_wall,
            "ours_wall": our_wall,
            "mean_dice": float(np.mean([*dice(first, second, values).values()])),
        }
    )
