"""One label of two segmentations at a time, cropped to where either has it; several at once on several cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.analysis.label_map import Box, LabelMap
from KDSegmentatorLib.analysis.nearest_voxel import reach
from KDSegmentatorLib.errors import GeometryError, InvalidSettingsError
from KDSegmentatorLib.geometry import Vector, Volume
from KDSegmentatorLib.inference.progress import CancelCheck, ProgressCallback, Steps
from KDSegmentatorLib.machine.hardware import usable_cores

T = TypeVar("T")

TITLES = ("the first segmentation", "the second segmentation")
"""What two segmentations are called in an error message, unless the caller knows better."""

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelPair:
    """Where two segmentations have one label.

    Both masks are cropped to the box of their union, with a border of False around it that is one voxel wider than
    :func:`~KDSegmentatorLib.analysis.nearest_voxel.reach`. Nothing outside of that box can change a result: every
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


def check_same_grid(first: Volume, second: Volume, titles: tuple[str, str]) -> None:
    """Check that two segmentations can be compared voxel by voxel.

    Raises:
        GeometryError: they do not share a grid; the message has both.
    """
    if not first.same_grid(second):
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
