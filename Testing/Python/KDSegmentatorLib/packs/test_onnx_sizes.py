from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs import onnx_sizes
from KDSegmentatorLib.packs.onnx_check import OPERATORS, check_onnx
from KDSegmentatorLib.packs.onnx_shapes import Tensor, output_of
from KDSegmentatorLib.packs.onnx_sizes import check_sizes, read_graph
from KDSegmentatorLib.packs.pack import open_pack, verify_pack
from KDSegmentatorLib.packs.store import PackStore

PATCH = (8, 8, 8)
WINDOW = (1, 1, *PATCH)

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'kdsegmentator[distill]'")
helper, FLOAT, INT64 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def weights(name: str, *shape: int) -> Any:
    return onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)


def model(nodes: list[Any], initializers: list[Any] | None = None, opset: int = 17) -> bytes:
    """Return a network whose output is the output of its last node."""
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 1, *PATCH])],
        [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)],
        initializer=initializers or [],
    )  # fmt: skip
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()
    )


def chain_of_concatenations(length: int) -> bytes:
    names = ["x", *(f"c{n}" for n in range(length))]
    nodes = [helper.make_node("Concat", [a, a], [b], axis=1) for a, b in itertools.pairwise(names)]
    return model([*nodes, helper.make_node("ReduceMean", [names[-1]], ["y"], axes=[1])])


BOMBS = {
    "Concat": chain_of_concatenations(36),
    "Conv": model([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1 << 20] * 6)], [weights("w", 1, 1, 3, 3, 3)]),
    "Conv that wraps round": model(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1 << 62] * 6)], [weights("w", 1, 1, 3, 3, 3)]
    ),
    "AveragePool": model([helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[1] * 3, pads=[1 << 20] * 6)]),
    "ConvTranspose": model(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[1 << 12] * 3)], [weights("w", 1, 1, 1, 1, 1)]
    ),
    "ConvTranspose with a shape": model(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], output_shape=[1 << 12] * 3)],
        [weights("w", 1, 1, 1, 1, 1)],
    ),
    "Add": model(
        [
            helper.make_node("Add", ["a", "b"], ["ab"]),
            helper.make_node("Mul", ["ab", "c"], ["y"]),
        ],
        [weights("a", 4096, 1, 1), weights("b", 4096, 1), weights("c", 4096)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_asks_for_terabytes(name: str) -> None:
    assert len(BOMBS[name]) < 100_000
    check_onnx(BOMBS[name], "m")  # what it consists of is all allowed
    with pytest.raises(
        PackError, match=r"^m is refused: with windows of 8 x 8 x 8 voxels its tensors take [\d,]+ byte"
    ):
        check_sizes(BOMBS[name], PATCH, "m")


def test_a_pack_with_such_a_network_is_not_verified(build_pack: Callable[..., Path], kit: ModuleType) -> None:
    body = chain_of_concatenations(36).replace(b"\x10\x11", b"\x10\x12")  # operator set 18, as the manifest says
    assert check_onnx(body, "m").opset == kit.OPSET
    axes = helper.make_tensor("axes", INT64, (1,), [1])
    nodes = list(onnx.ModelProto.FromString(body).graph.node)[:-1]
    body = model([*nodes, helper.make_node("ReduceMean", [nodes[-1].output[0], "axes"], ["y"])], [axes], 18)
    with pytest.raises(PackError, match="its tensors take"):
        verify_pack(open_pack(build_pack(body=body)))


def test_many_tensors_at_one_time_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    branches = [helper.make_node("Relu", ["x"], [f"r{n}"]) for n in range(10)]
    wide = model([*branches, helper.make_node("Concat", [node.output[0] for node in branches], ["y"], axis=1)])
    names = ["x", *(f"r{n}" for n in range(100))]
    deep = model([helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names)])
    one = 4 * 8**3
    assert check_sizes(wide, PATCH, "m") == 20 * one  # the input is not needed any more when they are put together
    assert check_sizes(deep, PATCH, "m") == 2 * one
    monkeypatch.setattr(onnx_sizes, "MAXIMUM_LIVE_BYTES", 19 * one)
    check_sizes(deep, PATCH, "m")
    with pytest.raises(
        PackError, match=r"take 40,960 bytes at the Concat whose output is 1 x 10 x 8 x 8 x 8; 38,912 a"
    ):
        check_sizes(wide, PATCH, "m")


def shapes(data: bytes, window: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    graph = read_graph(data)
    tensors = dict(graph.initializers)
    tensors[next(name for name in graph.inputs if name not in tensors)] = Tensor(window, 4)
    found = {}
    for node in graph.nodes:
        made = output_of(node, [tensors[name] if name else None for name in node.inputs])
        for name in node.outputs:
            tensors[name] = made
            found[name.decode()] = made.shape
    return found


def reference(data: bytes, window: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the onnx package works out."""
    network = onnx.ModelProto.FromString(data)
    for dimension, length in zip(network.graph.input[0].type.tensor_type.shape.dim, window, strict=True):
        dimension.dim_value = length
    for output in network.graph.output:
        output.ClearField("type")
    found = onnx.shape_inference.infer_shapes(network, strict_mode=True, data_prop=True).graph
    return {
        value.name: tuple(each.dim_value for each in value.type.tensor_type.shape.dim)
        for value in (*found.value_info, *found.output)
    }


def test_the_shapes_of_the_shipped_networks_are_those_of_the_onnx_package(tmp_path: Path) -> None:
    packs = PackStore(user_folder=tmp_path).packs()
    assert packs
    for pack in packs:
        patch = pack.manifest.windows.patch_size
        for name in pack.manifest.files:
            if name.endswith(".onnx"):
                data = pack.read(name)
                found, expected = shapes(data, (1, 1, *patch)), reference(data, (1, 1, *patch))
                assert found == {tensor: expected[tensor] for tensor in found}
                one_map = 4 * pack.manifest.network.features * math.prod(patch)  # at full resolution, float32
                assert check_sizes(data, patch, name) < 4.2 * one_map


W, S = [weights("w", 4, 1, 3, 3, 3)], [weights("s", 1)]
ZERO = [onnx.numpy_helper.from_array(np.zeros(1, np.uint8), "z")]
AXES = [helper.make_tensor("axes", INT64, (2,), [-1, 2])]
OPERATOR_CASES: list[tuple[str, list[str], list[Any], int, dict[str, Any]]] = [
    ("Add", ["x", "s"], [weights("s", 3, 1, 1, 1)], 17, {}),
    ("Sub", ["s", "x"], [weights("s", 2, 3, 1, 1, 8)], 17, {}),
    ("Mul", ["x", "s"], S, 17, {}),
    ("Div", ["x", "s"], S, 17, {}),
    ("Sqrt", ["x"], [], 17, {}),
    ("Relu", ["x"], [], 17, {}),
    ("LeakyRelu", ["x"], [], 17, {"alpha": 0.01}),
    ("Identity", ["x"], [], 17, {}),
    ("Cast", ["x"], [], 17, {"to": onnx.TensorProto.DOUBLE}),
    ("Concat", ["x", "x", "x"], [], 17, {"axis": -1}),
    ("Constant", [], [], 17, {"value": weights("c", 2, 3)}),
    ("Constant", [], [], 17, {"value_ints": [1, 2, 3]}),
    ("Constant", [], [], 17, {"value_floats": [1.0, 2.0]}),
    ("Constant", [], [], 17, {"value_float": 1.0}),
    ("Constant", [], [], 17, {"value_int": 1}),
    ("InstanceNormalization", ["x", "s", "s"], S, 17, {}),
    ("QuantizeLinear", ["x", "s", "z"], [*S, *ZERO], 17, {}),
    ("DequantizeLinear", ["z", "s", "z"], [*S, *ZERO], 17, {}),
    ("ReduceMean", ["x"], [], 17, {"axes": [2, 3, -1]}),
    ("ReduceMean", ["x"], [], 17, {"axes": [2, 3], "keepdims": 0}),
    ("ReduceMean", ["x"], [], 17, {}),
    ("ReduceMean", ["x", "axes"], AXES, 18, {"keepdims": 0}),
    ("ReduceMean", ["x"], [], 18, {"noop_with_empty_axes": 1}),
    ("AveragePool", ["x"], [], 17, {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
    ("AveragePool", ["x"], [], 17, {"kernel_shape": [3, 3, 3], "strides": [2, 2, 3], "ceil_mode": 1}),
    ("AveragePool", ["x"], [], 17, {"kernel_shape": [3, 3, 3], "strides": [3, 2, 1], "auto_pad": "SAME_UPPER"}),
    ("Conv", ["x", "w"], W, 17, {}),
    ("Conv", ["x", "w"], W, 17, {"pads": [1, 0, 1, 1, 2, 0], "strides": [2, 1, 3], "kernel_shape": [3, 3, 3]}),
    ("Conv", ["x", "w"], W, 17, {"dilations": [2, 1, 3], "auto_pad": "VALID"}),
    ("Conv", ["x", "w"], W, 17, {"strides": [2, 3, 1], "auto_pad": "SAME_LOWER"}),
    ("ConvTranspose", ["x", "w"], [weights("w", 1, 4, 2, 3, 2)], 17, {"strides": [2, 1, 2]}),
    ("ConvTranspose", ["x", "w"], [weights("w", 1, 4, 2, 3, 2)], 17,
     {"strides": [3, 2, 2], "output_padding": [1, 0, 1], "pads": [0, 1, 0, 0, 1, 0], "dilations": [1, 2, 1]}),
    ("ConvTranspose", ["x", "w"], [weights("w", 1, 4, 2, 2, 2)], 17, {"strides": [2] * 3, "auto_pad": "SAME_UPPER"}),
    ("ConvTranspose", ["x", "w"], [weights("w", 1, 4, 2, 2, 2)], 17,
     {"strides": [2] * 3, "output_shape": [17, 16, 15]}),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "inputs", "initializers", "opset", "attributes"), OPERATOR_CASES)
def test_every_operator_as_the_onnx_package_has_it(
    operator: str, inputs: list[str], initializers: list[Any], opset: int, attributes: dict[str, Any]
) -> None:
    data = model([helper.make_node(operator, inputs, ["y"], **attributes)], initializers, opset)
    assert shapes(data, WINDOW)["y"] == reference(data, WINDOW)["y"]


def test_all_operators_are_among_these() -> None:
    assert {case[0] for case in OPERATOR_CASES} == OPERATORS


@pytest.mark.parametrize(
    ("nodes", "initializers", "message"),
    [
        ([("Relu", ["q"], {})], [], "the tensor 'q' is read before it is made"),
        ([("Add", ["x", "s"], {})], [weights("s", 7)], "a Add gets the shapes"),
        ([("Conv", ["x"], {})], [], "a Conv has no input 2"),
        ([("Conv", ["x", "w"], {"pads": [-1] * 6})], W, "'pads' of a Conv does not fit|b'pads'"),
        ([("Conv", ["x", "w"], {"strides": [0] * 3})], W, "strides"),
        ([("Conv", ["x", "w"], {"kernel_shape": [5, 5, 5]})], W, "no kernel of the shape it says"),
        ([("Conv", ["x", "w"], {})], [weights("w", 1, 1, 9, 9, 9)], "longer than its input"),
        ([("Concat", ["x", "s"], {"axis": 1})], [weights("s", 7)], "do not fit along axis 1"),
        ([("ReduceMean", ["x"], {"axes": [9]})], [], "has axes that are none of them"),
        ([("ReduceMean", ["x", "x"], {})], [], "axes of a ReduceMean are not in the file"),
        ([("Cast", ["x"], {"to": 8})], [], "the data type 8"),
    ],
)
def test_shapes_that_do_not_fit(nodes: list[Any], initializers: list[Any], message: str) -> None:
    made = [helper.make_node(operator, inputs, ["y"], **attributes) for operator, inputs, attributes in nodes]
    with pytest.raises(PackError, match=rf"^m is not a usable ONNX model: .*({message})"):
        check_sizes(model(made, initializers), PATCH, "m")


def test_weights_that_are_not_in_the_file() -> None:
    tensor = onnx.TensorProto(name="w", data_type=FLOAT, dims=[1 << 20, 1 << 20])
    with pytest.raises(PackError, match=r"a tensor has 1,099,511,627,776 numbers, more than are in the file"):
        check_sizes(model([helper.make_node("Identity", ["w"], ["y"])], [tensor]), PATCH, "m")


def test_changed_bytes_never_crash_the_reader() -> None:
    generator = random.Random(0)
    intact = [
        model([helper.make_node(operator, inputs, ["y"], **attributes)], initializers, opset)
        for operator, inputs, initializers, opset, attributes in OPERATOR_CASES
    ]
    for number in range(6000):
        damaged = bytearray(intact[number % len(intact)])
        for _ in range(generator.randrange(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        with contextlib.suppress(PackError):
            check_sizes(bytes(damaged), PATCH, "m")
