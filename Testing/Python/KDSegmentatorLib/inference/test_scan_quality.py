"""Spikes are clipped and said, noise round the body is said, and other scans stay as they are."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.scan_quality import noise_warnings, without_spikes
from KDSegmentatorLib.packs.manifest import Manifest, Normalization
from support.generated_packs import manifest


def head(padding: int = 0) -> Volume:
    rng = np.random.default_rng(4)
    z, y, x = np.ogrid[-32:32, -32:32, -32:32]
    ball = z**2 + y**2 + x**2 < 28**2
    voxels = np.pad(ball * rng.normal(150, 30, size=ball.shape), padding)
    return Volume(np.abs(voxels + rng.normal(0, 4, size=voxels.shape)).astype(np.float32), (1.0, 1.0, 1.0))


def with_mask() -> Manifest:
    about = manifest()
    normalization = Normalization(scheme="ZScore", use_mask=True)
    return replace(about, preprocessing=replace(about.preprocessing, normalization=normalization))


@pytest.mark.parametrize("sign", [1, -1])
def test_spikes_become_the_end_of_the_usual_range_and_nothing_else_changes(sign: int) -> None:
    clean, spiked = head(), head()
    places = np.random.default_rng(0).choice(clean.voxels.size, size=30, replace=False)
    spiked.voxels.reshape(-1)[places] = sign * 30_000
    given = spiked.voxels.copy()
    mended, (warning,) = without_spikes(spiked, manifest())
    low, high = np.percentile(given, [0.1, 99.9])
    np.testing.assert_allclose(mended.voxels.reshape(-1)[places], high if sign > 0 else low, rtol=1e-6)
    others = np.delete(np.arange(clean.voxels.size), places)
    np.testing.assert_array_equal(mended.voxels.reshape(-1)[others], clean.voxels.reshape(-1)[others])
    assert mended.voxels.std() == pytest.approx(clean.voxels.std(), rel=0.01)
    np.testing.assert_array_equal(spiked.voxels, given)  # the caller's own
    assert warning.kind == "spikes"
    assert re.search(rf"30 voxels are spikes \(up to {sign * 30_000}; .* were clipped", warning.sentence)


def test_a_scan_without_spikes_is_returned_as_it_is() -> None:
    volume = head()
    assert without_spikes(volume, manifest()) == (volume, ())
    volume.voxels[10, 10, 10] = 900  # bright, and changes nothing
    assert without_spikes(volume, manifest()) == (volume, ())


def test_whole_numbers_do_not_wrap_round() -> None:
    volume = head()
    spiked = Volume(volume.voxels.astype(np.int16), volume.spacing)
    spiked.voxels.reshape(-1)[:30] = 32_767
    mended, (warning,) = without_spikes(spiked, manifest())
    assert warning.kind == "spikes"
    assert 0 < mended.voxels.reshape(-1)[:30].max() < 400


def test_zeros_round_a_brain_are_no_spikes() -> None:
    """Normalisation inside the mask takes the brain alone: there, 0 would be far from everything."""
    volume = head()
    brain = Volume(np.where(volume.voxels > 60, volume.voxels + 1000, 0).astype(np.float32), volume.spacing)
    assert without_spikes(brain, with_mask()) == (brain, ())
    places = np.flatnonzero(brain.voxels)[:30]
    brain.voxels.reshape(-1)[places] = 30_000
    mended, (warning,) = without_spikes(brain, with_mask())
    assert warning.kind == "spikes"
    np.testing.assert_array_equal(mended.voxels == 0, brain.voxels == 0)
    assert mended.voxels.max() < 1400


def test_the_order_of_the_axes_does_not_matter() -> None:
    spiked = head()
    spiked.voxels.reshape(-1)[np.random.default_rng(1).choice(spiked.voxels.size, size=30)] = 30_000
    mended, _ = without_spikes(spiked, manifest())
    turned, _ = without_spikes(spiked.reoriented("SAR"), manifest())
    np.testing.assert_array_equal(turned.reoriented(spiked.axis_codes).voxels, mended.voxels)


def test_noise_far_round_the_body_is_named() -> None:
    (warning,) = noise_warnings(head(padding=30), manifest())
    assert warning.kind == "noise"
    assert re.search(r"fills only \d+% of it, and the rest is not 0 but noise", warning.sentence)


def test_zeros_far_round_the_body_are_cropped_anyway() -> None:
    volume = head()
    assert noise_warnings(Volume(np.pad(volume.voxels, 30), volume.spacing), manifest()) == ()
    assert noise_warnings(volume, manifest()) == ()
