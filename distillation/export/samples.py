"""Real windows of training cases: to compare networks on, to probe engines with, to calibrate number formats on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.dataset import Case
    from distillation.teacher import ModelFolder

Array = npt.NDArray[np.float32]

_SEED = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """The window of a case that shows what is to be segmented.

    Attributes:
        window: (1, channels, z, y, x) of the network's patch size, padded with zeros where the image is smaller.
        foreground: voxels in it that have a label in the reference.
    """

    window: Array
    foreground: int


def sample_windows(model: ModelFolder, cases: Sequence[Case]) -> list[Sample]:
    """Return one window of each case, preprocessed by nnU-Net itself: round the middle of its labels.

    The middle of the image if it has none.
    """
    samples = []
    for image, labels in _preprocessed(model, [(case.image, case.label) for case in cases]):
        found = np.argwhere(labels > 0)
        middle = (found.min(0) + found.max(0) + 1) // 2 if len(found) else np.array(labels.shape) // 2
        patch_size = model.configuration["patch_size"]
        inside = _window(labels[None].astype(np.float32), middle, patch_size) > 0
        samples.append(Sample(window=_window(image, middle, patch_size), foreground=int(np.count_nonzero(inside))))
    return samples


def image_windows(model: ModelFolder, images: Sequence[Path]) -> list[Sample]:
    """Return one window of each image, preprocessed by nnU-Net itself: round its middle."""
    samples = []
    for image, labels in _preprocessed(model, [(image, None) for image in images]):
        middle = np.array(labels.shape) // 2
        samples.append(Sample(window=_window(image, middle, model.configuration["patch_size"]), foreground=0))
    return samples


def generated_window(model: ModelFolder) -> Sample:
    """Return a window of smooth shapes and noise, about as bright as normalised images are; always the same."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(_SEED)
    patch_size = model.configuration["patch_size"]
    shapes = gaussian_filter(random.standard_normal(patch_size), [length / 16 for length in patch_size])
    window = shapes / max(float(shapes.std()), 1e-12) + 0.1 * random.standard_normal(patch_size)
    return Sample(window=np.ascontiguousarray(window, dtype=np.float32)[None, None], foreground=0)


def calibration_windows(model: ModelFolder, cases: Sequence[Case], count: int) -> list[Array]:
    """Return windows (1, channels, z, y, x) as training sees them: half of them anywhere, half round a labelled voxel.

    Args:
        model: whose preprocessing and patch size to take.
        cases: training cases, at least one; the windows are spread evenly over them.
        count: number of windows. The same arguments give the same windows.
    """
    random = np.random.default_rng(_SEED)
    windows_of = Counter(number * len(cases) // count for number in range(count))
    windows: list[Array] = []
    chosen = [(cases[index].image, cases[index].label) for index in windows_of]
    for (image, labels), number in zip(_preprocessed(model, chosen), windows_of.values(), strict=True):
        found = np.argwhere(labels > 0)
        for _ in range(number):
            anywhere = len(windows) % 2 == 0 or not len(found)
            middle = random.integers(labels.shape) if anywhere else random.choice(found)
            windows.append(_window(image, middle, model.configuration["patch_size"]))
    return windows


def _preprocessed(
    model: ModelFolder, cases: Sequence[tuple[Path, Path | None]]
) -> Iterator[tuple[Array, npt.NDArray[np.integer]]]:
    """Yield images (channels, z, y, x) and labels (z, y, x) on the network's grid; some labels may be -1.

    Args:
        model: whose preprocessing to take.
        cases: files of an image and its labels; all 0 where there are none.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(model.plans)
    configuration = plans.get_configuration(model.configuration_name)
    preprocessor = configuration.preprocessor_class(verbose=False)
    for path, reference in cases:
        image, labels, _ = preprocessor.run_case(
            [str(path)], None if reference is None else str(reference), plans, configuration, model.dataset
        )
        array = np.asarray(image, dtype=np.float32)
        yield array, np.zeros(array.shape[1:], np.int8) if labels is None else np.asarray(labels)[0]


def _window(image: Array, middle: npt.NDArray[np.integer], patch_size: Sequence[int]) -> Array:
    """Return (1, channels, *patch_size) round a voxel of (channels, z, y, x), moved inside where it would stick out."""
    for axis, length in enumerate(patch_size, start=1):
        surplus = image.shape[axis] - length
        if surplus >= 0:
            start = min(max(0, int(middle[axis - 1]) - length // 2), surplus)
            image = np.take(image, range(start, start + length), axis=axis)
        else:
            pad = [(0, 0)] * image.ndim
            pad[axis] = (-surplus // 2, -surplus - (-surplus // 2))
            image = np.pad(image, pad)
    return np.ascontiguousarray(image)[None]
