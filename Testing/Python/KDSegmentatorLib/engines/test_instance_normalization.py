from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("openvino", reason="needs OpenVINO")
pytest.importorskip("nnunetv2", reason="needs nnU-Net: pip install 'kdsegmentator[distill]' -c constraints.txt")

from distillation.export.onnx_rewrites import with_exact_normalization
from KDSegmentatorLib.engines.instance_normalization import with_fused_normalization
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine
from KDSegmentatorLib.engines.openvino_runtime import openvino_core

FEATURES, LAYERS = 5, 3
PATCH = (9, 10, 11)


def normalized_body() -> onnx.ModelProto:
    """Return convolutions with normalisations in between, as the exporter spells them out."""
    random = np.random.default_rng(0)
    nodes, tensors, previous, channels = [], [], "input", 1
    for layer in range(LAYERS):
        values = {
            f"kernel{layer}": random.normal(size=(FEATURES, channels, 3, 3, 3)),
            f"scale{layer}": random.normal(size=FEATURES) + 2,
            f"bias{layer}": random.normal(size=FEATURES),
        }
        tensors += [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
        nodes += [
            helper.make_node("Conv", [previous, f"kernel{layer}"], [f"conv{layer}"], pads=[1] * 6),
            helper.make_node(
                "InstanceNormalization",
                [f"conv{layer}", f"scale{layer}", f"bias{layer}"],
                [f"normal{layer}"],
                epsilon=0.1 * (layer + 1),
            ),
            helper.make_node("LeakyRelu", [f"normal{layer}"], [f"out{layer}"], alpha=0.1),
        ]
        previous, channels = f"out{layer}", FEATURES
    graph = helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, "z", "y", "x"])],
        [helper.make_tensor_value_info(previous, TensorProto.FLOAT, ["n", FEATURES, "z", "y", "x"])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with_exact_normalization(model)
    onnx.checker.check_model(model)
    return model


def operators(model: Any) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


def read(model: onnx.ModelProto) -> Any:
    return openvino_core().read_model(model.SerializeToString())


def window() -> np.ndarray[Any, Any]:
    return 3 + 50 * np.random.default_rng(1).normal(size=(1, 1, *PATCH)).astype(np.float32)


def test_every_normalisation_becomes_one_operator() -> None:
    model = read(normalized_body())
    assert "MVN" not in operators(model)
    assert with_fused_normalization(model) == LAYERS
    assert operators(model).count("MVN") == LAYERS
    assert not {"ReduceMean", "Sqrt", "Divide", "Subtract"} & set(operators(model))
    assert with_fused_normalization(model) == 0


def test_the_features_stay_the_same() -> None:
    body = normalized_body().SerializeToString()
    expected = OnnxRuntimeEngine(body).run(window(), lambda: False)
    found = OpenVinoEngine(body, patch_size=PATCH).run(window(), lambda: False)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(expected).max() > 1


def test_a_network_that_ends_with_a_normalisation_keeps_its_output() -> None:
    model = normalized_body()
    model.graph.output[0].name = f"normal{LAYERS - 1}"
    del model.graph.node[-1]
    body = model.SerializeToString()
    expected = OnnxRuntimeEngine(body).run(window(), lambda: False)
    np.testing.assert_allclose(OpenVinoEngine(body, patch_size=PATCH).run(window(), lambda: False), expected, atol=2e-5)


@pytest.mark.parametrize("part", ["centred", "scale", "bias", "epsilon", "scaled"])
def test_what_is_not_spelled_out_the_same_way_is_left_alone(part: str) -> None:
    """One name differs: nobody knows what the network means by it."""
    model = normalized_body()
    (number, *_) = {node.output[0].split(".")[0] for node in model.graph.node if node.output[0].endswith(".centred")}
    old, new = f"{number}.{part}", f"{number}.another"
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for tensor in model.graph.initializer:
        tensor.name = new if tensor.name == old else tensor.name
    read_model = read(model)
    assert with_fused_normalization(read_model) == LAYERS - 1
    body = model.SerializeToString()
    np.testing.assert_allclose(
        OpenVinoEngine(body, patch_size=PATCH).run(window(), lambda: False),
        OnnxRuntimeEngine(body).run(window(), lambda: False),
        atol=2e-5,
    )


def test_a_product_that_something_else_needs_too_is_left_alone() -> None:
    model = normalized_body()
    scaled = next(node.output[0] for node in model.graph.node if node.output[0].endswith(".scaled"))
    normal = next(node for node in model.graph.node if scaled in node.input)
    place = list(model.graph.node).index(normal)
    twice = helper.make_node("Mul", [scaled, scaled], ["twice"])
    added = helper.make_node("Add", [normal.output[0], "twice"], ["sum"])
    consumer = next(node for node in model.graph.node if normal.output[0] in node.input)
    consumer.input[0] = "sum"
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[: place + 1], twice, added, *nodes[place + 1 :]])
    assert with_fused_normalization(read(model)) == LAYERS - 1
