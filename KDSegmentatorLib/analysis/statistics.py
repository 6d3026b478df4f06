"""What was segmented, in numbers: volume, intensity and place of every structure."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError
from KDSegmentatorLib.geometry import MM3_PER_ML, Vector, Volume, vector
from KDSegmentatorLib.inference.segmentation import RunRecord
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.packs.manifest import Label

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

IMAGE_UNITS = "image_units"
"""Unit in column names when the image's intensities have none, as in MR."""

_SLAB_VOXELS = 1 << 19


@dataclass(frozen=True, kw_only=True)
class LabelStatistics:
    """One structure of a segmentation.

    Attributes:
        value: label value.
        name: the structure.
        voxels: number of voxels, 0 if it was not found.
        volume_ml: volume in millilitres.
        mean_intensity: mean of the image inside the structure, in the image's own units (HU for CT); None if absent.
        std_intensity: its (population) standard deviation, same units; None if absent.
        centroid: (L, P, S) of the mean of its voxel centres in mm; None if absent.
    """

    value: int
    name: str
    voxels: int
    volume_ml: float
    mean_intensity: float | None
    std_intensity: float | None
    centroid: Vector | None


def label_statistics(segmentation: Volume, labels: Sequence[Label], image: Volume) -> tuple[LabelStatistics, ...]:
    """Return the statistics of every label, in the given order, also of those that are absent.

    Args:
        segmentation: label values, (z, y, x); values that are not in ``labels`` are left out.
        labels: the structures.
        image: the scan, on the same grid.

    Raises:
        GeometryError: the two volumes do not share a grid.
    """
    if not segmentation.same_grid(image):
        raise GeometryError(
            f"the segmentation (size {segmentation.size}, spacing {segmentation.spacing} mm) is not on the grid of the "
            f"image (size {image.size}, spacing {image.spacing} mm); resample one of them first"
        )
    length = max((label.value for label in labels), default=0) + 1
    counts, sums, squares = np.zeros(length), np.zeros(length), np.zeros(length)
    index_sums = np.zeros((3, length))
    for values, intensities, index in _foreground(segmentation, image, length):
        counts += np.bincount(values, minlength=length)
        sums += np.bincount(values, weights=intensities, minlength=length)
        for axis in range(3):
            index_sums[axis] += np.bincount(values, weights=index[axis], minlength=length)
    divisor = np.maximum(counts, 1)
    means = sums / divisor
    centres = index_sums / divisor
    # a second pass: sums of plain squares cancel where the mean is much larger than the deviation
    for values, intensities, _ in _foreground(segmentation, image, length):
        squares += np.bincount(values, weights=(intensities - means[values]) ** 2, minlength=length)
    deviations = np.sqrt(squares / divisor)
    affine = segmentation.affine
    rows = []
    for label in labels:
        count = int(counts[label.value])
        present = count > 0
        rows.append(
            LabelStatistics(
                value=label.value,
                name=label.name,
                voxels=count,
                volume_ml=count * segmentation.voxel_volume / MM3_PER_ML,
                mean_intensity=float(means[label.value]) if present else None,
                std_intensity=float(deviations[label.value]) if present else None,
                centroid=vector(affine[:3, :3] @ centres[:, label.value] + affine[:3, 3]) if present else None,
            )
        )
    return tuple(rows)


def write_statistics(
    rows: Sequence[LabelStatistics],
    path: Path | str,
    *,
    intensity_unit: str = IMAGE_UNITS,
    record: RunRecord | None = None,
) -> None:
    """Write statistics as a CSV table (UTF-8, comma, one header line) or JSON; an existing file is replaced.

    Args:
        rows: one line each.
        path: the file; ``.json`` holds one object with the list ``structures``, anything else is a table.
        intensity_unit: ends the names of the intensity columns, ``HU`` for CT.
        record: of the run; pack, version and size are written with the statistics.

    Raises:
        ImageWriteError: the file could not be written; nothing was left behind.
    """
    origin = {} if record is None else {
        "pack_id": record.pack_id, "pack_version": record.pack_version, "size": record.size,
    }  # fmt: skip
    if Path(path).suffix.lower() == ".json":
        content = {**origin, "intensity_unit": intensity_unit, "structures": [dataclasses.asdict(row) for row in rows]}
        with atomic_output(Path(path)) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    with atomic_output(Path(path)) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*statistics_columns(intensity_unit), *origin])
        table.writerows([*statistics_cells(row), *origin.values()] for row in rows)


def statistics_columns(intensity_unit: str = IMAGE_UNITS) -> list[str]:
    """Return the names of a statistics table's columns.

    Args:
        intensity_unit: ends the names of the intensity columns, ``HU`` for CT.
    """
    return [
        "label_value",
        "label_name",
        "voxels",
        "volume_ml",
        f"mean_intensity_{intensity_unit}",
        f"std_intensity_{intensity_unit}",
        "centroid_L_mm",
        "centroid_P_mm",
        "centroid_S_mm",
    ]


def statistics_cells(row: LabelStatistics) -> list[str]:
    """Return what a statistics table says about a structure, in the order of the columns; empty where it is absent.

    A name that a spreadsheet would compute is written as text: packs may come from anywhere.
    """
    measured = (row.mean_intensity, row.std_intensity, *(row.centroid or (None, None, None)))
    return [
        str(row.value),
        as_text(row.name),
        str(row.voxels),
        f"{row.volume_ml:.6g}",
        *("" if number is None else f"{number:.6g}" for number in measured),
    ]


def _foreground(
    segmentation: Volume, image: Volume, length: int
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], tuple[npt.NDArray[np.intp], ...]]]:
    """Yield the voxels with labels below ``length``, slab by slab: value, intensity and index (i, j, k)."""
    slices = segmentation.voxels.shape[0]
    rows = max(1, _SLAB_VOXELS * slices // segmentation.voxels.size)
    for start in range(0, slices, rows):
        slab = segmentation.voxels[start : start + rows]
        k, j, i = np.nonzero((slab > 0) & (slab < length))
        yield slab[k, j, i].astype(np.intp), image.voxels[start + k, j, i].astype(np.float64), (i, j, start + k)


def as_text(text: str) -> str:
    """Return a text that a spreadsheet shows and does not compute: names of files and structures come from anywhere."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
