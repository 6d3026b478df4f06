"""One made image with its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from distillation.synthesis.acquisition import Acquisition, random_acquisition
from distillation.synthesis.deformation import Deformation, random_deformation
from distillation.synthesis.intensities import blurred, random_contrast, t1_contrast, with_bias, with_gamma, with_noise
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.resampling import resample_image, resampled_shape, separate_axis
from KDSegmentatorLib.packs.manifest import Resampling

if TYPE_CHECKING:
    from distillation.synthesis.head import Head, LabelTable
    from distillation.synthesis.synthesis_recipe import SynthesisRecipe

BRAIN = 1
"""The only label."""

_RAS_IN_LPS = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
_NNUNETS_OWN = Resampling(order=3, order_z=0)
_FULL_SCALE = 1000.0
_STRIPPING_MM = (-1.0, 3.0)
_BLACK_AIR = 0.5


@dataclass(frozen=True, kw_only=True)
class MadeImage:
    """An image and its label map (0, or ``BRAIN``) on one grid, int16 and uint8, RAS, isotropic."""

    image: Volume
    truth: Volume


def make_image(head: Head, table: LabelTable, settings: SynthesisRecipe, rng: np.random.Generator) -> MadeImage:
    """Make an image of a head: deform, paint, distort, acquire, and resample as a pack does with a scan.

    The last step is that of inference, with nnU-Net's rules for thick slices, so that the network learns from images
    that look as they will: it gives an image a whole number of voxels, which the field of view is divided into.
    Their true size differs from ``settings.spacing`` by less than half a voxel in the whole image, for image and truth
    alike; the header says ``settings.spacing``.

    Args:
        head: the label map.
        table: its meaning.
        settings: how often what happens.
        rng: random numbers; the same give the same image.
    """
    deformation = random_deformation(rng)
    acquisition = random_acquisition(
        rng, head, deformation, thick_slices=settings.thick_slices, cropped=settings.cropped
    )
    acquired = _acquired(head, table, settings, rng, deformation, acquisition)
    wanted = (settings.spacing,) * 3
    shape = resampled_shape(acquisition.shape, acquisition.spacing, wanted)
    apart = separate_axis(_NNUNETS_OWN, acquisition.spacing, wanted)
    image = resample_image(acquired, shape, _NNUNETS_OWN, apart)
    truth = deformation.distance(head, acquisition.axes(shape)) < 0
    origin = (0.0, 0.0, 0.0)
    return MadeImage(
        image=Volume(_as_int16(image), wanted, origin, _RAS_IN_LPS),
        truth=Volume(truth.astype(np.uint8) * np.uint8(BRAIN), wanted, origin, _RAS_IN_LPS),
    )


def _acquired(
    head: Head,
    table: LabelTable,
    settings: SynthesisRecipe,
    rng: np.random.Generator,
    deformation: Deformation,
    acquisition: Acquisition,
) -> npt.NDArray[np.float32]:
    """Return the image on the acquisition's grid."""
    axes = acquisition.simulated_axes
    classes = deformation.classes(head, axes)
    contrast = (random_contrast if rng.random() < settings.random_contrast else t1_contrast)(rng, table)
    image = contrast.paint(rng, classes, acquisition)
    image = blurred(rng, image, acquisition)
    image = with_gamma(rng, image)
    image = with_bias(rng, image, acquisition)
    kept = None
    if rng.random() < settings.skull_stripped:
        kept = deformation.distance(head, axes) < rng.uniform(*_STRIPPING_MM)
    elif rng.random() < _BLACK_AIR:
        kept = classes > 0
    acquired = with_noise(rng, acquisition.average(image))
    if kept is not None:
        acquired[acquisition.average(kept.astype(np.float32)) < 0.5] = 0
    return acquired


def _as_int16(image: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Return the image with its brightest thousandth at 1000, in whole numbers, as scanners store it."""
    white = max(float(np.percentile(image, 99.9)), 1e-3)
    scaled = np.rint(image * (_FULL_SCALE / white))
    return np.asarray(np.clip(scaled, 0, 2 * _FULL_SCALE), dtype=np.int16)
