"""How often training patches are augmented beyond nnU-Net's own pipeline, as a recipe says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from KDSegmentatorLib.errors import InvalidSettingsError

LabelInterpolation = Literal["linear", "nearest"]


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """What differs from nnU-Net's own augmentation; by default nothing does.

    Attributes:
        random_contrast: share of the training patches whose intensities are bent by a random curve.
        bias_field: share that is multiplied by a smooth random field.
        thick_slices: share that looks like slices of 2 to 6 mm, along any axis.
        label_interpolation: how label maps are rotated, scaled and deformed. ``linear``, nnU-Net's, interpolates the
            labels one by one, so that its time grows with their number; ``nearest`` takes the same time for any number.
    """

    random_contrast: float = 0.0
    bias_field: float = 0.0
    thick_slices: float = 0.0
    label_interpolation: LabelInterpolation = "linear"

    def __post_init__(self) -> None:
        for name in ("random_contrast", "bias_field", "thick_slices"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InvalidSettingsError(f"{name} is a share and must be 0 to 1, got {value!r}")
        if self.label_interpolation not in get_args(LabelInterpolation):
            raise InvalidSettingsError(
                f"label_interpolation must be one of {get_args(LabelInterpolation)}, got {self.label_interpolation!r}"
            )


NNUNETS_OWN = AugmentationSettings()
"""Nothing beyond nnU-Net's own."""
