"""Compare the speed of our surface metrics with MONAI's, on one pair of segmentations with many labels.

    python Testing/Benchmarks/surface_distance.py [--rounds 5] [--size 160 192 160] [--labels 13] [--shift 2]
                                                  [--torch-threads 1]

The pair is made up: one map of touching, irregular structures in an ellipsoid, and the same with every boundary moved
by a smooth random field. Each round runs both, in turn. MONAI gets its one-hot arrays ready-made and computes HD95 and
NSD, which is what we compute together, with Dice on top. Processor time is that of all threads of the process: it
hardly depends on what else the machine does, wall time does. Torch gets one thread unless told otherwise, because
threads that wait for each other cost it processor time.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from KDSegmentatorLib.analysis.overlap import dice
from KDSegmentatorLib.analysis.surface_distance import surface_agreement
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.machine.hardware import usable_cores
from KDSegmentatorLib.packs.manifest import SurfaceKind

TOLERANCE_MM = 1.0
NEEDED_RATIO = 5.0
SPACING = (1.0, 1.0, 1.0)

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """What one run took."""

    processor: float
    wall: float


def make_pair(shape: tuple[int, int, int], count: int, shift: float, seed: int = 0) -> tuple[Labels, Labels]:
    """Return two label maps, (z, y, x), whose boundaries are about ``shift / 2`` voxels apart."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(length, dtype=np.float32) for length in shape), indexing="ij"))

    def field(amplitude: float, width: float) -> npt.NDArray[np.float32]:
        smooth = gaussian_filter(random.standard_normal(shape).astype(np.float32), width)
        scaled: npt.NDArray[np.float32] = (amplitude / smooth.std() * smooth).astype(np.float32)
        return scaled

    def fields(amplitude: float, width: float) -> npt.NDArray[np.float32]:
        return np.stack([field(amplitude, width) for _ in shape])

    lengths = np.array(shape, dtype=np.float32)[:, None, None, None]
    radius = np.square((grid - (lengths - 1) / 2) / (0.42 * lengths)).sum(axis=0)
    centres = np.stack([random.uniform(0.2, 0.8, count) * length for length in shape], axis=1).astype(np.float32)

    def nearest_centre(places: npt.NDArray[np.float32], radius: npt.NDArray[np.float32]) -> Labels:
        labels = np.zeros(shape, dtype=np.uint8)
        best = np.full(shape, np.inf, dtype=np.float32)
        for value, centre in enumerate(centres, start=1):
            distance = np.square(places - centre[:, None, None, None]).sum(axis=0)
            closer = distance < best
            best[closer] = distance[closer]
            labels[closer] = value
        labels[radius > 1] = 0
        return labels

    places = grid + fields(4, 8)
    first = nearest_centre(places, radius)
    second = nearest_centre(places + fields(shift / 2, 3), radius * (1 + field(0.02, 3)))
    return first, second


def timed(work: Callable[[], object]) -> Seconds:
    processor, wall = time.process_time(), time.perf_counter()
    work()
    return Seconds(processor=time.process_time() - processor, wall=time.perf_counter() - wall)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if the values differ or the ratio is below the one that is needed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=3, default=(160, 192, 160), metavar="N")
    parser.add_argument("--labels", type=int, default=13)
    parser.add_argument("--shift", type=float, default=2.0, help="how far boundaries move, in voxels")
    parser.add_argument("--torch-threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.torch_threads)

    first, second = make_pair(tuple(chosen.size), chosen.labels, chosen.shift)
    volumes = Volume(first, SPACING), Volume(second, SPACING)
    values = range(1, chosen.labels + 1)
    prediction, reference = (
        torch.from_numpy(np.stack([labels == value for value in (0, *values)]))[None] for labels in (second, first)
    )
    mean_dice = np.mean([*dice(first, second, values).values()])
    size = " x ".join(map(str, chosen.size))
    print(f"{size} voxels, {chosen.labels} labels, mean Dice {mean_dice:.3f}")
    packages = ", ".join(f"{name} {version(name)}" for name in ("monai", "torch", "scipy", "numpy"))
    print(f"{packages}, Python {platform.python_version()}, {torch.get_num_threads()} torch threads")
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{usable_cores()} logical cores{load}; medians of {chosen.rounds} rounds")

    ratios = []
    for subvoxel in (False, True):

        def theirs(subvoxel: bool = subvoxel) -> tuple[torch.Tensor, torch.Tensor]:
            thresholds = [TOLERANCE_MM] * chosen.labels
            return (
                compute_surface_dice(prediction, reference, thresholds, spacing=SPACING, use_subvoxels=subvoxel),
                compute_hausdorff_distance(prediction, reference, percentile=95, spacing=SPACING),
            )

        def ours(subvoxel: bool = subvoxel) -> tuple[list[float], list[float]]:
            surface: SurfaceKind = "subvoxel" if subvoxel else "voxels"
            scores = surface_agreement(*volumes, values, tolerance_mm=TOLERANCE_MM, surface=surface).values()
            return [score.nsd for score in scores], [score.hd95_mm for score in scores]

        # also warms both up; MONAI sums NSD's areas in float32, HD95 is equal
        for mine, monai, tolerance in zip(ours(), theirs(), (2e-6, 0), strict=True):
            if not np.allclose(mine, monai[0].numpy(), rtol=tolerance, atol=0):
                print(f"the values differ: {mine} and {monai[0].tolist()}")
                return 1
        runs = [(timed(theirs), timed(ours)) for _ in range(chosen.rounds)]
        print(f"\nHD95 and NSD {'of sub-voxel patches' if subvoxel else 'of surface voxels'}, equal values")
        for kind in ("processor", "wall"):
            slow, fast = (median(getattr(run[who], kind) for run in runs) for who in (0, 1))
            print(f"{kind:>10} time: MONAI {slow:.3f} s, ours {fast:.3f} s, {slow / fast:.1f} times faster")
            if kind == "processor":
                ratios.append(slow / fast)
    return 0 if min(ratios) >= NEEDED_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
