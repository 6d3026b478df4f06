"""The probe's file: one real window and the labels that the network gives it in float32.

Engines and number formats that differ between machines are checked with it before they see a patient's image. The
window is stored in 255 steps between its smallest and largest value: what counts is that every machine gets the same
numbers, not that they are the scan's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs.array_file import ArrayFormat, read_arrays, write_arrays

_STEPS = 255


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A window to try an engine with.

    Attributes:
        window: (1, 1, z, y, x), normalised intensities, ready for an engine.
        labels: (z, y, x), label values that the network gives it in float32.
    """

    window: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8 | np.uint16]


def as_stored(window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a window (z, y, x) as a probe's file gives it back: (1, 1, z, y, x), in 255 steps."""
    levels, limits = _levels(window)
    return _values(levels, limits)


def write_probe(path: Path | str, window: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8 | np.uint16]) -> None:
    """Write a probe's file.

    Args:
        path: ends in ``.npz``; the file must not exist.
        window: (z, y, x), normalised intensities.
        labels: (z, y, x), what float32 makes of :func:`as_stored` of the window.

    Raises:
        OSError: the file exists or cannot be written.
    """
    levels, limits = _levels(window)
    write_arrays(path, {"levels": levels, "limits": limits, "labels": labels}, compressed=True)


def read_probe(content: bytes, patch_size: tuple[int, int, int], rows: int, where: str) -> Probe:
    """Return a probe.

    Args:
        content: the npz file.
        patch_size: (z, y, x) that the window must have.
        rows: number of labels, background included.
        where: the file's name, for error messages.

    Raises:
        PackError: not such a file, or it does not fit the window or the labels.
    """
    formats = {
        "levels": ArrayFormat(shape=patch_size, types=("uint8",)),
        "limits": ArrayFormat(shape=(2,), types=("float32",)),
        "labels": ArrayFormat(shape=patch_size, types=("uint8", "uint16")),
    }
    arrays = read_arrays(content, formats, where)
    if arrays["labels"].max() >= rows:
        raise PackError(f"{where}: the probe has the label {arrays['labels'].max()}, the pack has {rows - 1}")
    return Probe(window=_values(arrays["levels"], arrays["limits"]), labels=arrays["labels"])


def _levels(window: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    low, high = window.min(), window.max()
    span = max(float(high - low), float(np.finfo(np.float32).tiny))
    return np.round((window - low) / span * _STEPS).astype(np.uint8), np.array([low, high], dtype=np.float32)


def _values(levels: npt.NDArray[np.uint8], limits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    low, high = limits
    values: npt.NDArray[np.float32] = low + levels.astype(np.float32) * ((high - low) / np.float32(_STEPS))
    return values[None, None]
