from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference import restoration
from KDSegmentatorLib.inference.accumulation import blended_channels, head_comes_early
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.packs.manifest import Resampling
from support.generated_packs import FEATURES, manifest, write_pack


@pytest.mark.parametrize(
    ("labels", "resampling", "early"),
    [
        (FEATURES - 1, Resampling(order=1, order_z=0), True),  # with the background as many as features
        (FEATURES, Resampling(order=1, order_z=0), False),
        (FEATURES, Resampling(order=3, order_z=0), True),
        (FEATURES, Resampling(order=0, order_z=2), True),
    ],
)
def test_the_pipeline_blends_what_is_said(
    labels: int, resampling: Resampling, early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = manifest(labels=labels)
    preprocessing = replace(base.preprocessing, logits_resampling=resampling)
    pack = write_pack(tmp_path / "pack", manifest=replace(base, preprocessing=preprocessing))
    assert head_comes_early(pack.manifest) == early
    channels = []
    blended_slabs = restoration.blended_slabs

    def watched(*arguments: Any, **named: Any) -> Iterator[Any]:
        for slab in blended_slabs(*arguments, **named):
            channels.append(slab.shape[0])
            yield slab

    monkeypatch.setattr(restoration, "blended_slabs", watched)
    voxels = np.random.default_rng(0).gamma(2, 100, size=(20, 24, 18)).astype(np.float32) + 1
    segment(Volume(voxels, (1.0, 1.0, 1.0)), pack, OnnxRuntimeEngine(pack.body()))
    assert set(channels) == {blended_channels(pack.manifest)} == {labels + 1 if early else FEATURES}
