"""Patches as nnU-Net's pipeline has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("batchgeneratorsv2", reason="install the extra 'distill'")
pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from nnunetv2.training.logging.nnunet_logger import LocalLogger  # noqa: E402
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: E402

from distillation.augmentation import (  # noqa: E402
    BiasField,
    RandomContrast,
    ThickSlices,
    intensity_range,
    random_curve,
    slices_and_back,
    with_augmentation,
)
from distillation.launch import Workspace  # noqa: E402
from distillation.training_settings import NNUNETS_OWN, AugmentationSettings  # noqa: E402
from support.tiny_training import PLAIN, checkpoint, folder_of, run, small_plans  # noqa: E402


@pytest.fixture
def patch() -> dict[str, Any]:
    """A skull-stripped brain, all but: a ball with tissue and noise, 0 and label -1 round it; two channels."""
    grid = np.indices((20, 28, 24)) - np.array([9.5, 13.5, 11.5])[:, None, None, None]
    radius = np.sqrt((grid**2).sum(0))
    random = np.random.default_rng(0)
    tissue = np.sin(radius) + 0.1 * random.standard_normal(radius.shape)
    image = np.where(radius < 9, np.stack([tissue, 2 - tissue]), 0).astype(np.float32)
    labels = np.where(radius < 9, (radius < 4).astype(np.int16), np.int16(-1))[None]
    return {"image": torch.from_numpy(image), "segmentation": torch.from_numpy(labels)}


@pytest.fixture
def changed_by(patch: dict[str, Any]) -> Callable[..., npt.NDArray[np.float32]]:
    """A function that returns the image after a transform: changed_by(transform, seed=...)."""

    def change(transform: Any, seed: int = 0) -> npt.NDArray[np.float32]:
        np.random.seed(seed)
        image: npt.NDArray[np.float32] = transform(**patch)["image"].numpy()
        return image

    return change


SPACING = (1.5, 1.0, 1.25)
ALL = [RandomContrast(), BiasField(SPACING), ThickSlices(SPACING)]


@pytest.mark.parametrize("transform", ALL, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("seed", range(5))
def test_only_the_inside_changes_and_keeps_its_statistics(
    patch: dict[str, Any], changed_by: Callable[..., Any], transform: Any, seed: int
) -> None:
    before, labels = patch["image"].numpy().copy(), patch["segmentation"].numpy().copy()
    after = changed_by(transform, seed)
    inside = labels[0] >= 0
    np.testing.assert_array_equal(after[:, ~inside], 0)
    assert not np.allclose(after[:, inside], before[:, inside], atol=1e-3)
    for old, new in zip(before, after, strict=True):
        assert new[inside].mean() == pytest.approx(old[inside].mean(), abs=1e-4)
        assert new[inside].std() == pytest.approx(old[inside].std(), rel=1e-4)
    np.testing.assert_array_equal(patch["image"].numpy(), before)
    np.testing.assert_array_equal(patch["segmentation"].numpy(), labels)
    assert (after.dtype, after.shape) == (before.dtype, before.shape)


@pytest.mark.parametrize("transform", ALL, ids=lambda each: type(each).__name__)
def test_numpys_state_decides(changed_by: Callable[..., Any], transform: Any) -> None:
    """A resumed training seeds it anew every epoch, and sees the same patches."""
    np.testing.assert_array_equal(changed_by(transform, 1), changed_by(transform, 1))
    assert not np.array_equal(changed_by(transform, 1), changed_by(transform, 2))


@pytest.mark.parametrize("transform", ALL, ids=lambda each: type(each).__name__)
def test_patches_with_nothing_to_see_stay(transform: Any) -> None:
    constant = {"image": torch.full((1, 8, 8, 8), 0.5), "segmentation": torch.zeros(1, 8, 8, 8, dtype=torch.int16)}
    noise = {"image": torch.randn(1, 8, 8, 8), "segmentation": torch.full((1, 8, 8, 8), -1, dtype=torch.int16)}
    for patch in (constant, noise):
        before = patch["image"].clone()
        after = transform(**patch)["image"]
        assert torch.isfinite(after).all()
        if patch is noise:
            assert torch.equal(after, before)


def test_the_range_leaves_outliers_out() -> None:
    values = np.linspace(0, 1, 80_001, dtype=np.float32)
    values[-8:] = 100
    assert intensity_range(values) == pytest.approx((0.005, 0.995), abs=1e-3)


@given(st.integers(0, 2**32 - 1))
def test_a_curve_turns_once_at_most(seed: int) -> None:
    knots, values = random_curve(np.random.default_rng(seed))
    assert (knots[0], knots[-1]) == (0, pytest.approx(1))
    assert (np.diff(knots) > 0).all()
    signs = np.sign(np.diff(values))
    assert (signs != 0).all()
    assert np.count_nonzero(np.diff(signs)) <= 1


def test_half_of_the_curves_rise_and_the_others_are_of_every_kind() -> None:
    kinds = [np.sign(np.diff(random_curve(np.random.default_rng(seed))[1])) for seed in range(1000)]
    rising = np.mean([bool((signs > 0).all()) for signs in kinds])
    falling = np.mean([bool((signs < 0).all()) for signs in kinds])
    peaked = np.mean([signs[0] > 0 > signs[-1] for signs in kinds])
    hollow = np.mean([signs[0] < 0 < signs[-1] for signs in kinds])
    assert rising == pytest.approx(0.5, abs=0.05)
    assert min(falling, peaked, hollow) > 0.08


def test_equal_intensities_stay_equal(patch: dict[str, Any], changed_by: Callable[..., Any]) -> None:
    """One curve for every voxel: whatever had one intensity has one afterwards."""
    patch["image"] = (patch["image"] * 4).round() / 4
    before = patch["image"].numpy()[0]
    after = changed_by(RandomContrast(), 3)[0]
    inside = patch["segmentation"][0].numpy() >= 0
    for value in np.unique(before[inside]):
        assert np.ptp(after[inside & (before == value)]) < 1e-6


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


@given(st.integers(2, 80), st.floats(1.01, 6), st.floats(0, 0.999))
def test_what_changes_slowly_is_kept(count: int, thickness: float, phase: float) -> None:
    operator = slices_and_back(count, thickness, phase)
    assert operator.shape == (count, count)
    assert (operator >= 0).all()
    np.testing.assert_allclose(operator.sum(axis=1), 1, atol=1e-5)
    ramp = np.arange(count, dtype=np.float32)
    margin = int(np.ceil(2 * thickness))
    inner = slice(margin, count - margin)
    np.testing.assert_allclose((operator @ ramp)[inner], ramp[inner], atol=thickness / 8 + 1e-3)


def test_whole_slices_by_hand() -> None:
    """Slices of two voxels, middles at 1, 3, 5: means, and between them a line."""
    operator = slices_and_back(6, 2.0, 0.0)
    voxels = np.array([0, 2, 4, 4, 8, 0], dtype=np.float32)  # means 1, 4, 4
    np.testing.assert_allclose(operator @ voxels, [1, 1 + 0.75, 1 + 2.25, 4, 4, 4], atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_detail_is_lost_along_one_axis_only(seed: int) -> None:
    random = np.random.default_rng(100 + seed)
    image = random.standard_normal((24, 26, 28)).astype(np.float32)
    changed = ThickSlices((0.5, 0.5, 0.5)).changed(image, np.ones(image.shape, dtype=bool), random)
    steps = [np.abs(np.diff(changed, axis=axis)).mean() / changed.std() for axis in range(3)]
    assert sum(step < 0.7 for step in steps) == 1
    assert sum(step > 1.0 for step in steps) == 2


def test_the_outside_takes_no_part() -> None:
    image = np.full((12, 12, 12), 5, dtype=np.float32)
    inside = np.zeros(image.shape, dtype=bool)
    inside[3:9, 2:10, 4:9] = True
    image[~inside] = -1000
    for seed in range(6):
        changed = ThickSlices((1.0, 1.0, 1.0)).changed(image, inside, np.random.default_rng(seed))
        np.testing.assert_allclose(changed[inside], 5, rtol=1e-5)


def test_voxels_that_are_as_thick_stay() -> None:
    image = np.random.default_rng(0).standard_normal((8, 8, 8)).astype(np.float32)
    changed = ThickSlices((7.0, 7.0, 7.0)).changed(image, np.ones(image.shape, dtype=bool), np.random.default_rng(1))
    np.testing.assert_array_equal(changed, image)


PATCH = (16, 24, 16)


def stock(*, in_plane: bool = False, masked: bool = True) -> Any:
    return nnUNetTrainer.get_training_transforms(
        PATCH, (-0.5, 0.5), [[1, 1, 1]], None, in_plane, use_mask_for_norm=[masked]
    )


def names(pipeline: Any) -> list[str]:
    return [type(getattr(each, "transform", each)).__name__ for each in pipeline.transforms]


def drawn(pipeline: Any, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    np.random.seed(seed)
    image, labels = torch.randn(1, *PATCH), torch.randint(-1, 3, (1, *PATCH), dtype=torch.int16)
    image: torch.Tensor = pipeline(image=image, segmentation=labels)["image"]
    return image


@pytest.mark.parametrize("in_plane", [False, True])
def test_ours_come_between_space_and_noise(in_plane: bool) -> None:
    settings = AugmentationSettings(random_contrast=0.5, bias_field=0.1, thick_slices=1)
    found = names(with_augmentation(stock(in_plane=in_plane), settings, (1.0, 1.0, 1.0)))
    place = found.index("RandomContrast")
    assert found[place : place + 4] == ["RandomContrast", "BiasField", "ThickSlices", "GaussianNoiseTransform"]
    assert found[place - 1] == ("Convert2DTo3DTransform" if in_plane else "SpatialTransform")
    assert [name for name in found if name not in found[place : place + 3]] == names(stock(in_plane=in_plane))


def test_nothing_is_nnunets_own_to_the_last_random_number() -> None:
    ours = with_augmentation(stock(), NNUNETS_OWN, (1.0, 1.0, 1.0))
    assert names(ours) == names(stock())
    for seed in range(5):
        assert torch.equal(drawn(ours, seed), drawn(stock(), seed))


def test_what_lies_outside_stays_at_nnunets_zero() -> None:
    pipeline = with_augmentation(
        stock(), AugmentationSettings(random_contrast=1, bias_field=1, thick_slices=1), (1.0, 1.0, 1.0)
    )
    for seed in range(5):
        torch.manual_seed(seed)
        labels = torch.randint(-1, 3, (1, *PATCH), dtype=torch.int16)
        sample = pipeline(image=torch.randn(1, *PATCH), segmentation=labels)
        assert torch.isfinite(sample["image"]).all()
        assert (sample["image"] == 0).any()
        assert sample["segmentation"][0].min() >= 0


def test_nearest_labels_differ_at_borders_only() -> None:
    blocks = torch.arange(8, dtype=torch.int16).reshape(2, 2, 2)
    labels = blocks.repeat_interleave(8, 0).repeat_interleave(12, 1).repeat_interleave(8, 2)[None]
    nearest = with_augmentation(
        stock(masked=False), AugmentationSettings(label_interpolation="nearest"), (1.0, 1.0, 1.0)
    )
    differing_somewhere = False
    for seed in range(20):
        samples = []
        for pipeline in (stock(masked=False), nearest):
            torch.manual_seed(seed)
            np.random.seed(seed)
            samples.append(pipeline(image=torch.randn(1, *PATCH), segmentation=labels))
        linear, other = samples
        assert torch.equal(linear["image"], other["image"])
        differing = linear["segmentation"][0] != other["segmentation"][0]
        assert set(other["segmentation"][0].unique().tolist()) <= set(range(-1, 8))
        assert differing.float().mean() < 0.1
        differing_somewhere |= bool(differing.any())
    assert differing_somewhere


pytestmark = [pytest.mark.training, pytest.mark.usefixtures("everything_in_this_process")]

ALWAYS = AugmentationSettings(random_contrast=0.7, bias_field=0.7, thick_slices=0.7)


def weights(space: Workspace, plans: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint(folder_of(space, PLAIN, plans))["network_weights"]
    return found


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_was_broken_off_goes_on_to_the_same_weights(
    prepared_spheres: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 2, "iterations_per_epoch": 2}
    whole, stopped, stock = (
        small_plans(prepared_spheres, f"nnUNetPlans_augmented_{name}", **options, **augmentation)
        for name, augmentation in (("a", {"augmentation": ALWAYS}), ("b", {"augmentation": ALWAYS}), ("c", {}))
    )

    def stopping(self: Any, folder: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalLogger, "plot_progress_png", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(prepared_spheres, stopped)
    for plans in (whole, stopped, stock):
        run(prepared_spheres, plans)
    assert equal(weights(prepared_spheres, whole), weights(prepared_spheres, stopped))
    assert not equal(weights(prepared_spheres, whole), weights(prepared_spheres, stock))
