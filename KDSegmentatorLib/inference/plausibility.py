"""Is this volume what the pack was made for? Cheap checks that catch a wrong file before minutes of work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import ImplausibleVolumeError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume, axes_along, nonzero_box, slabs
from KDSegmentatorLib.inference.region import FoundRegion, check_region_size
from KDSegmentatorLib.inference.segmentation import ResultWarning, input_warning
from KDSegmentatorLib.packs.field_of_view import field_of_view_text, lengths_text
from KDSegmentatorLib.packs.manifest import Manifest, Modality

# The limits, and what they were measured on: docs/result-checks.md

# A volume of whole numbers is a label map with fewer distinct values, or from this share of equal neighbours on;
# where neighbours of a very smooth scan differ, it is mostly by one grey level, in a label map by any number
LABEL_MAP_VALUES, LABEL_MAP_EQUAL_NEIGHBOURS, LABEL_MAP_ADJACENT = 32, 0.65, 0.5
# Every CT field of view holds so much air or lung below this value; no other modality uses it
AIR_HU, AIR_FRACTION = -200.0, 0.005
# Along each axis, times the length of the largest and of the smallest training image
TIMES_LARGEST, TIMES_SMALLEST = 1.25, 2 / 3

# Of the outermost layers of a CT that shows the patient to the end, at most this share is no air: the table
MOST_BODY_AT_END = 0.1
_LARGEST_INTENSITY = 1e12
"""Beyond it the sum of squares of a large volume is too large for float32; no scanner gives such numbers."""

# Neighbours along each axis that are looked at, of each value, and the fewest values that tell something
_PAIRS, _PAIRS_A_VALUE, _SEEN_VALUES = 200_000, 5, 8

WHOLE_VOLUME = "the volume"
"""What is judged, in messages, unless an earlier stage has found it."""


def check(
    volume: Volume,
    manifest: Manifest,
    found: FoundRegion | None = None,
    stop: Callable[[], None] = lambda: None,
    *,
    refuse: bool = True,
) -> tuple[ResultWarning, ...]:
    """Check that a volume looks like what the pack was made for; return what is odd about it but may be segmented.

    Args:
        volume: the scan, or what the network may see of it.
        manifest: of the pack.
        found: what an earlier stage found in the scan, after a look at all of it.
        stop: called again and again; may raise to stop.
        refuse: whether what does not look like it is an error; else it is a warning.

    Raises:
        UnsuitableVolumeError: it cannot be segmented.
        ImplausibleVolumeError: it does not look like it, and ``refuse``.
    """
    what = WHOLE_VOLUME
    if found is not None and manifest.region is not None and not found.alone:
        what = f"what {manifest.region.pack} found in the volume"
    check_finite(volume, stop, what)
    checks: list[Callable[[], None]] = [lambda: check_field_of_view(volume, manifest, what)]
    if found is None:
        checks.insert(0, lambda: check_intensities(volume, manifest.modality, stop, cut_off=cut_off(manifest)))
    else:
        checks.insert(0, lambda: check_region_size(found, manifest, volume))
    findings = []
    for each in checks:
        try:
            each()
        except ImplausibleVolumeError as error:
            if refuse:
                raise
            findings.append(input_warning(error.finding, manifest))
    return tuple(findings)


def check_finite(volume: Volume, check: Callable[[], None] = lambda: None, what: str = "the volume") -> None:
    """Check that every voxel can be computed with in float32.

    Args:
        volume: the scan.
        check: called again and again; may raise to stop.
        what: how to call it in a message.

    Raises:
        UnsuitableVolumeError: the voxels are not real numbers, one is NaN, infinite or beyond 1e12, or all are
            equal.
    """
    voxels = volume.voxels
    if voxels.dtype.kind not in "biuf":
        raise UnsuitableVolumeError(f"voxels of type {voxels.dtype} are no intensities; give real numbers")
    if voxels.dtype.kind == "f":
        largest = min(_LARGEST_INTENSITY, float(np.finfo(voxels.dtype).max))  # float16 ends earlier
        unusable = 0
        for part in slabs(voxels):
            check()
            piece = voxels[part]  # comparisons are False for NaN as well
            usable = (piece <= largest) & (piece >= -largest)
            unusable += usable.size - int(np.count_nonzero(usable))
        if unusable:
            raise UnsuitableVolumeError(
                f"{unusable:,} voxels are NaN, infinite or beyond {_LARGEST_INTENSITY:g}; replace them (for example by "
                "0, outside the body) first, or mend the scale of the file (scl_slope) if it is wrong"
            )
    low, high = _range(voxels, check)
    if low == high:
        raise UnsuitableVolumeError(f"every voxel has the same value ({voxels.flat[0]}); {what} shows nothing")


def cut_off(manifest: Manifest) -> float | None:
    """Return the intensity below which a pack's preprocessing takes all for the same; None if there is none."""
    return manifest.preprocessing.normalization.percentile_00_5


def check_intensities(
    volume: Volume,
    modality: Modality,
    check: Callable[[], None] = lambda: None,
    *,
    cut_off: float | None = None,
) -> None:
    """Check that the intensities can be those of a scan of this modality.

    Args:
        volume: the scan.
        modality: of the pack.
        check: called again and again; may raise to stop.
        cut_off: HU below which the pack's preprocessing takes all for the same. A CT that was cut off there already,
            as data sets of one window are, shows the network what it would see anyway.

    Raises:
        ImplausibleVolumeError: it looks like a label map, or like another modality; the message says how to overrule.
    """
    if _looks_like_label_map(volume.voxels):
        raise ImplausibleVolumeError(
            f"the volume holds fewer than {LABEL_MAP_VALUES} different whole numbers, or areas of one number each: it "
            "looks like a label map, not a scan. Give the scan itself."
        )
    air = 0
    for part in slabs(volume.voxels):
        check()
        air += int(np.count_nonzero(volume.voxels[part] < AIR_HU))
    low, high = (float(value) for value in _range(volume.voxels, check))
    if cut_off is not None and cut_off < 0 and abs(low - cut_off) < 1:
        air += sum(int(np.count_nonzero(volume.voxels[part] <= low)) for part in slabs(volume.voxels))
    in_hounsfield = air >= AIR_FRACTION * volume.voxels.size
    if modality == "CT" and not in_hounsfield:
        raise ImplausibleVolumeError(
            f"the pack is made for CT in Hounsfield units; this volume ({low:g} to {high:g}) has next to no air below "
            f"{AIR_HU:g} HU. Give a CT, rescaled to HU."
        )
    if modality == "MR" and in_hounsfield:
        raise ImplausibleVolumeError(
            f"the pack is made for MR; this volume ({low:g} to {high:g}) looks like CT in Hounsfield units. Give an MR "
            "scan."
        )


def check_field_of_view(
    volume: Volume, manifest: Manifest, what: str = WHOLE_VOLUME, *, region_known: bool = True
) -> None:
    """Check that the volume shows about as much of the body as the images that the pack was trained on.

    Lengths are compared along the pack's axis codes, so that the axis order in which a scan is stored does not matter;
    those of an oblique scan along its own axes, which is how the network sees it. A volume is too small by its own
    length, zeros included, because that is what is known of the training images. It is too large only if its non-zero
    part is: the rest is cropped before the network sees it, so that a skull-stripped brain in a wide field of zeros
    is no larger than the brain.

    Args:
        volume: the scan; for a pack with an earlier stage, nothing but the region.
        manifest: of the pack.
        what: how to call it in a message, if it is too large; too small is always the volume.
        region_known: whether the volume shows what the pack will see. Before its earlier stage has found that, whether
            it is too large cannot be told.

    Raises:
        ImplausibleVolumeError: it is too large or too small; the message says how to overrule.
    """
    trained = manifest.field_of_view
    if trained is None:
        return
    codes = manifest.preprocessing.axis_codes
    lengths = seen = volume.extent(codes)
    limits = [TIMES_LARGEST * largest if region_known else math.inf for largest in trained.largest]
    if any(length > limit for length, limit in zip(lengths, limits, strict=True)):
        nonzero = volume.voxels[nonzero_box(volume.voxels)]
        seen = Volume(nonzero, volume.spacing, volume.origin, volume.direction).extent(codes)
    large = {code: length for code, length, limit in zip(codes, seen, limits, strict=True) if length > limit}
    small = {
        code: length
        for code, length, smallest in zip(codes, lengths, trained.smallest, strict=True)
        if length < TIMES_SMALLEST * smallest and not (manifest.modality == "CT" and _ends_in_air(volume, code))
    }
    problems, remedies = [], []
    if large:
        zeros = "" if seen == lengths else ", without the zeros round it"
        problems.append(f"too large ({_lengths(large)}{zeros})")
        remedies.append(
            "Crop it to about that size, round the structures."
            if what == WHOLE_VOLUME
            else "Check that the volume is a scan such as this task is for "
            f"({manifest.modality}, {manifest.body_part.lower()}), or crop it to about that size, round the structures."
        )
    if small:
        problems.append(f"too small ({_lengths(small)})")
        remedies.append("Give a scan that shows as much.")
    if problems:
        raise ImplausibleVolumeError(
            f"{what if large else 'the volume'} is {' and '.join(problems)} for the pack, which was trained on images "
            f"of {field_of_view_text(manifest)}. {' '.join(remedies)}"
        )


def _ends_in_air(volume: Volume, code: str) -> bool:
    """Return whether a CT shows the patient to both ends along a patient axis: its outermost layers are air."""
    axis = 2 - axes_along(volume.axis_codes, code)[0]
    ends = (volume.voxels.take(end, axis=axis) for end in (0, -1))
    return all(float(np.mean(end >= AIR_HU)) <= MOST_BODY_AT_END for end in ends)


def _lengths(by_code: dict[str, float]) -> str:
    return lengths_text("".join(by_code), [f"{length:.0f}" for length in by_code.values()])


def _range(voxels: npt.NDArray[Any], check: Callable[[], None]) -> tuple[Any, Any]:
    """Return the least and the largest voxel."""
    low, high = [], []
    for part in slabs(voxels):
        check()
        low.append(voxels[part].min())
        high.append(voxels[part].max())
    return min(low), max(high)


def _looks_like_label_map(voxels: npt.NDArray[Any]) -> bool:
    sample = voxels.reshape(-1)[:: max(1, voxels.size // 10_000)]
    if not (sample == np.round(sample)).all():
        return False  # without a pass over all voxels
    if np.unique(sample).size < LABEL_MAP_VALUES:
        values = np.unique(voxels)
        if values.size < LABEL_MAP_VALUES:
            return bool((values == np.round(values)).all())
    return _consists_of_areas(voxels)


def _consists_of_areas(voxels: npt.NDArray[Any]) -> bool:
    """Return whether most values are found in areas of that value alone, whose neighbours have quite other values.

    Asked of neighbours at fixed random places, zeros left out: the background of a scan is an area as well.
    """
    pairs = [pair for axis in range(3) if voxels.shape[axis] > 1 for pair in [_neighbours(voxels, axis)] if pair.size]
    if not pairs:
        return False
    values = np.unique(np.concatenate([pair.reshape(-1) for pair in pairs]))
    if not (values == np.round(values)).all():
        return False
    shares, steps = [], []
    for pair in pairs:
        first, second = np.searchsorted(values, pair)
        count = np.bincount(first, minlength=values.size)
        equal = np.bincount(first[first == second], minlength=values.size)
        enough = count >= _PAIRS_A_VALUE
        if np.count_nonzero(enough) < _SEEN_VALUES:
            return False
        shares.append(float(np.median(equal[enough] / count[enough])))
        steps.append(np.abs(first - second)[first != second])
    differing = np.concatenate(steps)
    return bool(
        np.mean(shares) >= LABEL_MAP_EQUAL_NEIGHBOURS
        and (differing.size == 0 or np.mean(differing <= 1) <= LABEL_MAP_ADJACENT)
    )


def _neighbours(voxels: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """Return (2, n): neighbours along an axis that are both not zero."""
    shape = [length - (n == axis) for n, length in enumerate(voxels.shape)]
    random = np.random.default_rng(0)
    places = [random.integers(length, size=_PAIRS) for length in shape]
    first = voxels[tuple(places)]
    places[axis] += 1
    second = voxels[tuple(places)]
    return np.stack([first, second])[:, (first != 0) & (second != 0)]
