"""The shipped brain packs on heads as scanners and people hand them over: the right answer or a clear refusal.

Nothing here tells accuracy; docs/validation.md does. The head is pydeface's average of whole heads, with skull and
scalp; the stripped brain is nilearn's template. Neither trained anything. What is not there is skipped; volumes that
show no head are made here and always run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from real_heads import load_average_head, load_template
from scipy import ndimage

from KDSegmentatorLib import PackStore, Segmentation, Segmenter, Volume, read_volume
from KDSegmentatorLib.analysis.overlap import dice
from KDSegmentatorLib.analysis.statistics import LabelStatistics, label_statistics
from KDSegmentatorLib.errors import ImageReadError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import MM3_PER_ML, Vector, matrix, vector

EXTRACTION, STRUCTURES = "brain-extraction", "brain-t1"
EXTRACTION_SIZE, STRUCTURES_SIZE = "x1/4", "x1/4"
LARGE = (
    "Left cerebral white matter",
    "Right cerebral white matter",
    "Left frontal cortex",
    "Right frontal cortex",
    "Left thalamus",
    "Right thalamus",
    "Brain stem",
)
TOO_LARGE = r"found in the volume is too large.*Check that the volume is a scan such as"
ALARMS = {"implausible", "contrast", "missing", "empty", "cut off"}
NOT_THERE = {"missing", "small"}
"""What is said of a structure that is not there: a network may find a remnant of it."""

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
    return Segmenter(EXTRACTION, EXTRACTION_SIZE, store=store)


@pytest.fixture(scope="module")
def structures(store: PackStore) -> Segmenter:
    return Segmenter(STRUCTURES, STRUCTURES_SIZE, store=store)


@cache
def head() -> Volume:
    """The average head at 1.5 mm, which halves the time of the tests."""
    return resampled(installed(load_average_head), (1.5, 1.5, 1.5))


@cache
def stripped() -> Volume:
    """The template at 1.5 mm, with an edge as sharp as before."""
    soft = resampled(template(), (1.5, 1.5, 1.5))
    brain = resampled(template().with_voxels(template().voxels > 0), soft.spacing).voxels >= 0.5
    return soft.with_voxels(soft.voxels * brain)


@cache
def template() -> Volume:
    """The template as it comes, at 1 mm."""
    return installed(load_template)


def installed(load: Callable[[], Volume]) -> Volume:
    """Return a volume that comes with a package, or skip the test without it."""
    try:
        return load()
    except ImageReadError as error:
        pytest.skip(str(error))


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


def kinds(result: Segmentation, *names: str) -> set[str]:
    """Return the kinds of the warnings about any of these structures; without names, of all warnings."""
    return {
        warning.kind for warning in result.record.warnings if not names or not set(names).isdisjoint(warning.labels)
    }


def said_of_all(result: Segmentation) -> list[str]:
    """Return the kinds of the warnings about the result as a whole, the most important first."""
    return [warning.kind for warning in result.record.warnings if not warning.labels]


def sample(name: str) -> Path:
    folder = os.environ.get("KDSEG_DATA")
    if not folder or not (Path(folder) / "samples").is_dir():
        pytest.skip("set KDSEG_DATA to a folder with samples")
    return Path(folder) / "samples" / name


def series(name: str) -> Volume:
    """Return the DICOM series in a folder of the samples."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(sample(name))))
    image = reader.Execute()
    return Volume(
        SimpleITK.GetArrayFromImage(image),
        vector(image.GetSpacing()),
        vector(image.GetOrigin()),
        matrix(image.GetDirection()),
    )


def made(shape: tuple[int, int, int], voxels: Callable[[np.random.Generator], npt.NDArray[Any]]) -> Volume:
    """Return a volume of voxels of 1.5 mm that shows no head; the same one every time."""
    return Volume(voxels(np.random.default_rng(1)).reshape(shape).astype(np.float32), (1.5, 1.5, 1.5))


def noise() -> Volume:
    """192 mm along each axis, of which brain extraction takes 1.4 litres."""
    return made((128, 128, 128), lambda random: random.uniform(0, 1000, 128**3))


def wide_noise() -> Volume:
    """Air, as in a field of view of 195 x 240 x 225 mm."""
    return made((130, 160, 150), lambda random: np.abs(random.normal(0, 12, 130 * 160 * 150)))


def ball() -> Volume:
    """A smooth ball of 140 mm with little noise, of which brain extraction takes 1.3 litres."""
    z, y, x = np.ogrid[:130, :160, :150]
    inside = (z - 64.5) ** 2 + (y - 79.5) ** 2 + (x - 74.5) ** 2 < (70 / 1.5) ** 2
    return made((130, 160, 150), lambda random: np.abs(100 * inside + random.normal(0, 3, inside.shape)))


def test_a_whole_head_gives_one_brain(whole: Segmentation) -> None:
    assert ndimage.label(whole.volume.voxels)[1] == 1
    assert 1000 < np.count_nonzero(whole.volume.voxels) * whole.volume.voxel_volume / MM3_PER_ML < 2000
    assert whole.record.warnings == ()


def test_structures_of_a_whole_head(parts: Segmentation) -> None:
    found = [name for name, row in statistics(parts).items() if row.voxels]
    assert len(found) >= 0.9 * len(parts.labels)
    assert on_their_own_sides(parts, {*found, *LARGE})
    assert ALARMS.isdisjoint(kinds(parts)), parts.record.warnings
    assert said_of_all(parts) == [], parts.record.warnings


def test_structures_of_a_stripped_brain(structures: Segmenter) -> None:
    result = structures(stripped())
    assert on_their_own_sides(result, LARGE)
    assert ALARMS.isdisjoint(kinds(result)), result.record.warnings
    assert said_of_all(result) == [], result.record.warnings


def test_a_stripped_brain_is_kept_whole(extraction: Segmenter) -> None:
    assert overlap(extraction(stripped()).volume.voxels, stripped().voxels) >= 0.95


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


def test_the_upper_part_of_a_head_is_cut_off(structures: Segmenter) -> None:
    result = structures(part(head(), *UPPER))
    assert said_of_all(result)[0] == "implausible"
    for name in ("Left cerebral white matter", "Right cerebral white matter", "Brain stem"):
        assert kinds(result, name) == {"cut off"}


def test_the_left_half_of_a_head_lacks_the_right_structures(structures: Segmenter) -> None:
    result = structures(only_part(head(), *LEFT))
    assert said_of_all(result)[0] == "implausible"
    for name in ("thalamus", "putamen", "hippocampus"):
        assert NOT_THERE.intersection(kinds(result, f"Right {name}")), name
        assert NOT_THERE.isdisjoint(kinds(result, f"Left {name}")), name


def test_a_face_and_a_neck_are_not_to_be_used(structures: Segmenter) -> None:
    """What is taken for brain is not as bright and dark as one."""
    assert "contrast" in said_of_all(structures(only_part(head(), *FACE_AND_NECK)))


def test_an_abdomen_is_refused(structures: Segmenter) -> None:
    """A CT of thorax and abdomen that is shifted above 0, so that nothing tells that it is no MR."""
    ct = read_volume(sample("ct_thorax_abdomen_small.nii.gz"))
    shifted = ct.with_voxels(ct.voxels.astype(np.float32) - ct.voxels.min())
    middle = part(shifted, (0.17, 0.1, 0.0), (0.83, 0.9, 1.0))  # 240 x 243 x 90 mm
    missing = middle.size[2] // 2  # slices of air above and below it: as long as a head
    padded = np.pad(middle.voxels, ((missing, missing), (0, 0), (0, 0)))
    abdomen = Volume(padded, middle.spacing, middle.origin, middle.direction)
    with pytest.raises(UnsuitableVolumeError, match=TOO_LARGE):
        structures(abdomen)


def test_slices_that_end_in_the_brain_are_cut_off(structures: Segmenter) -> None:
    """5 mm thick and oblique, and without the top and the bottom of the head."""
    scan = series("mr_t1_thick_oblique_dicom")
    result = structures(scan)
    assert result.record.region is not None
    assert 1000 < result.record.region.voxels * scan.voxel_volume / MM3_PER_ML < 1700
    for name in ("Left cerebral white matter", "Right cerebral white matter"):
        assert kinds(result, name) == {"cut off"}


def test_a_crop_of_a_head_is_refused(structures: Segmenter, extraction: Segmenter) -> None:
    crop = series("mr_hippocampus_crop_dicom")
    for segmenter in (structures, extraction):
        with pytest.raises(UnsuitableVolumeError, match=r"^the volume is too small \(35 mm left to right"):
            segmenter(crop)


@pytest.mark.parametrize("volume", [noise, ball])
def test_what_is_as_large_as_a_brain_and_is_none_is_not_to_be_used(
    structures: Segmenter, volume: Callable[[], Volume]
) -> None:
    assert said_of_all(structures(volume()))[0] == "implausible"


def test_wide_noise_is_refused(structures: Segmenter) -> None:
    with pytest.raises(UnsuitableVolumeError, match=TOO_LARGE):
        structures(wide_noise())


def test_an_empty_scan_is_refused(structures: Segmenter) -> None:
    with pytest.raises(UnsuitableVolumeError, match="every voxel has the same value"):
        structures(made((128, 128, 128), lambda _: np.zeros(128**3)))


def test_a_ct_is_refused(structures: Segmenter) -> None:
    voxels = head().voxels
    ct = head().with_voxels(np.where(voxels < np.percentile(voxels, 40), -1000, voxels / voxels.max() * 80))
    with pytest.raises(UnsuitableVolumeError, match="looks like CT"):
        structures(ct)


def test_another_contrast_is_warned_of(structures: Segmenter) -> None:
    """As in T2, fluid is bright and white matter dark; air and bone stay dark."""
    voxels = head().voxels
    inverted = np.where(voxels > 0.1 * voxels.max(), voxels.max() - voxels, voxels)
    (contrast,) = (each for each in structures(head().with_voxels(inverted)).record.warnings if each.kind == "contrast")
    assert contrast.found is not None
    assert contrast.found < 0.5  # 0.7 is the limit


@pytest.mark.parametrize(
    "axes",
    [(0, 1), (0, 2), (1, 2), (0,), (1,)],
    ids=["about left-right", "about front-back", "about head-foot", "mirrored head to foot", "mirrored front to back"],
)
def test_a_header_with_a_wrong_orientation_is_implausible(store: PackStore, axes: tuple[int, ...]) -> None:
    """The voxels (z, y, x) are those of a head turned by 180 degrees or mirrored, and the header does not say so."""
    turned_over = head().with_voxels(np.ascontiguousarray(np.flip(head().voxels, axes)))
    thalami = Segmenter(STRUCTURES, STRUCTURES_SIZE, store=store, labels=["Left thalamus", "Right thalamus"])
    result = thalami(turned_over)
    assert {*np.unique(result.volume.voxels)} <= {0, *(label.value for label in result.labels)}
    warnings = result.record.warnings
    assert warnings[0].kind == "implausible"  # shows in all structures, not in the two
    assert "orientation" in warnings[0].sentence
    named = {name for warning in warnings for name in warning.labels if warning.pack_id.startswith(STRUCTURES)}
    assert named <= {"Left thalamus", "Right thalamus"}
