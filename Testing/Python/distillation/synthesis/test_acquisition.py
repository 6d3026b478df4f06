import numpy as np
import pytest

from distillation.synthesis.acquisition import Acquisition, random_acquisition
from distillation.synthesis.deformation import random_deformation


def test_averaging_and_the_two_grids():
    acquisition = Acquisition(start=(-3.0, 0.0, 1.0), shape=(2, 3, 4), spacing=(5.0, 1.0, 1.5), parts=(4, 1, 2))
    z, y, x = acquisition.simulated_axes
    assert (len(z), len(y), len(x)) == (8, 3, 8)
    assert z[:2].tolist() == [-3 + 0.625, -3 + 1.875]
    assert acquisition.box == ((-3.0, 7.0), (0.0, 3.0), (1.0, 7.0))
    ramp = np.broadcast_to((z[:, None, None] + 10 * x).astype(np.float32), (8, 3, 8))
    averaged = acquisition.average(ramp)
    coarse = acquisition.axes(acquisition.shape)
    expected = np.broadcast_to(coarse[0][:, None, None] + 10 * coarse[2], (2, 3, 4))
    np.testing.assert_allclose(averaged, expected, rtol=1e-6)


def drawn(phantom, seed, *, thick_slices=0.0, cropped=0.0):
    rng = np.random.default_rng(seed)
    deformation = random_deformation(rng)
    acquisition = random_acquisition(rng, phantom[0], deformation, thick_slices=thick_slices, cropped=cropped)
    return deformation, acquisition


def brain_share(phantom, deformation, acquisition):
    """Return the share of the brain's volume inside the field of view."""
    head = phantom[0]
    wide = [np.arange(-120, 120, 5.0)] * 3
    seen = [axis[(axis > low) & (axis < high)] for axis, (low, high) in zip(wide, acquisition.box, strict=True)]
    inside = deformation.distance(head, seen)
    return (inside < 0).sum() / (deformation.distance(head, wide) < 0).sum()


@pytest.mark.parametrize("seed", range(3))
def test_the_whole_brain_is_seen_unless_it_is_cropped(phantom, seed):
    deformation, acquisition = drawn(phantom, seed)
    assert brain_share(phantom, deformation, acquisition) == 1
    assert max(acquisition.spacing) <= 2.0
    assert min(acquisition.spacing) >= 0.7
    assert all(length / part <= 1.25 for length, part in zip(acquisition.spacing, acquisition.parts, strict=True))


def test_cropped_and_thick(phantom):
    shares, axes = [], []
    for seed in range(10):
        deformation, acquisition = drawn(phantom, seed, thick_slices=1.0, cropped=1.0)
        shares.append(brain_share(phantom, deformation, acquisition))
        thick = [axis for axis in range(3) if acquisition.spacing[axis] >= 2.5]
        assert len(thick) == 1
        axes += thick
        assert all(length / part <= 1.25 for length, part in zip(acquisition.spacing, acquisition.parts, strict=True))
    assert set(axes) == {0, 1, 2}
    assert min(shares) < 0.8
    assert min(shares) > 0.05
