"""Two chained packs: one finds what is bright, the other one segments what lies in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from KDSegmentatorLib.packs.manifest import Region
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import PackStore
from support.generated_packs import FEATURES, convolution_body, manifest, write_pack

EARLIER, LATER = "bright-x1_4", "inside-x1_4"
MARGIN_MM = 2.0


def install_earlier(store: PackStore, folder: Path, *, threshold: float = 0.0, **changes: Any) -> StudentPack:
    """Install a pack whose one structure is whatever is more than a threshold of deviations above the mean."""
    about = manifest(1, id=EARLIER, task="bright", title="Bright tissue", **changes)
    weight = np.zeros((2, FEATURES), np.float32)
    weight[1, 0] = 1
    bias = np.array([0, -threshold], np.float32)
    return store.install(
        write_pack(folder / "earlier", manifest=about, body=_copies(), weight=weight, bias=bias).folder
    )


def install_later(
    store: PackStore, folder: Path, *, region: Region | None, size: str = "x1/4", seed: int = 1, **changes: Any
) -> StudentPack:
    """Install a pack with three structures that is run on what the earlier one found, or on everything."""
    name = f"inside-{size.replace('/', '_')}"
    about = manifest(id=name, task="inside", title="What lies inside", size=size, region=region, **changes)
    about = replace(about, network=replace(about.network, alpha=1 / float(size.removeprefix("x1/").replace("x1", "1"))))
    pack = write_pack(folder / f"{name}-{region is None}", manifest=about, body=convolution_body(seed=seed))
    return store.install(pack.folder)


def after_earlier(**changes: Any) -> Region:
    """Return the region of a later pack."""
    return replace(Region(pack=EARLIER, minimum_version="1.0.0", margin_mm=MARGIN_MM), **changes)


def _copies() -> bytes:
    """Return a body whose features are the input."""
    kernel = np.zeros((FEATURES, 1, 3, 3, 3), np.float32)
    kernel[:, 0, 1, 1, 1] = 1
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "kernel"], ["features"], pads=[1] * 6)],
        "body",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, "z", "y", "x"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES, "z", "y", "x"])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    body: bytes = model.SerializeToString()
    return body
