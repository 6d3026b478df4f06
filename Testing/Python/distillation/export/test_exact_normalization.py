import numpy as np
import onnx
import pytest
import torch
from torch import nn

from distillation.export.network import INPUT_NAME, OUTPUT_NAME, to_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
EDGE = 96


def exported(norm: nn.Module) -> onnx.ModelProto:
    return onnx.load_from_string(to_onnx(norm, channels=2, patch_size=(EDGE,) * 3, storage="float32"))


def run(model: onnx.ModelProto, window: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run([OUTPUT_NAME], {INPUT_NAME: window})[0]


@pytest.fixture(scope="module")
def window():
    random = np.random.default_rng(0)
    return (random.normal(size=(1, 2, EDGE, EDGE, EDGE)) * 1.5 + [[[[[3]]], [[[-1]]]]]).astype(np.float32)


def by_hand(norm: nn.InstanceNorm3d, window: np.ndarray) -> np.ndarray:
    values = window.astype(np.float64)
    axes = (2, 3, 4)
    scaled = (values - values.mean(axes, keepdims=True)) / np.sqrt(values.var(axes, keepdims=True) + norm.eps)
    if norm.affine:
        weight, bias = (p.detach().double().numpy().reshape(1, -1, 1, 1, 1) for p in (norm.weight, norm.bias))
        scaled = scaled * weight + bias
    return scaled


@pytest.mark.parametrize("affine", [True, False])
def test_is_exact_where_onnxruntimes_own_operator_is_not(window, affine):
    norm = nn.InstanceNorm3d(2, affine=affine).eval()
    if affine:
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias)
    expected = by_hand(norm, window)
    model = exported(norm)
    assert "InstanceNormalization" not in {node.op_type for node in model.graph.node}
    assert np.abs(run(model, window) - expected).max() < 5e-6


def test_the_reason_for_the_replacement_still_holds(window):
    """If this fails, onnxruntime has become exact and the replacement can go."""
    one = onnx.numpy_helper.from_array(np.ones(2, np.float32), "one")
    zero = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "zero")
    shape = [1, 2, EDGE, EDGE, EDGE]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("InstanceNormalization", [INPUT_NAME, "one", "zero"], [OUTPUT_NAME], epsilon=1e-5)],
        "own",
        [onnx.helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, shape)],
        [one, zero],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    expected = by_hand(nn.InstanceNorm3d(2), window)
    assert np.abs(run(model, window) - expected).max() > 2e-5
    assert (
        torch.nn.functional.instance_norm(torch.from_numpy(window)).sub(torch.from_numpy(expected)).abs().max() < 5e-6
    )
