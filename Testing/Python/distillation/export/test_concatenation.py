from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")
onnx = pytest.importorskip("onnx", reason="install the extra 'distill'")

from distillation.export.network import INPUT_NAME, OUTPUT_NAME, check_model, split_network, to_model  # noqa: E402
from distillation.export.onnx_rewrites import without_concatenations  # noqa: E402
from distillation.teacher import load_model_folder  # noqa: E402
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine  # noqa: E402

WINDOW = np.random.default_rng(0).normal(size=(1, 1, 16, 16, 16)).astype(np.float32)


def run(model: onnx.ModelProto, window: np.ndarray) -> np.ndarray:
    return OnnxRuntimeEngine(model.SerializeToString(), threads=1).run(window, lambda: False)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare features that may differ by the order of sums."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_networks_give_the_same_features(
    plans: Callable[..., dict[str, Any]], model_folder: Callable[..., Path], each_architecture: str
) -> None:
    network = load_model_folder(model_folder(plans(each_architecture, features=(16, 32, 64))), 0).network
    model = to_model(split_network(network).body, channels=1, patch_size=(16, 16, 16))
    expected, before = run(model, WINDOW), kinds(model)
    assert before.count("Concat") == 2
    without_concatenations(model)
    check_model(model)
    after = kinds(model)
    assert "Concat" not in after
    assert after.count("Conv") == before.count("Conv") + 2
    assert_same(run(model, WINDOW), expected)


def maps_of_different_sizes() -> onnx.ModelProto:
    """Three and five channels, in one convolution with a bias and a stride; a second convolution stays as it is."""
    random = np.random.default_rng(1)
    kernels = {"a": (3, 1, 3, 3, 3), "b": (5, 1, 1, 1, 1), "joint": (4, 8, 3, 3, 3), "last": (2, 4, 1, 1, 1)}
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in kernels.items()}
    weights |= {"bias": random.normal(size=4).astype(np.float32), "unused": np.zeros((2, 2), np.float32)}
    make = onnx.helper.make_node
    nodes = [
        make("Conv", [INPUT_NAME, "a"], ["map a"], pads=[1] * 6),
        make("Conv", [INPUT_NAME, "b"], ["map b"]),
        make("Concat", ["map a", "map b"], ["both"], axis=1),
        make("Conv", ["both", "joint", "bias"], ["joined"], pads=[1] * 6, strides=[2, 2, 2], name="joining"),
        make("Conv", ["joined", "last"], [OUTPUT_NAME]),
    ]
    image = onnx.helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.FLOAT, ["n", 1, 16, 16, 16])
    features = onnx.helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, ["n", 2, 8, 8, 8])
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(nodes, "body", [image], [features], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_each_map_gets_its_own_part_of_the_kernel() -> None:
    model = maps_of_different_sizes()
    expected = run(model, WINDOW)
    joint = next(onnx.numpy_helper.to_array(each) for each in model.graph.initializer if each.name == "joint")
    without_concatenations(model)
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    np.testing.assert_array_equal(stored["joint.0"], joint[:, :3])
    np.testing.assert_array_equal(stored["joint.1"], joint[:, 3:])
    assert stored.keys() == {"a", "b", "joint.0", "joint.1", "last", "bias"}
    assert_same(run(model, WINDOW), expected)


def test_a_kernel_that_is_stored_once_for_two_layers() -> None:
    model = maps_of_different_sizes()
    joining = next(node for node in model.graph.node if node.name == "joining")
    joining.input[1] = "alias"
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["joint"], ["alias"]))
    expected = run(model, WINDOW)
    without_concatenations(model)
    assert_same(run(model, WINDOW), expected)
