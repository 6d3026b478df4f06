from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.advisor.workload import same_work, voxels_of, workload
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.errors import GeometryError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference import preprocessing
from KDSegmentatorLib.inference.axis_operator import AxisOperator
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.windows import window_starts
from KDSegmentatorLib.packs.manifest import Manifest, Resampling
from support.generated_packs import convolution_body, manifest, write_pack

PACK = manifest()


def scan() -> Volume:
    """Return (z, y, x) 20 x 30 x 40 voxels, 2 mm apart along z."""
    voxels = np.random.default_rng(0).gamma(2, 100, size=(20, 30, 40)).astype(np.float32) + 1
    return Volume(voxels, (1.0, 1.0, 2.0))


def with_windows(patch_size: tuple[int, int, int]) -> Manifest:
    return replace(PACK, windows=replace(PACK.windows, patch_size=patch_size))


def test_a_scan_of_another_spacing_has_more_voxels_for_the_network() -> None:
    work = workload(scan(), PACK)
    assert work.voxels == 24_000
    assert work.voxel_bytes == 4
    assert work.cropped_shape == (20, 30, 40)
    assert work.network_shape == work.padded_shape == (40, 30, 40)
    assert work.resampled
    assert work.resampling_steps == (48_000,)
    assert work.windows == len(window_starts((40, 30, 40), (16, 16, 16), 0.5))


def test_the_axis_that_shrinks_most_is_resampled_first() -> None:
    fine = Volume(np.ones((40, 30, 20), np.float32), (0.5, 1.0, 2.0))
    assert workload(fine, PACK).resampling_steps == (40 * 30 * 10, 80 * 30 * 10)


@pytest.mark.parametrize("force", [None, True, False])
@pytest.mark.parametrize("spacing", [(0.8, 0.8, 5.0), (0.8, 0.9, 1.1), (5.0, 0.8, 0.8)])
def test_the_steps_are_those_that_the_pipeline_takes(
    force: bool | None, spacing: tuple[float, float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with thick slices, which nnU-Net resamples last, whether they become fewer or more."""
    resampling = Resampling(order=3, order_z=0, force_separate_z=force)
    settings = replace(PACK.preprocessing, image_resampling=resampling, spacing=(7.0, 1.0, 1.0))
    pack = write_pack(tmp_path / "pack", manifest=replace(PACK, preprocessing=settings))
    voxels = np.random.default_rng(0).gamma(2, 100, size=(20, 30, 40)).astype(np.float32) + 1
    volume = Volume(voxels, spacing)
    steps: list[int] = []
    apply = AxisOperator.apply

    def counted(self: AxisOperator, image: np.ndarray[Any, Any], *arguments: Any) -> Any:
        made = apply(self, image, *arguments)
        steps.append(made.size)
        return made

    monkeypatch.setattr(AxisOperator, "apply", counted)
    resample = preprocessing.resample_image

    def only_the_image(*arguments: Any) -> Any:
        steps.clear()
        made = resample(*arguments)
        taken.extend(steps)
        return made

    taken: list[int] = []
    monkeypatch.setattr(preprocessing, "resample_image", only_the_image)
    segment(volume, pack, OnnxRuntimeEngine(pack.body(), threads=1))
    work = workload(volume, pack.manifest)
    assert taken == list(work.resampling_steps)
    if force is None and spacing == (0.8, 0.8, 5.0):
        assert work.separate_axis == 0
        assert len(taken) == 3
        assert taken[-1] < taken[-2]  # the slices become fewer, and last


def test_a_scan_of_the_packs_spacing_is_not_resampled() -> None:
    work = workload(Volume(np.ones((20, 30, 40), np.uint8), (1.0, 1.0, 1.0)), PACK)
    assert not work.resampled
    assert work.resampling_steps == ()
    assert work.voxel_bytes == 1


def test_what_is_smaller_than_a_window_is_padded() -> None:
    work = workload(Volume(np.ones((10, 16, 20), np.float32), (1.0, 1.0, 1.0)), PACK)
    assert work.padded_shape == (16, 16, 20)
    assert work.windows == 2


def test_zeros_round_the_scan_are_not_counted_unless_nobody_looks() -> None:
    voxels = np.zeros((100, 100, 100), dtype=np.float32)
    voxels[40:50, 40:50, 40:50] = 1
    volume = Volume(voxels, (1.0, 1.0, 1.0))
    work = workload(volume, PACK)
    assert (work.windows, work.cropped_shape, work.padded_shape) == (1, (10, 10, 10), (16, 16, 16))
    most = workload(volume, PACK, crop=False)
    assert most.cropped_shape == (100, 100, 100)
    assert most.windows == len(window_starts((100, 100, 100), (16, 16, 16), 0.5))


@pytest.mark.parametrize("codes", ["LPS", "SAR", "IPR", "PIL"])
def test_the_axis_order_of_the_scan_does_not_matter(codes: str) -> None:
    tall = with_windows((8, 16, 24))
    plain = workload(scan(), tall)
    turned = workload(scan().reoriented(codes), tall)
    assert replace(turned, turned=plain.turned) == plain


@pytest.mark.parametrize("codes", ["RAS", "LPS"])
def test_whether_the_scan_is_copied_into_the_packs_order(codes: str) -> None:
    assert workload(scan().reoriented(codes), PACK).turned == (codes != "RAS")


@pytest.mark.parametrize("size", [(16, 16, 16), (20, 24, 18), (40, 30, 20)])
def test_windows_are_as_many_as_the_pipeline_runs(size: tuple[int, int, int], tmp_path) -> None:
    pack = write_pack(tmp_path / "pack")
    engine = OnnxRuntimeEngine(convolution_body(), threads=1)
    voxels = np.random.default_rng(0).gamma(2, 100, size=size).astype(np.float32) + 1
    volume = Volume(voxels, (1.3, 0.9, 1.1))
    assert workload(volume, pack.manifest).windows == segment(volume, pack, engine).record.windows


def test_a_scan_that_would_be_too_large_is_refused() -> None:
    coarse = Volume(np.ones((40, 40, 40), np.uint8), (500.0, 500.0, 500.0))
    with pytest.raises(GeometryError, match="Check the volume's spacing"):
        workload(coarse, PACK)


def test_packs_that_differ_in_their_windows_or_grids_are_another_work() -> None:
    assert same_work(PACK, replace(PACK, size="x1", network=replace(PACK.network, features=32)))
    assert not same_work(PACK, with_windows((16, 16, 24)))
    other_grid = replace(PACK, preprocessing=replace(PACK.preprocessing, spacing=(1.0, 1.0, 2.0)))
    assert not same_work(PACK, other_grid)
    apart = Resampling(order=3, order_z=0, force_separate_z=True)
    assert not same_work(PACK, replace(PACK, preprocessing=replace(PACK.preprocessing, image_resampling=apart)))
    other_axes = replace(PACK, preprocessing=replace(PACK.preprocessing, axis_codes="LPS"))
    assert not same_work(PACK, other_axes)


def test_voxels_of_a_grid() -> None:
    assert voxels_of((2, 3, 4)) == 24
