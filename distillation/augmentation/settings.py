"""How often training patches are augmented beyond nnU-Net's own pipeline, as a recipe says it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from KDSegmentatorLib.errors import InvalidSettingsError


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """Shares of the training patches, each drawn apart; with all of them 0 the augmentation is nnU-Net's own.

    Attributes:
        random_contrast: patches whose intensities are bent by a random curve.
        bias_field: patches that are multiplied by a smooth random field.
        thick_slices: patches that look like slices of 2 to 6 mm, along any axis.
    """

    random_contrast: float = 0.0
    bias_field: float = 0.0
    thick_slices: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InvalidSettingsError(f"{field.name} is a share and must be 0 to 1, got {value!r}")


NNUNETS_OWN = AugmentationSettings()
"""Nothing beyond nnU-Net's own."""
