from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("batchgeneratorsv2", reason="install the extra 'distill'")

from distillation.augmentation.bias_field import BiasField


@pytest.mark.parametrize("seed", range(5))
def test_the_field_is_smooth_in_millimetres(seed: int) -> None:
    """The same field on voxels of half the size: it is a thing of the scanner, not of the grid."""
    ramp = np.linspace(0, 1, 33)[:, None, None] * np.ones((33, 33, 33))
    image = (1 + ramp).astype(np.float32)
    inside = np.ones(image.shape, dtype=bool)
    fields = []
    for spacing, every in (((4.0, 4.0, 4.0), 1), ((8.0, 8.0, 8.0), 2)):
        part = image[::every, ::every, ::every]
        random = np.random.default_rng(seed)
        changed = BiasField(spacing).changed(part, inside[::every, ::every, ::every], random)
        low = np.percentile(part.ravel()[::8], 0.5)
        fields.append((changed[8:, 1:-1, 1:-1] if every == 1 else changed[4:], part, low))
    (fine, image_fine, low_fine), (coarse, image_coarse, low_coarse) = fields
    fine_ratio = fine / (image_fine[8:, 1:-1, 1:-1] - low_fine)
    coarse_ratio = coarse / (image_coarse[4:] - low_coarse)
    assert (fine_ratio > 0).all()
    assert np.abs(np.diff(np.log(fine_ratio), axis=0)).max() < 0.15
    np.testing.assert_allclose(fine_ratio[::2, 1::2, 1::2], coarse_ratio[:, 1:-1, 1:-1], rtol=0.02)
