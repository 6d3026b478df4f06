"""Real windows to compare networks on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillation.dataset import Case
    from distillation.teacher import ModelFolder


def sample_windows(model: ModelFolder, cases: Sequence[Case]) -> list[npt.NDArray[np.float32]]:
    """Return the central window of each case, preprocessed by nnU-Net itself.

    Returns:
        Arrays (1, channels, z, y, x) of the network's patch size, padded with zeros where the image is smaller.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(model.plans)
    configuration = plans.get_configuration(model.configuration_name)
    preprocessor = configuration.preprocessor_class(verbose=False)
    windows = []
    for case in cases:
        image, *_ = preprocessor.run_case([str(case.image)], None, plans, configuration, model.dataset)
        windows.append(_central_window(np.asarray(image, dtype=np.float32), model.configuration["patch_size"])[None])
    return windows


def _central_window(image: npt.NDArray[np.float32], patch_size: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return (channels, *patch_size) round the middle of (channels, z, y, x)."""
    for axis, length in enumerate(patch_size, start=1):
        surplus = image.shape[axis] - length
        if surplus >= 0:
            image = np.take(image, range(surplus // 2, surplus // 2 + length), axis=axis)
        else:
            pad = [(0, 0)] * image.ndim
            pad[axis] = (-surplus // 2, -surplus - (-surplus // 2))
            image = np.pad(image, pad)
    return np.ascontiguousarray(image)
