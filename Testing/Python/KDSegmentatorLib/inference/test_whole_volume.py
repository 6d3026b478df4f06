"""The pipeline against the plain way: logits of all labels for the whole volume, in arrays of the whole volume.

The reference below knows nothing of slabs, of features that are blended instead of logits, or of banded matrices: each
window's logits are added up, all logits are resampled with nnU-Net's own function, and then the labels are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("nnunetv2", reason="needs nnU-Net: pip install 'kdsegmentator[distill]' -c constraints.txt")
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape as resample

from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.windows import gaussian_weights, padding, window_starts
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.manifest import Resampling
from KDSegmentatorLib.packs.pack import StudentPack
from support.generated_packs import convolution_body, manifest, write_pack

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scan and a pack; all in array order (z, y, x)."""

    name: str
    shape: Shape
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    labels: int = 11
    patch: Shape = (16, 12, 16)
    transpose: Shape = (0, 1, 2)
    border: int = 0
    mirroring: bool = False
    logits_order: int = 1


EXACT = [
    Case(name="many windows, late head", shape=(40, 33, 37)),
    Case(name="many windows, early head", shape=(40, 33, 37), labels=3),
    Case(name="one window", shape=(16, 12, 16)),
    Case(name="smaller than a window", shape=(9, 20, 11)),
    Case(name="cropped and transposed", shape=(30, 34, 28), transpose=(2, 0, 1), border=4),
    Case(name="mirrored", shape=(20, 18, 22), mirroring=True),
    Case(name="more than 255 labels", shape=(20, 18, 22), labels=300),
]
"""Without resampling: not one voxel may differ."""

RESAMPLED = [
    Case(name="finer", shape=(20, 24, 22), spacing=(1.7, 1.2, 1.4)),
    Case(name="coarser", shape=(44, 40, 50), spacing=(0.6, 0.8, 0.7)),
    Case(name="early head", shape=(20, 24, 22), spacing=(1.7, 1.2, 1.4), labels=3),
    Case(name="separate axis", shape=(9, 30, 28), spacing=(4.0, 1.1, 0.9)),
    Case(name="cropped and transposed", shape=(30, 24, 26), spacing=(1.3, 0.8, 1.2), transpose=(1, 2, 0), border=4),
    Case(name="splines of order 3 for the logits", shape=(20, 24, 22), spacing=(1.7, 1.2, 1.4), logits_order=3),
]
"""At most one voxel in 2,000 may differ, where rounding decides between two labels."""


def pack_of(case: Case, folder: Path) -> StudentPack:
    base = manifest(labels=case.labels)
    random = np.random.default_rng(case.labels)
    return write_pack(
        folder,
        manifest=replace(
            base,
            preprocessing=replace(
                base.preprocessing,
                axis_codes="LPS",
                transpose_forward=case.transpose,
                logits_resampling=Resampling(order=case.logits_order, order_z=0),
            ),
            windows=replace(base.windows, patch_size=case.patch),
        ),
        body=convolution_body(repeats=2),
        bias=random.normal(size=case.labels + 1).astype(np.float32) / 4,
    )


def scan_of(case: Case) -> Volume:
    voxels = np.random.default_rng(4).gamma(2, 100, size=case.shape).astype(np.float32) + 1
    if case.border:
        outside = np.ones(case.shape, dtype=bool)
        outside[tuple(slice(case.border, n - case.border + 1) for n in case.shape)] = False
        voxels[outside] = 0
    z, y, x = case.spacing
    return Volume(voxels, (x, y, z))


def window_logits(window: npt.NDArray[np.float32], pack: StudentPack, engine: Any, mirroring: bool) -> Any:
    """Return the logits (labels, z, y, x) of a window (z, y, x)."""
    head = pack.head()
    total: Any = 0
    ways = range(8) if mirroring else range(1)
    for way in ways:
        axes = [axis for axis in range(3) if way >> axis & 1]
        features = engine.run(np.ascontiguousarray(np.flip(window, axes)[None, None]), lambda: False)[0]
        logits = np.einsum("lf,fzyx->lzyx", head.weight, features) + head.bias[:, None, None, None]
        total = total + np.flip(logits, [axis + 1 for axis in axes])
    return total / len(ways)


def whole_volume_logits(
    case: Case, volume: Volume, pack: StudentPack
) -> tuple[npt.NDArray[np.float32], Sequence[slice]]:
    """Return logits (labels, z, y, x) of the cropped region on the scan's transposed grid, and where that lies."""
    image = volume.voxels.transpose(case.transpose)
    spacing = [case.spacing[axis] for axis in case.transpose]
    network_spacing = list(pack.manifest.preprocessing.spacing)
    box = [slice(int(each.min()), int(each.max()) + 1) for each in np.nonzero(image)]
    cropped = image[tuple(box)].astype(np.float32)
    normalized = (cropped - cropped.mean()) / cropped.std()
    network_shape = [round(n * old / new) for n, old, new in zip(cropped.shape, spacing, network_spacing, strict=True)]
    orders = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    data = resample(normalized[None], network_shape, spacing, network_spacing, order=3, **orders)[0]

    pads = padding(data.shape, case.patch)
    padded = np.pad(data, pads)
    engine, weights = OnnxRuntimeEngine(pack.body()), gaussian_weights(case.patch)
    sums = np.zeros((case.labels + 1, *padded.shape), np.float32)
    total = np.zeros(padded.shape, np.float32)
    for start in window_starts(padded.shape, case.patch, pack.manifest.windows.step_fraction):
        place = tuple(slice(first, first + length) for first, length in zip(start, case.patch, strict=True))
        sums[(slice(None), *place)] += window_logits(padded[place], pack, engine, case.mirroring) * weights
        total[place] += weights
    inside = tuple(slice(low, low + n) for (low, _), n in zip(pads, data.shape, strict=True))
    logits = (sums / total)[(slice(None), *inside)]
    return resample(logits, cropped.shape, network_spacing, spacing, order=case.logits_order, **orders), box


def on_the_scan(case: Case, values: npt.NDArray[Any], box: Sequence[slice]) -> npt.NDArray[Any]:
    """Return values (z, y, x) of the cropped region on the scan's own grid, 0 outside."""
    whole = np.zeros([case.shape[axis] for axis in case.transpose], values.dtype)
    whole[tuple(box)] = values
    return whole.transpose(np.argsort(case.transpose))


@pytest.mark.parametrize("engine_name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_every_voxel_is_the_same_without_resampling(case: Case, threads: int, engine_name: str, tmp_path: Path) -> None:
    volume, pack = scan_of(case), pack_of(case, tmp_path / "pack")
    logits, box = whole_volume_logits(case, volume, pack)
    expected = on_the_scan(case, logits.argmax(axis=0), box)
    assert len(np.unique(expected)) > 2
    engine = (
        OnnxRuntimeEngine(pack.body())
        if engine_name == "onnxruntime"
        else OpenVinoEngine(pack.body(), patch_size=case.patch)
    )
    found = segment(volume, pack, engine, RunOptions(mirroring=case.mirroring, threads=threads))
    np.testing.assert_array_equal(found.volume.voxels, expected)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", RESAMPLED, ids=lambda case: case.name)
def test_next_to_every_voxel_is_the_same_with_resampling(case: Case, threads: int, tmp_path: Path) -> None:
    volume, pack = scan_of(case), pack_of(case, tmp_path / "pack")
    logits, box = whole_volume_logits(case, volume, pack)
    expected = on_the_scan(case, logits.argmax(axis=0), box)
    found = segment(volume, pack, OnnxRuntimeEngine(pack.body()), RunOptions(threads=threads))
    assert (found.volume.voxels == expected).mean() >= 0.9995


SMOOTH = [case for case in RESAMPLED if case.logits_order == 1]
"""Splines of order 3 overshoot. nnU-Net clips that to the range of a label's logits in the whole volume, which is not
known while slabs pass: a few voxels have another probability, next to none another label."""


@pytest.mark.parametrize("case", [*EXACT[:2], *EXACT[4:6], *SMOOTH], ids=lambda case: case.name)
def test_entropy_and_probabilities_are_those_of_the_softmax(case: Case, tmp_path: Path) -> None:
    volume, pack = scan_of(case), pack_of(case, tmp_path / "pack")
    logits, box = whole_volume_logits(case, volume, pack)
    exact = logits.astype(np.float64)
    exponentials = np.exp(exact - exact.max(axis=0))
    softmax = exponentials / exponentials.sum(axis=0)
    plain = segment(volume, pack, OnnxRuntimeEngine(pack.body()), RunOptions(mirroring=case.mirroring))
    found = segment(
        volume,
        pack,
        OnnxRuntimeEngine(pack.body()),
        RunOptions(mirroring=case.mirroring, entropy=True, probabilities=["structure 2", 3], labels=[1, 2]),
    )
    kept = np.where(plain.volume.voxels > 2, 0, plain.volume.voxels)
    np.testing.assert_array_equal(found.volume.voxels, kept)  # the same labels, with and without the maps
    assert plain.entropy is None and plain.probabilities == {}

    assert found.entropy is not None
    entropy = on_the_scan(case, -(softmax * np.log2(np.maximum(softmax, 1e-300))).sum(axis=0), box)
    np.testing.assert_allclose(found.entropy.voxels, entropy, atol=1e-4)
    assert set(found.probabilities) == {2, 3}
    for value, map_ in found.probabilities.items():
        np.testing.assert_allclose(map_.voxels, on_the_scan(case, softmax[value], box), atol=1e-5)
    for map_ in (found.entropy, *found.probabilities.values()):
        assert map_.same_grid(volume)
        assert map_.voxels.dtype == np.float32
