"""Generated scans, and pieces of a real one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import write_volume

sys.path.append(
    str(Path(__file__).resolve().parents[3] / "demo")
)  # the template is loaded and cropped as the demo does

_AIR, _SOFT_TISSUE, _NOISE = -1000, 40, 15
_STRUCTURE_VOXELS = 8
_TEMPLATE_BOX_SHIFT = (0.0, -20.0, 0.0)


def make_mr(path: str, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    """Write a scan of smooth structure without a border of zeros, so that all of it is segmented.

    Args:
        path: the file.
        size: voxels along i, j, k.
        spacing: mm along i, j, k.
    """
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    structure = gaussian_filter(random.normal(size=size[::-1]), 3)
    voxels = 500 + structure / structure.std() * 120 + random.normal(size=structure.shape) * 15
    write_volume(Volume(np.clip(voxels, 1, None).astype(np.int16), spacing=_triple(spacing)), path)


def make_ct(path: str, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    """Write something like a CT in HU: a noisy elliptic cylinder of soft tissue in air.

    Args:
        path: the file.
        size: voxels along i, j, k.
        spacing: mm along i, j, k.
    """
    from scipy.ndimage import zoom

    width, height, depth = size
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = (x / 0.8) ** 2 + (y / 0.55) ** 2 < 1
    voxels = np.empty((depth, height, width), dtype=np.int16)
    coarse = (height // _STRUCTURE_VOXELS + 1, width // _STRUCTURE_VOXELS + 1)
    for plane in voxels:  # one at a time: the largest scan has 157 million voxels
        structure = zoom(random.normal(size=coarse) * 40, _STRUCTURE_VOXELS, order=1)[:height, :width]
        plane[:] = np.where(inside, _SOFT_TISSUE + structure, _AIR) + random.normal(size=inside.shape) * _NOISE
    write_volume(Volume(voxels, spacing=_triple(spacing)), path)


def make_template_box(path: str, size: tuple[int, int, int]) -> None:
    """Write a box round the middle of nilearn's MNI152 T1 template (real scans, averaged; 1 mm).

    Args:
        path: the file.
        size: voxels along i, j, k.
    """
    from hippocampus import crop
    from real_heads import load_template

    low = np.asarray(_TEMPLATE_BOX_SHIFT) - np.asarray(size) / 2
    corners = [_triple(tuple(corner.tolist())) for corner in (low, low + np.asarray(size))]
    write_volume(crop(load_template(), *corners), path)


def make_brain(path: str) -> None:
    """Write nilearn's MNI152 T1 template: a skull-stripped brain with zeros round it.

    Args:
        path: the file.
    """
    from real_heads import load_template

    write_volume(load_template(), path)


def equal_share(first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]) -> float:
    """Return the share of the voxels that either label map has a structure in, and that have the same in both."""
    foreground = (first > 0) | (second > 0)
    count = int(np.count_nonzero(foreground))
    return 1.0 if count == 0 else np.count_nonzero((first == second) & foreground) / count


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    i, j, k = values
    return i, j, k
