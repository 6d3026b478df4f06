from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from KDSegmentatorLib import geometry
from KDSegmentatorLib.errors import CancelledError, ImplausibleVolumeError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.plausibility import (
    LABEL_MAP_VALUES,
    check_finite,
    check_intensities,
)
from KDSegmentatorLib.io.images import read_volume

RANDOM = np.random.default_rng(0)
MR = RANDOM.gamma(2, 150, size=(20, 20, 20))
CT = np.where(RANDOM.random((20, 20, 20)) < 0.3, -1000, RANDOM.normal(40, 60, size=(20, 20, 20))).astype(np.int16)
LABELS = RANDOM.integers(0, 6, size=(20, 20, 20)).astype(np.uint8)


def volume(voxels: np.ndarray[Any, Any]) -> Volume:
    return Volume(voxels, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300, 1e16, -1e30])
def test_values_that_nothing_can_be_computed_with(bad: float) -> None:
    voxels = MR.copy()
    voxels[3, 4, 5] = bad
    with pytest.raises(UnsuitableVolumeError, match=r"1 voxels are NaN, infinite or beyond 1e\+12"):
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


def test_a_ct_that_was_cut_off_where_the_pack_cuts_off_passes() -> None:
    window = np.clip(CT, -125, 275)
    check_intensities(volume(window), "CT", cut_off=-125.0)
    for other in (None, -900.0):
        with pytest.raises(ImplausibleVolumeError, match="next to no air"):
            check_intensities(volume(window), "CT", cut_off=other)
    with pytest.raises(ImplausibleVolumeError, match="next to no air"):
        check_intensities(volume(MR), "CT", cut_off=-125.0)


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


def parcellation(labels: int, shape: tuple[int, int, int] = (60, 60, 60)) -> np.ndarray[Any, Any]:
    """Return a ball of areas with numbers in no order, as FreeSurfer numbers them, in a background of zeros."""
    random = np.random.default_rng(labels)
    places = np.argwhere(np.ones(shape, bool)).astype(float)
    centre = np.asarray(shape) / 2
    seeds = random.uniform(size=(labels, 3)) * shape
    numbers = random.choice(np.arange(1, 14_176), labels, replace=False)
    areas = numbers[cKDTree(seeds).query(places)[1]].reshape(shape)
    inside = (np.abs((places - centre) / centre) ** 2).sum(axis=1).reshape(shape) < 0.9
    return np.where(inside, areas, 0).astype(np.int32)


def grey_levels(voxels: np.ndarray[Any, Any], levels: int) -> np.ndarray[Any, Any]:
    low, high = np.percentile(voxels, [0, 99.5])
    return np.round(np.clip((voxels - low) / (high - low), 0, 1) * (levels - 1)).astype(np.uint8)


@pytest.mark.parametrize("labels", [40, 110, 200])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_label_map_of_many_labels(labels: int, dtype: type) -> None:
    with pytest.raises(UnsuitableVolumeError, match="areas of one number each: it looks like a label map"):
        check_intensities(volume(parcellation(labels).astype(dtype)), "MR")


def test_label_map_of_many_labels_in_thick_slices() -> None:
    with pytest.raises(UnsuitableVolumeError, match="label map"):
        check_intensities(volume(parcellation(110)[::4]), "MR")


def test_label_map_of_structures_that_do_not_touch() -> None:
    voxels = np.zeros((50, 50, 50), np.uint8)
    for n in range(125):
        z, y, x = (10 * each for each in np.unravel_index(n, (5, 5, 5)))
        voxels[z : z + 7, y : y + 7, x : x + 7] = n + 1
    with pytest.raises(UnsuitableVolumeError, match="label map"):
        check_intensities(volume(voxels), "MR")


def variants(scan: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return what is done to scans before anyone segments them, in whole numbers all."""
    smooth = scan.astype(np.float32)
    found = {"itself": scan, "thick slices": scan[:: max(1, scan.shape[0] // 20)]}
    for levels in (40, 64, 256):
        found[f"{levels} grey levels"] = grey_levels(scan, levels)
        for blur in (1.5, 4, 8):
            found[f"blurred by {blur}, {levels} grey levels"] = grey_levels(gaussian_filter(smooth, blur), levels)
        twice = grey_levels(scan, levels)[:90, :90, :90].repeat(2, 0).repeat(2, 1).repeat(2, 2)
        found[f"every voxel repeated, {levels} grey levels"] = twice
        low, high = np.percentile(scan, [60, 90])
        found[f"clipped, {levels} grey levels"] = 1 + grey_levels(np.clip(scan, low, high), levels)
    masked = grey_levels(scan, 256)
    masked[: masked.shape[0] // 2] = 0
    found["mostly zero"] = masked
    return {name: voxels for name, voxels in found.items() if np.unique(voxels).size >= LABEL_MAP_VALUES}


def test_generated_scans_are_no_label_maps() -> None:
    tissue = gaussian_filter(np.random.default_rng(1).normal(size=(60, 60, 60)), 5)
    scan = (np.digitize(tissue, np.quantile(tissue, [0.3, 0.5, 0.7])) * 250).astype(np.float32)
    scan += np.random.default_rng(2).normal(scale=30, size=scan.shape).astype(np.float32)
    for name, voxels in variants(np.round(scan).astype(np.int16)).items():
        try:
            check_intensities(volume(voxels), "MR")
        except UnsuitableVolumeError as error:
            assert "label map" not in str(error), name


def data_files(pattern: str) -> list[Path]:
    folder = os.environ.get("KDSEG_DATA")
    if folder is None:
        pytest.skip("set KDSEG_DATA to a folder with Dataset004_Hippocampus and others")
    found = sorted(Path(folder).glob(pattern))
    if not found:
        pytest.skip(f"{folder} has no {pattern}")
    return found


@pytest.mark.parametrize("pattern", ["SynthSegLabelMaps/*.nii.gz", "Dataset*/labelsTr/*.nii.gz"])
def test_real_label_maps(pattern: str) -> None:
    files = data_files(pattern)
    for path in files[:: max(1, len(files) // 15)]:
        with pytest.raises(UnsuitableVolumeError, match="label map"):
            check_intensities(read_volume(path), "MR")


@pytest.mark.parametrize("pattern", ["Dataset*/imagesTr/*.nii.gz", "samples/*.nii.gz"])
def test_real_scans_are_no_label_maps(pattern: str) -> None:
    for number, path in enumerate(data_files(pattern)):
        voxels = read_volume(path).voxels
        for name, changed in (variants(voxels) if number % 80 == 0 else {"itself": voxels}).items():
            try:
                check_intensities(volume(changed), "MR")
            except UnsuitableVolumeError as error:
                assert "label map" not in str(error), (path, name)
