"""How often a made image differs from an ordinary T1, as a recipe says it."""

from __future__ import annotations

from dataclasses import dataclass

from KDSegmentatorLib.errors import InvalidSettingsError


@dataclass(frozen=True, kw_only=True)
class SynthesisRecipe:
    """What is made of the label maps.

    The shares are probabilities in [0, 1], drawn apart for every image.

    Attributes:
        seed: the same seed, label maps and settings give the same images.
        spacing: of the images that come out, isotropic, in mm.
        random_contrast: share of images whose intensities are any, instead of like those of a T1.
        skull_stripped: share of images in which everything but the brain is 0.
        thick_slices: share of images that were acquired in slices of 2.5 to 7 mm, along any axis.
        cropped: share of images whose field of view cuts the head off, the brain perhaps too.
    """

    seed: int = 0
    spacing: float
    random_contrast: float
    skull_stripped: float
    thick_slices: float
    cropped: float

    def __post_init__(self) -> None:
        if not 0.5 <= self.spacing <= 10:
            raise InvalidSettingsError(f"spacing must be 0.5 to 10 mm, got {self.spacing}")
        if self.seed < 0:
            raise InvalidSettingsError(f"seed must not be negative, got {self.seed}")
        for name in ("random_contrast", "skull_stripped", "thick_slices", "cropped"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidSettingsError(f"{name} is a share and must be 0 to 1, got {getattr(self, name)}")
