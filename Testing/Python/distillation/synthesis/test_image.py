from dataclasses import replace

import numpy as np
import pytest

from distillation.synthesis.image import make_image
from distillation.synthesis.synthesis_recipe import SynthesisRecipe
from KDSegmentatorLib.errors import InvalidSettingsError
from support.phantom_heads import BRAIN_RADII_MM

PLAIN = SynthesisRecipe(spacing=2.0, random_contrast=0, skull_stripped=0, thick_slices=0, cropped=0)


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def made(phantom, settings, seed):
    return make_image(*phantom, settings, np.random.default_rng(seed))


def test_an_image_and_its_truth(phantom):
    result = made(phantom, PLAIN, 0)
    assert result.image.axis_codes == result.truth.axis_codes == "RAS"
    assert result.image.spacing == (2.0, 2.0, 2.0)
    assert result.image.same_grid(result.truth)
    assert result.image.voxels.dtype == np.int16
    assert result.image.voxels.min() >= 0
    assert set(np.unique(result.truth.voxels)) == {0, 1}


def test_the_same_seed_gives_the_same_image(phantom):
    first, second, other = (made(phantom, PLAIN, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image.voxels, second.image.voxels)
    np.testing.assert_array_equal(first.truth.voxels, second.truth.voxels)
    assert first.image.voxels.shape != other.image.voxels.shape or (first.image.voxels != other.image.voxels).any()


@pytest.mark.parametrize("thick", [0, 1])
@pytest.mark.parametrize("seed", range(2))
def test_the_truth_lies_where_the_brain_is_seen(phantom, seed, thick):
    """What is left of a skull-stripped image shows where the brain was painted, on a grid of another spacing."""
    result = made(phantom, replace(PLAIN, skull_stripped=1, thick_slices=thick), seed)
    seen, truth = result.image.voxels > 0, result.truth.voxels > 0
    assert 0.5 < truth.sum() * 8 / (4 / 3 * np.pi * np.prod(BRAIN_RADII_MM)) < 2
    assert overlap(seen, truth) > 0.85  # stripped 1 mm inside to 3 mm outside the surface
    for axis in range(3):
        middles = [np.average(np.arange(m.shape[axis]), weights=m.sum((axis - 2, axis - 1))) for m in (seen, truth)]
        # voxels of 2 mm: slices of up to 7 mm are resampled by nearest neighbour, the rest by splines
        assert abs(middles[0] - middles[1]) < (0.6 if thick else 0.25)


def test_left_stays_left(phantom):
    """The phantom's ventricle, dark, lies in the left half of its brain."""
    darker = 0
    for seed in range(3):
        result = made(phantom, PLAIN, seed)
        image, truth = result.image.voxels.astype(float), result.truth.voxels > 0
        z, y, x = (round(float(np.mean(places))) for places in np.nonzero(truth))
        left, right = (
            image[z - 5 : z + 6, y - 5 : y + 6, x - 7 : x - 2],
            image[z - 5 : z + 6, y - 5 : y + 6, x + 3 : x + 8],
        )
        darker += left.mean() < right.mean()
    assert darker == 3


def test_other_spacings(phantom):
    fine, coarse = (made(phantom, replace(PLAIN, spacing=spacing), 1) for spacing in (1.5, 3.0))
    assert coarse.image.spacing == (3.0, 3.0, 3.0)
    assert fine.truth.voxels.sum() * 1.5**3 == pytest.approx(coarse.truth.voxels.sum() * 27, rel=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing": 0.1}, "spacing must be 0.5 to 10 mm"),
        ({"seed": -1}, "seed"),
        ({"cropped": 1.5}, "cropped is a share"),
        ({"thick_slices": -0.1}, "thick_slices is a share"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(InvalidSettingsError, match=message):
        replace(PLAIN, **change)
