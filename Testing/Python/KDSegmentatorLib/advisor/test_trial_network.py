from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("openvino", reason="needs OpenVINO")
from KDSegmentatorLib.advisor.trial_network import _varint, trial_flops, trial_network
from KDSegmentatorLib.engines.instance_normalization import with_fused_normalization
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.engines.openvino_engine import OpenVinoEngine
from KDSegmentatorLib.engines.openvino_runtime import openvino_core
from KDSegmentatorLib.packs.manifest import Precision
from KDSegmentatorLib.packs.onnx_check import check_onnx

WIDTH, BLOCKS, EDGE = 5, 3, 9


def never() -> bool:
    return False


def window() -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(1, WIDTH, EDGE, EDGE, EDGE)).astype(np.float32)


def by_hand(network: bytes, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return what the blocks give, from their kernels alone."""
    model = onnx.load_from_string(network)
    kernels = [numpy_helper.to_array(each) for each in model.graph.initializer if each.name.endswith("weights")]
    found = values[0].astype(np.float64)
    for kernel in kernels:
        padded = np.pad(found, [(0, 0), (1, 1), (1, 1), (1, 1)])
        views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3), axis=(1, 2, 3))
        convolved = np.einsum("czyxijk,ocijk->ozyx", views, kernel)
        mean = convolved.mean(axis=(1, 2, 3), keepdims=True)
        variance = convolved.var(axis=(1, 2, 3), keepdims=True)
        normal = (convolved - mean) / np.sqrt(variance + 1e-5)
        found = np.where(normal > 0, normal, 0.01 * normal)
    return found[None]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_it_is_onnx_as_packs_may_hold_it(precision: Precision) -> None:
    network = trial_network(WIDTH, BLOCKS, precision)
    onnx.checker.check_model(onnx.load_from_string(network), full_check=True)
    check_onnx(network, "the trial network")


def test_bfloat16_is_left_to_the_engine() -> None:
    assert trial_network(WIDTH, BLOCKS, "bfloat16") == trial_network(WIDTH, BLOCKS, "float32")


def test_both_engines_compute_its_blocks() -> None:
    network = trial_network(WIDTH, BLOCKS, "float32")
    expected = by_hand(network, window())
    shape = (EDGE, EDGE, EDGE)
    for engine in (
        OnnxRuntimeEngine(network, threads=1),
        OpenVinoEngine(network, patch_size=shape, channels=WIDTH, threads=1),
    ):
        np.testing.assert_allclose(engine.run(window(), never), expected, atol=1e-4)


def test_int8_gives_the_same_but_for_its_rounding() -> None:
    expected = by_hand(trial_network(WIDTH, BLOCKS, "float32"), window())
    network = trial_network(WIDTH, BLOCKS, "int8")
    engine = OpenVinoEngine(network, patch_size=(EDGE, EDGE, EDGE), channels=WIDTH, precision="int8", threads=1)
    found = engine.run(window(), never)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    assert np.abs(found - expected).max() > 1e-4  # it is rounded


def operators(model: Any) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_openvino_fuses_its_normalisations_as_those_of_packs(precision: Precision) -> None:
    model = openvino_core().read_model(trial_network(WIDTH, BLOCKS, precision))
    assert with_fused_normalization(model) == BLOCKS
    assert operators(model).count("MVN") == BLOCKS
    assert "ReduceMean" not in operators(model)


def test_int8_convolutions_really_run_in_int8() -> None:
    model = openvino_core().read_model(trial_network(16, BLOCKS, "int8"))
    model.reshape([1, 16, 16, 16, 16])
    with_fused_normalization(model)
    runtime = openvino_core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).get_runtime_model()
    kinds = {
        node.rt_info["runtimePrecision"].value
        for node in runtime.get_ordered_ops()
        if node.rt_info["layerType"].value == "Convolution"
    }
    assert kinds <= {"i8", "u8"}
    assert kinds


def test_its_operations_are_counted() -> None:
    model = onnx.load_from_string(trial_network(WIDTH, BLOCKS, "float32"))
    kernels = [each for each in model.graph.initializer if each.name.endswith("weights")]
    multiplications = sum(math.prod(kernel.dims) for kernel in kernels) * EDGE**3
    assert trial_flops(WIDTH, BLOCKS, EDGE**3) == 2 * multiplications


@given(st.integers(min_value=0, max_value=1 << 62))
def test_numbers_are_written_in_groups_of_seven_bits(value: int) -> None:
    encoded = _varint(value)
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded)) == value
    assert [byte >> 7 for byte in encoded] == [1] * (len(encoded) - 1) + [0]
