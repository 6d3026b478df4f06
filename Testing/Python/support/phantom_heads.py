"""Label maps of egg-shaped heads, small enough for tests, with the labels of SynthSeg's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import write_volume

SPACING_MM = 2.0
SHAPE = (58, 70, 58)
RAS_IN_LPS = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
BRAIN_RADII_MM = (36.0, 46.0, 36.0)

AIR, SOFT_TISSUE, BONE, FLUID, CORTEX, LEFT_WHITE, RIGHT_WHITE, VENTRICLE = 0, 507, 515, 24, 3, 2, 41, 4

_CLASSES = {AIR: 0, SOFT_TISSUE: 1, BONE: 2, FLUID: 3, CORTEX: 4, LEFT_WHITE: 5, RIGHT_WHITE: 5, VENTRICLE: 3}
_MEANS = (2, 120, 15, 40, 100, 160)


def phantom_voxels() -> np.ndarray:
    """Return labels (z, y, x) uint16 in RAS: soft tissue, bone, fluid, cortex, white matter, one ventricle.

    The brain's middle is 4 mm in front of the grid's, and only the left half has a ventricle.
    """
    z, y, x = (
        (np.arange(count) - (count - 1) / 2)[(slice(None), *[None] * (2 - axis))] * SPACING_MM
        for axis, count in enumerate(SHAPE)
    )
    radius = np.sqrt((z / BRAIN_RADII_MM[0]) ** 2 + ((y - 4) / BRAIN_RADII_MM[1]) ** 2 + (x / BRAIN_RADII_MM[2]) ** 2)
    labels = np.zeros(SHAPE, np.uint16)
    labels[radius < 1.35] = SOFT_TISSUE
    labels[radius < 1.2] = BONE
    labels[radius < 1.08] = FLUID
    labels[radius < 1] = CORTEX
    labels[radius < 0.85] = LEFT_WHITE
    labels[(radius < 0.85) & (x > 0)] = RIGHT_WHITE
    labels[(radius < 0.45) & (x < -4)] = VENTRICLE
    return labels


def write_label_map(path: Path, voxels: np.ndarray | None = None, axis_codes: str = "RAS") -> Path:
    """Write a label map, the phantom's if no other is given."""
    voxels = phantom_voxels() if voxels is None else voxels
    volume = Volume(voxels, (SPACING_MM,) * 3, (10.0, -20.0, 5.0), RAS_IN_LPS)
    write_volume(volume.reoriented(axis_codes), path)
    return path


def label_table() -> dict:
    """Return the content of the phantoms' labels.json."""
    brain = {CORTEX, LEFT_WHITE, RIGHT_WHITE, VENTRICLE}
    return {
        "segmentation_targets": {str(label): label if label in brain else 0 for label in _CLASSES},
        "t1_intensity_class": {str(label): number for label, number in _CLASSES.items()},
        "t1_prior": [
            {"class": n, "mean_of_means": mean, "std_of_means": 2.0, "mean_of_stds": 3.0, "std_of_stds": 1.0}
            for n, mean in enumerate(_MEANS)
        ],
    }


def write_phantoms(folder: Path, count: int) -> Path:
    """Write a folder of label maps called head_0.nii.gz, ... with their labels.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.json").write_text(json.dumps(label_table()))
    for number in range(count):
        write_label_map(folder / f"head_{number}.nii.gz")
    return folder
