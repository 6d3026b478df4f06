"""A transform of the intensities inside the imaged region, in nnU-Net's pipeline (batchgeneratorsv2)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform

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
