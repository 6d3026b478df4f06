from __future__ import annotations

import numpy as np
import pytest

from KDSegmentatorLib import geometry
from KDSegmentatorLib.errors import CancelledError
from KDSegmentatorLib.geometry import nonzero_box
from KDSegmentatorLib.inference.preprocessing import filled_nonzero_mask, normalize
from KDSegmentatorLib.packs.manifest import Normalization

CT = Normalization(scheme="CT", mean=40.0, std=80.0, percentile_00_5=-200.0, percentile_99_5=300.0)


def scan() -> np.ndarray:
    image = np.random.default_rng(0).normal(100, 400, size=(9, 10, 11)).round().astype(np.int16)
    image[:2] = image[:, :, -3:] = 0
    image[5, 5, 4] = 0
    return image


def test_ct_by_hand() -> None:
    image = np.array([[[-1000, -200, 40, 120, 3000]]], np.int16)
    np.testing.assert_allclose(normalize(image, CT), [[[-3.0, -3.0, 0.0, 1.0, 3.25]]])


def test_zscore_has_mean_0_and_std_1() -> None:
    normalized = normalize(scan(), Normalization(scheme="ZScore"))
    assert normalized.dtype == np.float32
    assert abs(normalized.mean()) < 1e-5 and abs(normalized.std() - 1) < 1e-5


def test_masked_zscore_leaves_the_outside_and_takes_the_hole_in() -> None:
    image = scan()
    normalized = normalize(image, Normalization(scheme="ZScore", use_mask=True))
    mask = filled_nonzero_mask(image)
    assert mask[5, 5, 4] and not mask[0].any()
    assert (normalized[~mask] == 0).all()
    assert abs(normalized[mask].mean()) < 1e-5 and abs(normalized[mask].std() - 1) < 1e-5


def before_slabs(image: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Return what one pass over the whole image gives."""
    normalized = image.astype(np.float32)
    if normalization.scheme == "CT":
        normalized = np.clip(normalized, normalization.percentile_00_5, normalization.percentile_99_5)
        normalized -= normalization.mean
        normalized /= normalization.std
        return normalized
    mean, std = normalized.mean(), normalized.std()
    normalized -= mean
    normalized /= std
    return normalized


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("normalization", [CT, Normalization(scheme="ZScore")], ids=["CT", "ZScore"])
@pytest.mark.parametrize("kind", [np.int16, np.float64])
def test_slabs_give_the_same_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch, axes: tuple[int, ...], normalization: Normalization, kind: type
) -> None:
    """Whichever way the axes lie in memory: sums are rounded in that order."""
    monkeypatch.setattr(geometry, "_SLAB_VOXELS", 3000)
    image = np.random.default_rng(0).normal(100, 400, size=(41, 53, 37)).astype(kind).transpose(axes)[1:, 2:, :-3]
    np.testing.assert_array_equal(normalize(image, normalization), before_slabs(image, normalization))


@pytest.mark.parametrize(
    "normalization", [CT, Normalization(scheme="ZScore"), Normalization(scheme="ZScore", use_mask=True)]
)
def test_it_stops_between_slabs(monkeypatch: pytest.MonkeyPatch, normalization: Normalization) -> None:
    monkeypatch.setattr(geometry, "_SLAB_VOXELS", 110)
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 9:
            raise CancelledError("cancelled; nothing was written")

    with pytest.raises(CancelledError):
        normalize(scan(), normalization, check)
    assert checks == 9


def test_input_is_not_changed() -> None:
    image = scan().astype(np.float32)
    before = image.copy()
    for normalization in (CT, Normalization(scheme="ZScore"), Normalization(scheme="ZScore", use_mask=True)):
        normalize(image, normalization)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("seed", range(5))
def test_box_equals_nnunet(seed: int) -> None:
    nnunet = pytest.importorskip("nnunetv2.preprocessing.cropping.cropping", reason="needs nnU-Net")
    random = np.random.default_rng(seed)
    image = np.where(random.random((12, 13, 14)) < 0.004, 7, 0)
    image[6, 6, 6] = 1
    _, _, box = nnunet.crop_to_nonzero(image[None].astype(np.float32))
    assert [(part.start, part.stop) for part in nonzero_box(image)] == [tuple(limits) for limits in box]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("density", [0.3, 0.6, 0.9, 1.0, 0.0])
def test_filled_mask_equals_scipy(seed: int, density: float) -> None:
    from scipy.ndimage import binary_fill_holes

    image = np.random.default_rng(seed).random((9, 11, 10)) < density
    np.testing.assert_array_equal(filled_nonzero_mask(image), binary_fill_holes(image))


def test_box_of_nothing_is_everything() -> None:
    assert nonzero_box(np.zeros((2, 3, 4))) == (slice(0, 2), slice(0, 3), slice(0, 4))
