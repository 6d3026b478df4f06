"""Label maps: whole numbers that name structures, the box of each, and one label of two maps at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.analysis.surface_elements import reach
from KDSegmentatorLib.errors import GeometryError, InvalidSettingsError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Vector, Volume
from KDSegmentatorLib.inference.plausibility import LABEL_MAP_VALUES
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback, Steps
from KDSegmentatorLib.machine.hardware import usable_cores
from KDSegmentatorLib.packs.manifest import MAXIMUM_LABELS

Box = tuple[slice, slice, slice]
"""Where something lies in an array, (z, y, x)."""

LabelVoxels = npt.NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """The labels of a volume.

    Attributes:
        voxels: label values, (z, y, x), 0 is background.
        boxes: label value to the smallest box that holds it, for the values that occur, in ascending order.
    """

    voxels: LabelVoxels
    boxes: dict[int, Box]


def label_map(volume: Volume, title: str = "the volume") -> LabelMap:
    """Return a volume's labels; voxels of 8 or 16 bits without sign are not copied.

    Args:
        volume: label values in any number format.
        title: what to call the volume in an error message.

    Raises:
        UnsuitableVolumeError: the voxels are not whole numbers from 0 to ``MAXIMUM_LABELS``, or change from voxel to
            voxel as a scan's do.
    """
    from scipy.ndimage import find_objects

    voxels = _whole_numbers(volume.voxels, title)
    found = enumerate(find_objects(voxels), start=1)
    boxes = {value: box for value, box in found if box is not None}
    if len(boxes) >= LABEL_MAP_VALUES and _changes_all_the_time(voxels):
        raise UnsuitableVolumeError(
            f"{title} holds {len(boxes):,} different values that change from voxel to voxel: it looks like a scan, not "
            "a label map; give a segmentation"
        )
    return LabelMap(voxels=voxels, boxes=boxes)


def _whole_numbers(voxels: npt.NDArray[Any], title: str) -> LabelVoxels:
    if voxels.dtype in (np.uint8, np.uint16):
        return voxels
    if voxels.dtype.kind not in "biuf":
        raise UnsuitableVolumeError(f"{title} has voxels of type {voxels.dtype}; a label map holds whole numbers")
    low, high = float(voxels.min()), float(voxels.max())
    if not (low >= 0 and high <= MAXIMUM_LABELS):  # also if one of them is NaN
        raise UnsuitableVolumeError(
            f"{title} is not a label map: its values go from {low:g} to {high:g}, and labels are whole numbers from 0 "
            f"to {MAXIMUM_LABELS}; give a segmentation"
        )
    whole = voxels.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)
    if voxels.dtype.kind == "f" and not np.array_equal(whole, voxels):
        raise UnsuitableVolumeError(
            f"{title} is not a label map: some of its values are not whole numbers (it may be a scan, or a probability)"
            "; give a segmentation"
        )
    return whole


def _changes_all_the_time(voxels: LabelVoxels) -> bool:
    """Return whether fewer than half of the foreground voxels have the value of their neighbour along i."""
    foreground = voxels[:, :, 1:] > 0
    same = np.count_nonzero(foreground & (voxels[:, :, 1:] == voxels[:, :, :-1]))
    return bool(2 * same < np.count_nonzero(foreground))


T = TypeVar("T")

TITLES = ("the first segmentation", "the second segmentation")
"""What two segmentations are called in an error message, unless the caller knows better."""

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelPair:
    """Where two segmentations have one label.

    Both masks are cropped to the box of their union, with a border of False around it that is one voxel wider than
    :func:`~KDSegmentatorLib.analysis.surface_elements.reach`. Nothing outside of that box can change a result: every
    surface element of either mask, and so the nearest of them to any other, lies in the box or half a voxel outside,
    and a surface at the edge of the image is closed by the border, as if background followed.

    Attributes:
        value: the label.
        first: (z, y, x), C-contiguous.
        second: same shape.
        corner: (z, y, x) of the masks' first voxel in the volume, negative where the border reaches out of it.
        spacing: (z, y, x) in mm.
    """

    value: int
    first: npt.NDArray[np.bool_]
    second: npt.NDArray[np.bool_]
    corner: tuple[int, int, int]
    spacing: Vector


def on_same_grid(first: Volume, second: Volume, titles: tuple[str, str]) -> Volume:
    """Return the second segmentation on the first one's grid, to be compared voxel by voxel; nothing is resampled.

    The same voxels stored in another axis order, as LPS and RAS, are put into the first one's, which is exact.

    Raises:
        GeometryError: they do not share a grid; the message has both.
    """
    if first.same_grid(second):
        return second
    reordered = second.reoriented(first.axis_codes)
    if first.same_grid(reordered):
        return reordered
    raise GeometryError(
        f"{titles[0]} ({_described(first)}) and {titles[1]} ({_described(second)}) are not on the same grid; "
        "resample one onto the other's grid first, with nearest-neighbour interpolation"
    )


def each_label(
    first: LabelMap,
    second: LabelMap,
    spacing: Vector,
    values: Iterable[int],
    work: Callable[[LabelPair], T],
    *,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelCheck | None = None,
) -> dict[int, T]:
    """Return what ``work`` makes of each label that at least one of two label maps has.

    Args:
        first: label map.
        second: label map of the same shape.
        spacing: (i, j, k) in mm.
        values: the labels, each > 0.
        work: called in several threads.
        threads: how many; None takes all cores that this process may use.
        progress: called with the stage ``compare``, one step a label.
        cancel: asked again and again; labels that were begun are finished.

    Returns:
        By label, in the order of ``values``; labels that are in neither are left out.

    Raises:
        CancelledError: the caller cancelled.
        InvalidSettingsError: a value is not a foreground label, or ``threads`` is not positive.
    """
    wanted = list(dict.fromkeys(values))
    for value in wanted:
        if value < 1:
            raise InvalidSettingsError(f"only foreground labels can be compared, got {value}")
    if threads is not None and threads < 1:
        raise InvalidSettingsError(f"at least one thread is needed, got {threads}")
    boxes = {value: box for value in wanted if (box := _union(first.boxes.get(value), second.boxes.get(value)))}
    zyx = spacing[::-1]

    def finished(value: int) -> T:
        return work(_crop(first, second, value, boxes[value], zyx))

    steps = Steps("compare", max(1, len(boxes)), progress, cancel)
    # the largest first, so that no core is left with it at the end
    order = sorted(boxes, key=lambda value: -_voxels(boxes[value]))
    executor = ThreadPoolExecutor(max_workers=min(threads or usable_cores(), max(1, len(order))))
    try:
        futures = {executor.submit(finished, value): value for value in order}
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
            for future in done:
                future.result()  # an error of one label ends the work at once
            if done:
                steps.advance(len(done))
            else:
                steps.check()
    finally:
        executor.shutdown(cancel_futures=True)
    results = {value: future.result() for future, value in futures.items()}
    return {value: results[value] for value in boxes}


def _union(first: Box | None, second: Box | None) -> Box | None:
    if first is None or second is None:
        return first or second
    z, y, x = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return z, y, x


def _crop(first: LabelMap, second: LabelMap, value: int, box: Box, spacing: Vector) -> LabelPair:
    border = [voxels + 1 for voxels in reach(spacing)]
    inner = tuple(slice(width, width + side.stop - side.start) for width, side in zip(border, box, strict=True))
    shape = [width + side.stop for width, side in zip(border, inner, strict=True)]
    masks = []
    for labels in (first, second):
        mask = np.zeros(shape, dtype=np.bool_)
        np.equal(labels.voxels[box], value, out=mask[inner])
        masks.append(mask)
    k, j, i = (int(side.start) - width for width, side in zip(border, box, strict=True))
    return LabelPair(value=value, first=masks[0], second=masks[1], corner=(k, j, i), spacing=spacing)


def _voxels(box: Box) -> int:
    z, y, x = (int(side.stop - side.start) for side in box)
    return z * y * x


def _described(volume: Volume) -> str:
    """Return a grid in words; numbers are short, but no two grids that differ visibly look the same."""
    size = " x ".join(str(length) for length in volume.size)
    spacing = " x ".join(f"{length:.6g}" for length in volume.spacing)
    origin = ", ".join(f"{coordinate:.6g}" for coordinate in volume.origin)
    direction = " ".join(f"{cosine:.4g}" for row in volume.direction for cosine in row)
    return f"size {size}, spacing {spacing} mm, origin ({origin}) mm, direction [{direction}]"
