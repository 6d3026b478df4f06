from __future__ import annotations

import weakref
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference import accumulation, network_grid
from KDSegmentatorLib.inference import windows as module
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.progress import Progress
from KDSegmentatorLib.inference.windows import strips
from KDSegmentatorLib.machine.hardware import Hardware
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.pack import StudentPack
from support.generated_packs import manifest, write_pack

GIB = 1 << 30


@pytest.fixture(scope="module", params=[3, 12], ids=["early head", "late head"])
def pack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StudentPack:
    return write_pack(tmp_path_factory.mktemp("packs") / "generated-x1_4", manifest=manifest(labels=request.param))


def scan(spacing: tuple[float, float, float], shape: tuple[int, int, int] = (22, 45, 26)) -> Volume:
    return Volume(np.random.default_rng(3).gamma(2, 100, size=shape).astype(np.float32), spacing)


def in_strips(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Have the plane cut into strips; return their slabs' widths, to be filled."""
    widths: list[int] = []
    slab = accumulation._Slab
    before: list[Any] = []

    def cut(rows: int, slab_bytes: int) -> list[slice]:
        assert slab_bytes > 0
        bounds = [rows * number // count for number in range(count + 1)]
        return [slice(*pair) for pair in pairwise(bounds)]

    def note(channels: int, patch_size: Any, wide: slice, width: int, executor: Any) -> Any:
        assert not any(sums() is not None for sums in before), "the last strip's slab takes memory still"
        made = slab(channels, patch_size, wide, width, executor)
        before.append(weakref.ref(made._sums))
        widths.append(made._sums.shape[2])
        return made

    monkeypatch.setattr(network_grid, "strips", cut)
    monkeypatch.setattr(accumulation, "_Slab", note)
    return widths


@pytest.mark.parametrize("count", [2, 3, 7])
def test_strips_give_every_voxel_what_the_whole_plane_gives(
    pack: StudentPack, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    engine, volume = OnnxRuntimeEngine(pack.body()), scan((1.0, 1.0, 1.0))
    expected = segment(volume, pack, engine, RunOptions(entropy=True, probabilities=[1], threads=2))
    assert expected.entropy is not None
    widths = in_strips(monkeypatch, count)
    reports: list[Progress] = []
    found = segment(
        volume, pack, engine, RunOptions(entropy=True, probabilities=[1], threads=2), progress=reports.append
    )
    assert found.entropy is not None
    np.testing.assert_array_equal(found.volume.voxels, expected.volume.voxels)
    np.testing.assert_allclose(found.entropy.voxels, expected.entropy.voxels, atol=1e-5)
    np.testing.assert_allclose(found.probabilities[1].voxels, expected.probabilities[1].voxels, atol=1e-6)
    assert len(widths) == count
    assert sum(widths) == 45
    for stage in ("windows", "restore"):
        done = [(report.done, report.total) for report in reports if report.stage == stage]
        assert done[-1][0] == done[-1][1]


@pytest.mark.parametrize("spacing", [(0.8, 1.3, 1.1), (1.0, 0.7, 1.0), (1.4, 0.9, 2.0)])
@pytest.mark.parametrize("mirroring", [False, True])
def test_strips_of_a_resampled_scan(
    pack: StudentPack, monkeypatch: pytest.MonkeyPatch, spacing: tuple[float, float, float], mirroring: bool
) -> None:
    engine, volume = OnnxRuntimeEngine(pack.body()), scan(spacing)
    expected = segment(volume, pack, engine, RunOptions(mirroring=mirroring)).volume.voxels
    in_strips(monkeypatch, 3)
    found = segment(volume, pack, engine, RunOptions(mirroring=mirroring)).volume.voxels
    assert (found == expected).mean() >= 0.9995


def test_an_image_that_is_smaller_than_a_window_along_y(pack: StudentPack, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, volume = OnnxRuntimeEngine(pack.body()), scan((1.0, 1.0, 1.0), (40, 9, 26))
    expected = segment(volume, pack, engine).volume.voxels
    assert volume.voxels.shape[1] < pack.manifest.windows.patch_size[1]
    in_strips(monkeypatch, 2)
    np.testing.assert_array_equal(segment(volume, pack, engine).volume.voxels, expected)


@pytest.mark.parametrize(
    ("slab", "available", "count"), [(GIB, None, 1), (GIB, 2 * GIB, 1), (GIB, GIB, 2), (GIB, GIB // 5, 16), (100, 1, 1)]
)
def test_as_many_strips_as_memory_asks_for(
    monkeypatch: pytest.MonkeyPatch, slab: int, available: int | None, count: int
) -> None:
    monkeypatch.setattr(module, "detect_hardware", lambda: Hardware(logical_cores=2, available_memory=available))
    found = strips(512, slab)
    assert len(found) == count
    assert [row for strip in found for row in range(strip.start, strip.stop)] == list(range(512))


def test_strips_when_the_system_refuses_a_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "detect_hardware", lambda: Hardware(logical_cores=2, available_memory=None))

    def refuse(size: int, dtype: type) -> object:
        if size > 600_000_000:
            raise MemoryError
        return np.empty(1, dtype)

    monkeypatch.setattr(module, "np", SimpleNamespace(empty=refuse, uint8=np.uint8))
    assert len(strips(512, GIB)) == 4
    assert len(strips(9, 100 * GIB)) == 1  # what is left to say is that memory is short


def test_a_run_with_little_memory_takes_strips(pack: StudentPack, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, volume = OnnxRuntimeEngine(pack.body()), scan((1.0, 1.0, 1.0))
    expected = segment(volume, pack, engine)
    monkeypatch.setattr(module, "_ALWAYS_TRIED", 0)
    monkeypatch.setattr(module, "detect_hardware", lambda: Hardware(logical_cores=2, available_memory=1_000))
    found = segment(volume, pack, engine)
    np.testing.assert_array_equal(found.volume.voxels, expected.volume.voxels)
    assert found.record.calls > expected.record.calls
