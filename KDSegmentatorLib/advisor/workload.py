"""What a volume means for a network, whatever its width: grids, voxels and windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np

from KDSegmentatorLib.geometry import Vector, Volume, axes_along
from KDSegmentatorLib.inference.network_grid import NetworkGrid
from KDSegmentatorLib.inference.resampling import resampling_order
from KDSegmentatorLib.packs.manifest import Manifest

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run is asked for beyond the labels, as far as it costs something.

    Attributes:
        mirroring: every window is run mirrored as well.
        entropy: the entropy is wanted.
        probabilities: number of structures whose probability is wanted.
    """

    mirroring: bool = False
    entropy: bool = False
    probabilities: int = 0


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a volume means for a pack. Shapes are (z, y, x) in the network's axis order.

    Attributes:
        voxels: of the volume itself.
        voxel_bytes: size of one.
        turned: whether the volume has to be copied into the pack's axis order.
        cropped_shape: after cropping to what is not zero, at the volume's own spacing.
        network_shape: at the network's spacing.
        padded_shape: with what is added where that is smaller than a window.
        windows: without mirroring.
        separate_axis: axis of the image that is resampled apart from the others.
    """

    voxels: int
    voxel_bytes: int
    turned: bool
    cropped_shape: Shape
    network_shape: Shape
    padded_shape: Shape
    windows: int
    separate_axis: int | None = None

    @property
    def resampled(self) -> bool:
        """Whether the network's grid is another than the volume's."""
        return self.network_shape != self.cropped_shape

    @property
    def resampling_steps(self) -> tuple[int, ...]:
        """Voxels of the image after each axis that is resampled, in the order of the pipeline."""
        shape = list(self.cropped_shape)
        steps = []
        for axis in resampling_order(self.cropped_shape, self.network_shape, self.separate_axis):
            shape[axis] = self.network_shape[axis]
            steps.append(math.prod(shape))
        return tuple(steps)


def workload(volume: Volume, manifest: Manifest, *, crop: bool = True) -> Workload:
    """Return what the volume means for a pack.

    A pack with an earlier stage is taken to see as much of the volume as its training images showed at most, in the
    middle: what will be found is not known yet.

    Args:
        volume: the scan.
        manifest: of the pack.
        crop: whether to look for the zeros round the scan, which takes a pass over it; without, nothing is cropped,
            and the work is what it is at most.

    Raises:
        GeometryError: the volume would be empty or too large at the pack's spacing.
    """
    grid = NetworkGrid(_seen(_in_order(volume, manifest.preprocessing.axis_codes, crop=crop), manifest), manifest)
    padded = [max(pair) for pair in zip(grid.network_shape, manifest.windows.patch_size, strict=True)]
    return Workload(
        voxels=volume.voxels.size,
        voxel_bytes=volume.voxels.itemsize,
        turned=volume.axis_codes != manifest.preprocessing.axis_codes,
        cropped_shape=grid.cropped_shape,
        network_shape=grid.network_shape,
        padded_shape=(padded[0], padded[1], padded[2]),
        windows=len(grid.window_starts()),
        separate_axis=grid.separate_axis,
    )


def same_work(first: Manifest, second: Manifest) -> bool:
    """Return whether a volume means the same for two packs, as it mostly does for the sizes of a family."""
    a, b = first.preprocessing, second.preprocessing
    seen = [None if each.region is None else each.field_of_view for each in (first, second)]
    return (
        seen[0] == seen[1]
        and first.windows == second.windows
        and all(
            getattr(a, name) == getattr(b, name)
            for name in ("axis_codes", "transpose_forward", "spacing", "image_resampling")
        )
    )


def voxels_of(shape: Shape) -> int:
    """Return the number of voxels of a grid."""
    return math.prod(shape)


def _seen(volume: Volume, manifest: Manifest) -> Volume:
    """Return the part of a volume, in the pack's axis order, that its training images showed at most, as a view."""
    if manifest.region is None or manifest.field_of_view is None:
        return volume
    parts = []
    for voxels, spacing, most in zip(volume.size, volume.spacing, manifest.field_of_view.largest, strict=True):
        kept = min(voxels, math.ceil(most / spacing))
        parts.append(slice((voxels - kept) // 2, (voxels - kept) // 2 + kept))
    return Volume(volume.voxels[tuple(reversed(parts))], volume.spacing)


def _in_order(volume: Volume, axis_codes: str, *, crop: bool) -> Volume:
    """Return the volume with its axes in another order, as a view: which way they run decides no length.

    Args:
        volume: the scan.
        axis_codes: wanted codes.
        crop: False gives a volume of the same shape without any zero, which takes no memory.
    """
    axes = axes_along(volume.axis_codes, axis_codes)
    voxels = volume.voxels if crop else np.broadcast_to(np.uint8(1), volume.voxels.shape)
    return Volume(
        voxels.transpose([2 - axis for axis in reversed(axes)]),
        cast("Vector", tuple(volume.spacing[axis] for axis in axes)),
    )
