"""Augmentation beyond nnU-Net's own: other sequences, other coils, thick slices, in nnU-Net's pipeline."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from distillation.synthesis.intensities import random_bias
from distillation.training_settings import AugmentationSettings

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class PatchTransform(BasicTransform):  # type: ignore[misc]  # batchgeneratorsv2 carries no types
    """Changes the image where nnU-Net's label is 0 or more; it is -1 where the scan is empty, and in padding.

    What lies outside keeps its value, the background of a skull-stripped brain for instance. Inside, mean and standard
    deviation stay as they were, as the normalisation of a whole image would have it.
    """

    def apply(self, data_dict: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the sample with its ``image`` (channels, z, y, x) changed; ``segmentation`` stays.

        Random numbers come from numpy's global state, which nnU-Net's pipeline draws from as well.
        """
        rng = np.random.default_rng(np.random.randint(0, 2**31, size=4))
        image: torch.Tensor = data_dict["image"]
        inside = data_dict["segmentation"][0].numpy() >= 0
        if not inside.any():
            return data_dict
        changed = image.numpy().astype(np.float32)  # a copy
        for channel in changed:
            before = channel[inside]
            after = self.changed(channel, inside, rng)[inside]
            channel[inside] = _with_statistics_of(before, after)
        return {**data_dict, "image": torch.from_numpy(changed)}

    @abstractmethod
    def changed(self, image: Image, inside: Mask, rng: np.random.Generator) -> Image:
        """Return the image changed; what is outside does not matter.

        Args:
            image: (z, y, x) normalised intensities.
            inside: (z, y, x), at least one voxel.
            rng: random numbers.
        """


def intensity_range(values: Image) -> tuple[np.float32, np.float32]:
    """Return what dark and bright is: the lowest and the highest half percent are beyond it."""
    # every eighth voxel tells as much
    low, high = np.percentile(values[::8], (0.5, 99.5)).astype(np.float32)
    return low, high


def _with_statistics_of(before: Image, after: Image) -> Image:
    std = after.std()
    if not std > 1e-6:  # nothing to see in a constant patch
        return before
    scaled: Image = (after - after.mean()) * (before.std() / std) + before.mean()
    return scaled


_PIECES = (3, 6)
_SLOPE_LOGARITHMS = (-2.5, 0.0)
_RISING_SHARE = 0.5

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Knots from 0 to 1, ascending, and the values at them."""


class RandomContrast(PatchTransform):
    """Maps intensities by a random piecewise-linear curve, the same one for every voxel.

    Half of the curves rise everywhere: other weightings of the same sequence. The others fall, as a T2 does where a T1
    rises, or turn once, so that grey matter may be brighter than both fluid and white matter, as in FLAIR. More turns
    would draw lines along every border, where voxels are part one tissue, part the other.
    """

    def changed(self, image: Image, inside: Mask, rng: np.random.Generator) -> Image:
        """Return the image bent by a random curve, (z, y, x)."""
        low, high = intensity_range(image[inside])
        if not high > low:
            return image
        knots, values = random_curve(rng)
        bent: Image = np.interp(image, low + (high - low) * knots, values).astype(np.float32)
        return bent


def random_curve(rng: np.random.Generator) -> Curve:
    """Return a random curve of 3 to 5 pieces that turns once at most; gentle slopes are as frequent as steep ones."""
    pieces = int(rng.integers(*_PIECES))
    widths = rng.uniform(0.5, 1.5, pieces)
    rises = widths * np.exp(rng.uniform(*_SLOPE_LOGARITHMS, size=pieces))
    if rng.random() >= _RISING_SHARE:
        turn = int(rng.integers(pieces))
        rises[turn:] *= -1  # all of them for 0
        rises *= rng.choice((-1, 1)) if turn else 1
    return np.concatenate([[0], np.cumsum(widths)]) / widths.sum(), np.concatenate([[0], np.cumsum(rises)])


class BiasField(PatchTransform):
    """Multiplies by the field that made images have (:func:`distillation.synthesis.intensities.random_bias`).

    Normalised intensities may be negative; the darkest inside count as 0.

    Args:
        spacing: of the voxels along z, y and x, in mm.
    """

    def __init__(self, spacing: Sequence[float]) -> None:
        super().__init__()
        self.spacing = tuple(spacing)

    def changed(self, image: Image, inside: Mask, rng: np.random.Generator) -> Image:
        """Return the image times a random field, (z, y, x)."""
        low, _ = intensity_range(image[inside])
        axes = [np.arange(count) * length for count, length in zip(image.shape, self.spacing, strict=True)]
        field = random_bias(rng, [(0.0, float(axis[-1]) + 1e-3) for axis in axes])
        multiplied: Image = (image - low) * np.exp(field.on(axes))
        return multiplied


_THICKNESS_MM = (2.0, 6.0)


class ThickSlices(PatchTransform):
    """Averages over slices of 2 to 6 mm along a random axis, and interpolates back between their middles.

    What is outside takes no part in the averages. An axis whose voxels are as thick as the slices already stays.

    Args:
        spacing: of the voxels along z, y and x, in mm.
    """

    def __init__(self, spacing: Sequence[float]) -> None:
        super().__init__()
        self.spacing = tuple(spacing)

    def changed(self, image: Image, inside: Mask, rng: np.random.Generator) -> Image:
        """Return the image as thick slices show it, (z, y, x)."""
        axis = int(rng.integers(3))
        thickness = rng.uniform(*_THICKNESS_MM) / self.spacing[axis]
        phase = rng.random()
        if thickness <= 1:
            return image
        operator = slices_and_back(image.shape[axis], thickness, phase)
        if inside.all():
            return _along(axis, operator, image)
        weight = _along(axis, operator, inside.astype(np.float32))
        total = _along(axis, operator, np.where(inside, image, np.float32(0)))
        averaged: Image = total / np.maximum(weight, np.float32(1e-6))
        return averaged


def slices_and_back(count: int, thickness: float, phase: float) -> npt.NDArray[np.float32]:
    """Return the (count, count) matrix that takes voxels to what they are after thick slices; each row sums to 1.

    Args:
        count: voxels along the axis.
        thickness: of a slice, in voxels; slices touch each other.
        phase: which share of the first slice lies before the first voxel, in [0, 1).
    """
    edges = np.arange(-phase * thickness, count + thickness, thickness)
    low, high = edges[:-1, None], edges[1:, None]
    voxels = np.arange(count)
    seen = np.clip(np.minimum(high, voxels + 1) - np.maximum(low, voxels), 0, None)
    present = seen.sum(axis=1) > 1e-9  # the last slice may lie beyond
    seen, middles = seen[present], ((low + high) / 2)[present, 0]
    averages = seen / seen.sum(axis=1, keepdims=True)
    between = np.stack([np.interp(voxels + 0.5, middles, one) for one in np.eye(len(middles))], axis=1)
    return np.asarray(between @ averages, dtype=np.float32)


def _along(axis: int, operator: npt.NDArray[np.float32], image: Image) -> Image:
    return np.moveaxis(np.tensordot(operator, image, axes=(1, axis)), 0, axis)


def with_augmentation(stock: Any, settings: AugmentationSettings, spacing: Sequence[float]) -> Any:
    """Return nnU-Net's pipeline with our transforms between its spatial ones and its noise, as an image comes about.

    Args:
        stock: what ``nnUNetTrainer.get_training_transforms`` returns.
        settings: how often what happens; what never does is left out, and takes no random numbers. Their label
            interpolation is set in nnU-Net's spatial transform.
        spacing: of the patches' voxels along z, y and x, in mm.
    """
    ours: list[tuple[float, BasicTransform]] = [
        (settings.random_contrast, RandomContrast()),
        (settings.bias_field, BiasField(spacing)),
        (settings.thick_slices, ThickSlices(spacing)),
    ]
    added = [RandomTransform(transform, apply_probability=share) for share, transform in ours if share > 0]
    spatial = [
        place
        for place, transform in enumerate(stock.transforms)
        if isinstance(transform, (SpatialTransform, Convert2DTo3DTransform))
    ]
    for transform in stock.transforms:
        if isinstance(transform, SpatialTransform) and settings.label_interpolation == "nearest":
            transform.mode_seg = "nearest"
    place = max(spatial) + 1
    return ComposeTransforms([*stock.transforms[:place], *added, *stock.transforms[place:]])
