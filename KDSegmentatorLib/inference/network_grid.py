"""The grids between a scan and the network, and the way back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.engines.head import VoxelMaps, background_maps
from KDSegmentatorLib.errors import GeometryError
from KDSegmentatorLib.geometry import MAXIMUM_VOXELS, Volume, nonzero_box
from KDSegmentatorLib.inference.resampling import AxisOperators, axis_operators, resampled_shape, separate_axis
from KDSegmentatorLib.inference.windows import padding, strips, window_starts
from KDSegmentatorLib.packs.manifest import Manifest

_FLOAT32_BYTES = 4


class NetworkGrid:
    """The grids between a reoriented volume and the network, and the way back.

    Args:
        oriented: the volume in the pack's axis codes.
        manifest: of the pack.

    Raises:
        GeometryError: the volume would have no voxel, or more than the limit, at the network's spacing.
    """

    def __init__(self, oriented: Volume, manifest: Manifest) -> None:
        preprocessing = manifest.preprocessing
        forward = preprocessing.transpose_forward
        self._oriented = oriented
        self._forward = forward
        self._manifest = manifest
        transposed = oriented.voxels.transpose(forward)
        self._box = nonzero_box(transposed)
        self.cropped = transposed[self._box]
        """(z, y, x) transposed and cropped, in the volume's own numbers."""
        spacing = oriented.spacing[::-1]  # array order
        self.spacing = tuple(spacing[axis] for axis in forward)
        """Spacing of ``cropped`` in mm, array order."""
        z, y, x = self.cropped.shape
        self.cropped_shape = (z, y, x)
        self.network_shape = resampled_shape(self.cropped_shape, self.spacing, preprocessing.spacing)
        """Shape of the network's input before padding."""
        self.separate_axis = separate_axis(preprocessing.image_resampling, self.spacing, preprocessing.spacing)
        """Axis of the image that is resampled apart from the others."""
        voxels = math.prod(self.network_shape)
        if voxels == 0:
            lengths = " x ".join(
                f"{count * step:.3g}" for count, step in zip(self.cropped_shape, self.spacing, strict=True)
            )
            raise GeometryError(
                f"the volume is {lengths} mm, less than one voxel of the pack's {preprocessing.spacing} mm along an "
                "axis; its spacing is probably wrong: check it, or export the volume again"
            )
        if voxels > MAXIMUM_VOXELS:
            raise GeometryError(
                f"at the pack's spacing of {preprocessing.spacing} mm the volume would have {voxels:,} voxels "
                f"(shape {self.network_shape}; limit {MAXIMUM_VOXELS:,}). Check the volume's spacing, or crop it to "
                f"the {manifest.body_part.lower()}"
            )

    def window_starts(self) -> list[tuple[int, int, int]]:
        """Return where the windows lie on the padded network grid."""
        windows = self._manifest.windows
        pads = padding(self.network_shape, windows.patch_size)
        padded = [length + low + high for length, (low, high) in zip(self.network_shape, pads, strict=True)]
        return window_starts(padded, windows.patch_size, windows.step_fraction)

    def restoring_operators(self) -> AxisOperators:
        """Return the operators from the network's grid to the cropped grid."""
        resampling = self._manifest.preprocessing.logits_resampling
        apart = separate_axis(resampling, self._manifest.preprocessing.spacing, self.spacing)
        return axis_operators(self.network_shape, self.cropped_shape, resampling, apart)

    def strips(self, channels: int) -> list[slice | None]:
        """Return the strips that memory asks for, as ranges of the cropped grid's y; [None] for the whole plane.

        Args:
            channels: to be blended.
        """
        patch = self._manifest.windows.patch_size
        _, height, width = (max(pair) for pair in zip(self.network_shape, patch, strict=True))
        found = strips(self.cropped_shape[1], _FLOAT32_BYTES * (channels + 1) * patch[0] * height * width)
        return [None] if len(found) == 1 else [*found]

    def strip(self, y: slice | None, cropped: VoxelMaps) -> tuple[VoxelMaps, AxisOperators, slice | None]:
        """Return a strip's maps, its operators to them from the network's grid, and its range of that grid's y.

        Args:
            y: range of the cropped grid; None for all of it.
            cropped: maps of all of it.
        """
        along_z, along_y, along_x = self.restoring_operators()
        if y is None:
            return cropped, (along_z, along_y, along_x), None
        if along_y is None:
            return cropped.strip(y), (along_z, None, along_x), y
        along_y, columns = along_y.part(y)
        return cropped.strip(y), (along_z, along_y, along_x), columns

    def maps(self, rows: int, *, entropy: bool, probabilities: Sequence[int]) -> tuple[VoxelMaps, VoxelMaps]:
        """Return maps of the whole transposed grid, all background, and their parts in the crop as views.

        Args:
            rows: number of labels, background included.
            entropy: whether the entropy is wanted.
            probabilities: values of the labels whose probability is wanted.
        """
        shape = [self._oriented.voxels.shape[axis] for axis in self._forward]
        whole = background_maps(shape, rows, entropy=entropy, probabilities=probabilities)
        inside = VoxelMaps(
            labels=whole.labels[self._box],
            entropy=None if whole.entropy is None else whole.entropy[self._box],
            probabilities={value: map_[self._box] for value, map_ in whole.probabilities.items()},
        )
        return whole, inside

    def on_input_grid(self, whole: npt.NDArray[Any], volume: Volume) -> Volume:
        """Return an array of the whole transposed grid on the grid of the volume as it was given."""
        oriented = self._oriented.with_voxels(whole.transpose(np.argsort(self._forward)))
        return volume.with_voxels(oriented.reoriented(volume.axis_codes).voxels)
