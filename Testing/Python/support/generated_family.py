"""Small student packs of a family, and scans that they can segment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK

from KDSegmentatorLib.packs.manifest import Evaluation, Interval, LabelScore
from KDSegmentatorLib.packs.pack import StudentPack
from support.generated_packs import convolution_body, manifest, write_pack

ALPHAS = {"x1": 1.0, "x1/2": 0.5, "x1/4": 0.25}


def build_size(
    folder: Path, size: str, *, version: str = "1.0.0", task: str = "generated", layers: int = 1
) -> StudentPack:
    """Write a pack of one size; the sizes have different weights, so that their results differ."""
    base = manifest(id=f"{task}-{size.replace('/', '_')}", size=size, version=version, task=task)
    dice = Interval(mean=0.8 + 0.1 * ALPHAS[size], low=0.75, high=0.95)
    evaluation = Evaluation(
        dataset="Generated",
        split="held out",
        cases=12,
        mirroring=False,
        mean_dice=dice,
        labels=(LabelScore(value=1, dice=dice),),
        teacher_mean_dice=0.9,
    )
    network = replace(base.network, alpha=ALPHAS[size])
    body = convolution_body(seed=list(ALPHAS).index(size), repeats=layers)
    return write_pack(folder, manifest=replace(base, network=network, evaluation=evaluation), body=body)


def write_scan(path: Path, voxels: npt.NDArray[np.generic] | None = None) -> Path:
    """Write an oblique, anisotropic scan, or other voxels with the same spacing."""
    if voxels is None:
        voxels = np.random.default_rng(3).gamma(2, 100, size=(20, 24, 18)).astype(np.float32)
    image = SimpleITK.GetImageFromArray(voxels)
    if voxels.ndim == 3:
        image.SetSpacing((1.1, 0.9, 1.7))
        image.SetOrigin((12, -34, 56))
        cosine, sine = np.cos(0.3), np.sin(0.3)
        image.SetDirection((cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(path))
    return path
