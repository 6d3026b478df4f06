from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib import geometry
from KDSegmentatorLib.errors import CancelledError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.plausibility import check_finite, check_intensities

RANDOM = np.random.default_rng(0)
MR = RANDOM.gamma(2, 150, size=(20, 20, 20))
CT = np.where(RANDOM.random((20, 20, 20)) < 0.3, -1000, RANDOM.normal(40, 60, size=(20, 20, 20))).astype(np.int16)
LABELS = RANDOM.integers(0, 6, size=(20, 20, 20)).astype(np.uint8)


def volume(voxels: np.ndarray[Any, Any]) -> Volume:
    return Volume(voxels, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite(bad: float) -> None:
    voxels = MR.copy()
    voxels[3, 4, 5] = bad
    with pytest.raises(UnsuitableVolumeError, match="1 voxels are NaN, infinite or too large"):
        check_finite(volume(voxels))


@pytest.mark.parametrize("voxels", [MR.astype(complex), MR.astype(object)])
def test_voxels_that_are_no_intensities(voxels: np.ndarray[Any, Any]) -> None:
    with pytest.raises(UnsuitableVolumeError, match="real numbers"):
        check_finite(volume(voxels))


def test_constant() -> None:
    with pytest.raises(UnsuitableVolumeError, match="same value"):
        check_finite(volume(np.full((3, 3, 3), 7)))


@pytest.mark.parametrize(("voxels", "modality"), [(MR, "MR"), (MR.astype(np.uint8), "MR"), (CT, "CT")])
def test_scans_pass(voxels: np.ndarray[Any, Any], modality: Any) -> None:
    check_finite(volume(voxels))
    check_intensities(volume(voxels), modality)


def test_z_scored_mr_passes() -> None:
    check_intensities(volume((MR - MR.mean()) / MR.std()), "MR")


@pytest.mark.parametrize("voxels", [LABELS, LABELS.astype(np.float32)])
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_label_map(voxels: np.ndarray[Any, Any], modality: Any) -> None:
    with pytest.raises(UnsuitableVolumeError, match="label map"):
        check_intensities(volume(voxels), modality)


def test_sparse_label_map_is_found_beyond_the_sample() -> None:
    voxels = np.zeros((60, 60, 60), np.int16)
    voxels[30, 30, :20] = np.arange(20)
    with pytest.raises(UnsuitableVolumeError, match="label map"):
        check_intensities(volume(voxels), "MR")


def test_ct_for_an_mr_pack() -> None:
    with pytest.raises(UnsuitableVolumeError, match="looks like CT"):
        check_intensities(volume(CT), "MR")


def test_mr_for_a_ct_pack() -> None:
    with pytest.raises(UnsuitableVolumeError, match="Hounsfield"):
        check_intensities(volume(MR), "CT")


@pytest.mark.parametrize("voxels", [MR, CT], ids=["MR", "CT"])
def test_it_stops_between_slabs(monkeypatch: pytest.MonkeyPatch, voxels: np.ndarray[Any, Any]) -> None:
    monkeypatch.setattr(geometry, "_SLAB_VOXELS", 800)
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 7:
            raise CancelledError("cancelled; nothing was written")

    for stop in (check_finite, lambda volume_, check_: check_intensities(volume_, "MR", check_)):
        checks = 0
        with pytest.raises(CancelledError):
            stop(volume(voxels), check)
        assert checks == 7


def test_slabs_change_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_SLAB_VOXELS", 800)
    broken = MR.copy()
    broken[3, 4, 5] = broken[19, 0, 0] = np.nan
    with pytest.raises(UnsuitableVolumeError, match="2 voxels are NaN"):
        check_finite(volume(broken))
    check_intensities(volume(CT), "CT")
    with pytest.raises(UnsuitableVolumeError, match="looks like CT"):
        check_intensities(volume(CT), "MR")
    large = np.full((4, 30, 30), 2**60)
    large[3, 3, 3] += 1  # as float64 they are equal
    check_finite(volume(large))
