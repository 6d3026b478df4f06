"""The shipped brain packs on heads as scanners and people hand them over: the right answer or a clear refusal.

Nothing here tells accuracy; docs/validation.md does. The head is pydeface's average of whole heads, with skull and
scalp; the stripped brain is nilearn's template. Neither trained anything.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

pytest.importorskip("nilearn", reason="the template comes with nilearn: pip install 'kdsegmentator[demo]'")
if importlib.util.find_spec("pydeface") is None:
    pytest.skip("the head comes with pydeface: pip install --no-deps pydeface", allow_module_level=True)

from real_heads import load_average_head, load_template

from KDSegmentatorLib import PackStore, Segmentation, Segmenter, Volume, read_volume
from KDSegmentatorLib.analysis.overlap import dice
from KDSegmentatorLib.analysis.statistics import LabelStatistics, label_statistics
from KDSegmentatorLib.errors import UnsuitableVolumeError
from KDSegmentatorLib.geometry import MM3_PER_ML, Vector, matrix, vector

EXTRACTION, STRUCTURES = "brain-extraction", "brain-t1"
LARGE = (
    "Left cerebral white matter",
    "Right cerebral white matter",
    "Left frontal cortex",
    "Right frontal cortex",
    "Left thalamus",
    "Right thalamus",
    "Brain stem",
)
NEVER_FOUND = ("Optic chiasm",)
"""The pack's own evaluation gives it a Dice of 0: it is thinner than the voxels that the pack computes in."""

TOO_LITTLE_BRAIN = r"found nothing|found [\d.]+ ml"
NO_BRAIN = rf"{TOO_LITTLE_BRAIN}|found in the volume is too large.*Check that the volume is a scan such as"
DO_NOT_USE = {"implausible", "contrast"}
"""Whose sentences say so."""

ALARMS = {"implausible", "contrast", "missing", "empty", "cut off"}
INCOMPLETE = {"implausible", "missing", "cut off", "small", "asymmetric"}

Fractions = tuple[float, float, float]
UPPER: tuple[Fractions, Fractions] = ((0.0, 0.0, 0.5), (1.0, 1.0, 1.0))
LEFT: tuple[Fractions, Fractions] = ((0.0, 0.0, 0.0), (0.5, 1.0, 1.0))
FACE_AND_NECK: tuple[Fractions, Fractions] = ((0.0, 0.0, 0.0), (1.0, 1.0, 0.3))
"""Boxes in the head, whose x runs to the right, y to the front, z up."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PackStore:
    """Only what is shipped."""
    return PackStore(user_folder=tmp_path_factory.mktemp("packs"))


@pytest.fixture(scope="module")
def extraction(store: PackStore) -> Segmenter:
    return Segmenter(EXTRACTION, "x1/4", store=store)


@pytest.fixture(scope="module")
def structures(store: PackStore) -> Segmenter:
    return Segmenter(STRUCTURES, "x1", store=store)


@cache
def head() -> Volume:
    """The average head at 1.5 mm, which halves the time of the tests."""
    return resampled(load_average_head(), (1.5, 1.5, 1.5))


@cache
def stripped() -> Volume:
    """The template at 1.5 mm."""
    return resampled(load_template(), (1.5, 1.5, 1.5))


@pytest.fixture(scope="module")
def whole(extraction: Segmenter) -> Segmentation:
    return extraction(head())


@pytest.fixture(scope="module")
def parts(structures: Segmenter) -> Segmentation:
    return structures(head())


def resampled(volume: Volume, spacing: Vector) -> Volume:
    """Return what a scanner with these voxels (x, y, z in mm) would have averaged."""
    steps = np.divide(spacing, volume.spacing)
    blur = [max(0.0, (step - 1) / 2) for step in reversed(steps)]
    blurred = volume.with_voxels(ndimage.gaussian_filter(volume.voxels.astype(np.float32), blur))
    x, y, z = (int((count - 1) / step) + 1 for count, step in zip(volume.size, steps, strict=True))
    grid = Volume(np.zeros((z, y, x), np.float32), spacing, volume.origin, volume.direction)
    return grid.with_voxels(sampled(blurred, grid, order=1))


def sampled(volume: Volume, grid: Volume, *, order: int) -> npt.NDArray[Any]:
    """Return a volume (z, y, x) at the voxels of another one, 0 outside: order 0 is the nearest voxel, 1 linear."""
    to_index = np.linalg.inv(volume.affine) @ grid.affine
    return ndimage.affine_transform(
        volume.voxels,
        to_index[2::-1, 2::-1],  # from (x, y, z) to (z, y, x)
        to_index[2::-1, 3],
        output_shape=grid.voxels.shape,
        order=order,
        mode="grid-constant",
    )


def turned(volume: Volume, degrees: float) -> Volume:
    """Return the same voxels in a frame that is turned about the left-right axis, round the volume's middle."""
    angle = np.deg2rad(degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    direction = turn @ np.asarray(volume.direction)
    middle = (np.asarray(volume.size) - 1) / 2
    origin = (volume.affine @ [*middle, 1.0])[:3] - (direction * volume.spacing) @ middle
    return Volume(volume.voxels, volume.spacing, vector(origin), matrix(direction))


def box(volume: Volume, low: Fractions, high: Fractions) -> tuple[slice, slice, slice]:
    """Return the voxels (z, y, x) between two fractions (x, y, z) of a volume's size."""
    x, y, z = (
        slice(round(start * length), round(stop * length))
        for start, stop, length in zip(low, high, volume.size, strict=True)
    )
    return z, y, x


def part(volume: Volume, low: Fractions, high: Fractions) -> Volume:
    """Return the box between two fractions of a volume, where it is."""
    z, y, x = box(volume, low, high)
    origin = volume.affine @ [x.start, y.start, z.start, 1.0]
    return Volume(np.ascontiguousarray(volume.voxels[z, y, x]), volume.spacing, vector(origin[:3]), volume.direction)


def only_part(volume: Volume, low: Fractions, high: Fractions) -> Volume:
    """Return the same field of view with air (0) outside of a box, so that its length is no reason to refuse it."""
    voxels = np.zeros_like(volume.voxels)
    kept = box(volume, low, high)
    voxels[kept] = volume.voxels[kept]
    return volume.with_voxels(voxels)


def overlap(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    return dice((first > 0).astype(np.uint8), (second > 0).astype(np.uint8), [1])[1]


def mean_dice(reference: npt.NDArray[Any], found: Segmentation, names: Iterable[str]) -> float:
    values = {label.name: label.value for label in found.labels}
    return float(np.mean(list(dice(reference, found.volume.voxels, [values[name] for name in names]).values())))


def statistics(result: Segmentation) -> dict[str, LabelStatistics]:
    return {row.name: row for row in label_statistics(result.volume, result.labels, result.volume)}


def on_their_own_sides(result: Segmentation, names: Iterable[str]) -> bool:
    """Return whether structures were found, each on the side of the brain stem that its name says."""
    rows = statistics(result)
    found = {name: rows[name].centroid for name in (*names, "Brain stem")}
    left = {name: None if centre is None else centre[0] for name, centre in found.items()}
    middle = left["Brain stem"]
    if middle is None or None in left.values():
        return False
    return all(
        (place > middle) == name.startswith("Left")  # L is positive
        for name, place in left.items()
        if place is not None and name.startswith(("Left", "Right"))
    )


def result_unless_refused(segmenter: Segmenter, volume: Volume, reason: str) -> Segmentation | None:
    """Return the result, or None if the volume is refused; for another reason than this pattern the test fails."""
    try:
        return segmenter(volume)
    except UnsuitableVolumeError as error:
        assert re.search(reason, str(error)), error
        return None


def kinds(result: Segmentation) -> list[str]:
    """Return the kinds of the warnings, without that about what the pack is known not to find."""
    return [warning.kind for warning in result.record.warnings if warning.labels != NEVER_FOUND]


def sample(name: str) -> Path:
    folder = os.environ.get("KDSEG_DATA")
    if not folder or not (Path(folder) / "samples").is_dir():
        pytest.skip("set KDSEG_DATA to a folder with samples")
    return Path(folder) / "samples" / name


def test_a_whole_head_gives_one_brain(whole: Segmentation) -> None:
    assert ndimage.label(whole.volume.voxels)[1] == 1
    assert 1000 < np.count_nonzero(whole.volume.voxels) * whole.volume.voxel_volume / MM3_PER_ML < 2000
    assert whole.record.warnings == ()


def test_structures_of_a_whole_head(parts: Segmentation) -> None:
    found = [name for name, row in statistics(parts).items() if row.voxels]
    assert len(found) >= 44
    assert on_their_own_sides(parts, {*found, *LARGE})
    assert ALARMS.isdisjoint(kinds(parts)), parts.record.warnings


def test_structures_of_a_stripped_brain(structures: Segmenter) -> None:
    result = structures(stripped())
    assert on_their_own_sides(result, LARGE)
    assert ALARMS.isdisjoint(kinds(result)), result.record.warnings


def test_a_stripped_brain_is_kept_whole(extraction: Segmenter) -> None:
    template = load_template()
    brain = resampled(template.with_voxels(template.voxels > 0), stripped().spacing).voxels >= 0.5
    assert overlap(extraction(stripped()).volume.voxels, brain) >= 0.95


def test_the_stored_axis_order_does_not_matter(structures: Segmenter, parts: Segmentation) -> None:
    found = structures(head().reoriented("PIL")).volume  # every axis elsewhere and the other way round
    np.testing.assert_array_equal(found.reoriented(head().axis_codes).voxels, parts.volume.voxels)


@pytest.mark.parametrize(
    "spacing",
    [(0.7, 0.7, 0.7), (1.0, 1.0, 5.0), (1.0, 5.0, 1.0), (5.0, 1.0, 1.0)],
    ids=lambda each: "x".join(map(str, each)),
)
def test_other_resolutions(structures: Segmenter, parts: Segmentation, spacing: Vector) -> None:
    found = structures(resampled(head(), spacing))
    assert on_their_own_sides(found, LARGE)
    assert mean_dice(sampled(parts.volume, found.volume, order=0), found, LARGE) > 0.75


def test_slices_tilted_through_an_upright_head(extraction: Segmenter, whole: Segmentation) -> None:
    grid = turned(head(), 20)
    found = extraction(grid.with_voxels(sampled(head(), grid, order=1))).volume
    assert overlap(found.voxels, sampled(whole.volume, found, order=0)) > 0.95


def test_a_header_tilted_with_the_head(extraction: Segmenter, whole: Segmentation) -> None:
    found = extraction(turned(head(), 20)).volume
    np.testing.assert_array_equal(found.voxels, whole.volume.voxels)


@pytest.mark.parametrize(
    ("kept", "length"), [(LEFT, "87 mm left to right"), (FACE_AND_NECK, "75 mm head to foot")], ids=["left", "face"]
)
def test_a_short_field_of_view_is_refused(
    structures: Segmenter, kept: tuple[Fractions, Fractions], length: str
) -> None:
    with pytest.raises(UnsuitableVolumeError, match=rf"^the volume is too small \({length}\)"):
        structures(part(head(), *kept))


@pytest.mark.parametrize(
    "volume", [lambda: part(head(), *UPPER), lambda: only_part(head(), *LEFT)], ids=["upper part", "left half"]
)
def test_a_part_of_a_head_is_refused_or_warned_of(structures: Segmenter, volume) -> None:
    result = result_unless_refused(structures, volume(), TOO_LITTLE_BRAIN)
    assert result is None or INCOMPLETE.intersection(kinds(result))


def test_a_face_and_a_neck_are_refused_or_not_to_be_used(structures: Segmenter) -> None:
    result = result_unless_refused(structures, only_part(head(), *FACE_AND_NECK), NO_BRAIN)
    assert result is None or kinds(result)[0] in DO_NOT_USE


def test_an_abdomen_is_refused_or_not_to_be_used(structures: Segmenter) -> None:
    """A CT of thorax and abdomen that is shifted above 0, so that nothing tells that it is no MR."""
    ct = read_volume(sample("ct_thorax_abdomen_small.nii.gz"))
    shifted = ct.with_voxels(ct.voxels.astype(np.float32) - ct.voxels.min())
    middle = part(shifted, (0.17, 0.1, 0.0), (0.83, 0.9, 1.0))  # 240 x 243 x 90 mm
    missing = middle.size[2] // 2  # slices of air above and below it: as long as a head
    padded = np.pad(middle.voxels, ((missing, missing), (0, 0), (0, 0)))
    abdomen = Volume(padded, middle.spacing, middle.origin, middle.direction)
    result = result_unless_refused(structures, abdomen, NO_BRAIN)
    assert result is None or kinds(result)[0] in DO_NOT_USE


def test_a_thick_oblique_scan_is_no_silent_mistake(structures: Segmenter) -> None:
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(sample("mr_t1_thick_oblique_dicom"))))
    image = reader.Execute()
    scan = Volume(
        SimpleITK.GetArrayFromImage(image),
        vector(image.GetSpacing()),
        vector(image.GetOrigin()),
        matrix(image.GetDirection()),
    )
    result = result_unless_refused(structures, scan, rf"{TOO_LITTLE_BRAIN}|too small")
    if result is not None and not result.record.warnings:
        assert result.record.region is not None
        assert 800 < result.record.region.voxels * scan.voxel_volume / MM3_PER_ML < 2000


def test_a_ct_is_refused(structures: Segmenter) -> None:
    voxels = head().voxels
    ct = head().with_voxels(np.where(voxels < np.percentile(voxels, 40), -1000, voxels / voxels.max() * 80))
    with pytest.raises(UnsuitableVolumeError, match="looks like CT"):
        structures(ct)


def test_another_contrast_is_refused_or_warned_of(structures: Segmenter) -> None:
    """As in T2, fluid is bright and white matter dark; air and bone stay dark."""
    voxels = head().voxels
    inverted = np.where(voxels > 0.1 * voxels.max(), voxels.max() - voxels, voxels)
    result = result_unless_refused(structures, head().with_voxels(inverted), TOO_LITTLE_BRAIN)
    assert result is None or "contrast" in kinds(result)


def test_air_and_an_empty_scan_are_refused(structures: Segmenter) -> None:
    noise = np.abs(np.random.default_rng(0).normal(0, 12, head().voxels.shape)).astype(np.float32)
    with pytest.raises(UnsuitableVolumeError, match=NO_BRAIN):
        structures(head().with_voxels(noise))
    with pytest.raises(UnsuitableVolumeError, match="every voxel has the same value"):
        structures(head().with_voxels(np.zeros_like(head().voxels)))


@pytest.mark.parametrize("axes", [(0, 1), (0, 2)], ids=["about left-right", "about front-back"])
def test_an_upside_down_header_is_refused_or_implausible(structures: Segmenter, axes: tuple[int, int]) -> None:
    """The voxels (z, y, x) are those of a head turned by 180 degrees, and the header does not say so."""
    turned_over = head().with_voxels(np.ascontiguousarray(np.flip(head().voxels, axes)))
    result = result_unless_refused(structures, turned_over, "orientation")
    assert result is None or kinds(result)[:1] == ["implausible"]
