from __future__ import annotations

import math
import warnings
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.analysis.surface_distance import Agreement, SurfaceKind, hd95_of, surface_agreement
from KDSegmentatorLib.errors import GeometryError, InvalidSettingsError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Vector, Volume

SPACINGS: list[Vector] = [
    (1.0, 1.0, 1.0),
    (0.7, 0.7, 0.7),
    (0.9375, 0.9375, 1.5),
    (0.4, 0.4, 5.0),
    (3.0, 0.5, 1.2),
    tuple(float(np.float32(length)) for length in (0.7, 0.8, 1.1)),  # as read from a NIfTI header
]
LABELS = (1, 2, 3)

any_spacing = st.tuples(*[st.floats(0.2, 8.0)] * 3)


def monai(first: Volume, second: Volume, tolerance_mm: float, *, subvoxel: bool = False) -> tuple[list[float], ...]:
    """Return MONAI's NSD and HD95 of every label, float32."""
    torch = pytest.importorskip("torch", reason="needs torch, which MONAI does")
    metrics = pytest.importorskip("monai.metrics", reason="needs MONAI to compare with")
    one_hot = [
        torch.from_numpy(np.stack([volume.voxels == value for value in (0, *LABELS)]))[None]
        for volume in (second, first)
    ]
    spacing = first.spacing[::-1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is all 0.*")
        nsd = metrics.compute_surface_dice(*one_hot, [tolerance_mm] * 3, spacing=spacing, use_subvoxels=subvoxel)
        hd95 = metrics.compute_hausdorff_distance(*one_hot, percentile=95, spacing=spacing)
    return nsd[0].tolist(), hd95[0].tolist()


def check_against_monai(first: Volume, second: Volume, tolerance_mm: float) -> None:
    ours = surface_agreement(first, second, LABELS, tolerance_mm=tolerance_mm)
    finer = surface_agreement(first, second, LABELS, tolerance_mm=tolerance_mm, surface="subvoxel")
    nsd, hd95 = monai(first, second, tolerance_mm)
    subvoxel, _ = monai(first, second, tolerance_mm, subvoxel=True)
    for value, *theirs in zip(LABELS, nsd, hd95, subvoxel, strict=True):
        mine = ours[value]
        in_one_only = (mine.first_voxels == 0) != (mine.second_voxels == 0)
        np.testing.assert_equal(float(np.float32(mine.nsd)), theirs[0])
        np.testing.assert_equal(mine.hd95_mm, math.inf if in_one_only else theirs[1])
        # MONAI sums areas in float32
        np.testing.assert_allclose(finer[value].nsd, theirs[2], rtol=2e-6)
        assert finer[value].hd95_mm == mine.hd95_mm or math.isnan(mine.hd95_mm)


def blobs(seed: int, shape: tuple[int, int, int], spacing: Vector) -> tuple[Volume, Volume]:
    """Return two similar label maps; labels reach the faces of the image."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(length) for length in shape), indexing="ij"), axis=-1)
    centres = random.uniform(0, shape, size=(len(LABELS), 3))
    volumes = []
    for _ in range(2):
        distances = np.linalg.norm(grid[..., None, :] - centres + random.normal(0, 0.7, (*shape, 1, 3)), axis=-1)
        voxels = distances.argmin(axis=-1) + 1
        voxels[distances.min(axis=-1) > shape[0] / 3] = 0
        volumes.append(Volume(voxels.astype(np.uint8), spacing))
    return volumes[0], volumes[1]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.1])
def test_similar_labels_as_in_monai(spacing: Vector, tolerance: float) -> None:
    check_against_monai(*blobs(4, (19, 24, 21), spacing), tolerance)


@settings(max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(SPACINGS) | any_spacing,
    st.sampled_from([0.02, 0.3, 0.9]),
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([0, 1, 2]),
)
def test_any_labels_as_in_monai(seed: int, spacing: Vector, share: float, steps: int, axis: int) -> None:
    """The tolerance is a distance that occurs: whether it is within must not depend on rounding."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 10, size=3))
    first, second = (
        Volume(np.where(random.random(shape) < share, random.integers(0, 4, shape), 0).astype(np.uint8), spacing)
        for _ in range(2)
    )
    check_against_monai(first, second, steps * spacing[axis])


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000) | st.integers(1, 400_000), any_spacing)
def test_percentile_as_in_torch(seed: int, count: int, spacing: Vector) -> None:
    """To the last digit for surfaces of any size: the rank between two distances must not be rounded otherwise."""
    torch = pytest.importorskip("torch", reason="needs torch, whose quantile MONAI calls")
    steps = np.random.default_rng(seed).integers(0, 7, (count, 3)) * spacing
    distances = np.linalg.norm(steps, axis=1).astype(np.float32)
    assert hd95_of(distances) == torch.quantile(torch.from_numpy(distances), 95 / 100).item()


def line(*values: int) -> Volume:
    """Return voxels in a row along i, 2 mm apart."""
    return Volume(np.array([[values]], dtype=np.uint8), (2.0, 3.0, 5.0))


def test_by_hand() -> None:
    # surfaces (a row is all surface): first at 2, 4, 6 mm; second at 4, 6, 8, 10 mm
    first, second = line(0, 1, 1, 1, 0, 0, 0), line(0, 0, 1, 1, 1, 1, 0)
    scores = surface_agreement(first, second, [1], tolerance_mm=2)[1]
    assert (scores.first_voxels, scores.second_voxels) == (3, 4)
    assert scores.dice == pytest.approx(2 * 2 / 7)
    assert scores.nsd == pytest.approx((3 + 3) / 7)  # all but the voxel at 10 mm
    # distances 2, 0, 0 and 0, 0, 2, 4: 95 % of the way from rank 0 to rank 3 is 0.85 from 2 to 4
    assert scores.hd95_mm == pytest.approx(2 + 0.85 * 2, rel=1e-6)
    assert surface_agreement(first, second, [1], tolerance_mm=1.99)[1].nsd == pytest.approx(4 / 7)
    assert surface_agreement(first, second, [1], tolerance_mm=4)[1].nsd == 1


def test_distances_follow_the_spacing_of_each_axis() -> None:
    for axis, spacing in ((2, 2.0), (1, 3.0), (0, 5.0)):
        first, second = np.zeros((2, 4, 4, 4), dtype=np.uint8)
        first[1, 1, 1] = 1
        second[tuple(2 if other == axis else 1 for other in range(3))] = 1
        volumes = (Volume(voxels, (2.0, 3.0, 5.0)) for voxels in (first, second))
        assert surface_agreement(*volumes, [1])[1].hd95_mm == spacing


@pytest.mark.parametrize("surface", ["voxels", "subvoxel"])
def test_empty_labels(surface: SurfaceKind) -> None:
    first, second = line(1, 1, 0, 0, 3), line(0, 0, 2, 0, 3)
    scores = surface_agreement(first, second, [1, 2, 3, 4], surface=surface)
    assert astuple(scores[1]) == (2, 0, 0.0, 0.0, math.inf)
    assert astuple(scores[2]) == (0, 1, 0.0, 0.0, math.inf)
    assert astuple(scores[3]) == (1, 1, 1.0, 1.0, 0.0)
    absent = scores[4]
    assert (absent.first_voxels, absent.second_voxels) == (0, 0)
    assert all(math.isnan(score) for score in (absent.dice, absent.nsd, absent.hd95_mm))
    nothing = line(0, 0, 0, 0, 0)
    assert math.isnan(surface_agreement(nothing, nothing, [1], surface=surface)[1].dice)


@pytest.mark.parametrize("surface", ["voxels", "subvoxel"])
def test_the_order_of_the_two_does_not_matter(surface: SurfaceKind) -> None:
    first, second = blobs(1, (12, 14, 16), (1.0, 0.8, 2.5))
    there = surface_agreement(first, second, LABELS, surface=surface)
    back = surface_agreement(second, first, LABELS, surface=surface)
    for value in LABELS:
        assert there[value].nsd == pytest.approx(back[value].nsd, rel=1e-12)
        assert (there[value].dice, there[value].hd95_mm) == (back[value].dice, back[value].hd95_mm)


@pytest.mark.parametrize("surface", ["voxels", "subvoxel"])
def test_the_axis_order_does_not_matter(surface: SurfaceKind) -> None:
    first, second = blobs(2, (12, 14, 16), (1.0, 0.8, 2.5))
    expected = surface_agreement(first, second, LABELS, surface=surface)
    for codes in ("SAR", "AIL"):
        turned = surface_agreement(first.reoriented(codes), second.reoriented(codes), LABELS, surface=surface)
        for value in LABELS:
            assert astuple(turned[value]) == pytest.approx(astuple(expected[value]), rel=1e-6)


def test_what_lies_around_does_not_matter() -> None:
    """Cropping is exact: the same labels in a much larger image, amid others, score the same."""
    first, second = blobs(3, (12, 14, 16), (1.0, 0.8, 2.5))
    expected = surface_agreement(first, second, LABELS)

    def amid(volume: Volume) -> Volume:
        voxels = np.pad(volume.voxels, ((9, 20), (3, 0), (11, 7)))
        voxels[-1, -1] = 9
        return Volume(voxels, volume.spacing)

    assert surface_agreement(amid(first), amid(second), LABELS) == expected


def test_threads_do_not_matter() -> None:
    first, second = blobs(5, (12, 14, 16), (1.0, 1.0, 1.0))
    one: dict[int, Agreement] = surface_agreement(first, second, LABELS, threads=1)
    assert surface_agreement(first, second, LABELS, threads=3) == one


def test_bad_arguments() -> None:
    first = line(1, 1, 0)
    for tolerance in (-0.1, math.nan, math.inf):
        with pytest.raises(InvalidSettingsError, match="tolerance"):
            surface_agreement(first, first, [1], tolerance_mm=tolerance)
    with pytest.raises(InvalidSettingsError, match="foreground"):
        surface_agreement(first, first, [0])
    with pytest.raises(GeometryError, match="same grid"):
        surface_agreement(first, Volume(first.voxels, (2.1, 3.0, 5.0)), [1])
    with pytest.raises(UnsuitableVolumeError, match="the second segmentation"):
        surface_agreement(first, first.with_voxels(first.voxels + 0.5), [1])
