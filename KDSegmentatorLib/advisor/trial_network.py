"""A small network to time an engine with: the blocks that students are made of, written as ONNX without its package.

A block is what nnU-Net repeats: a 3x3x3 convolution, an instance normalisation and a LeakyReLU. They are written as
exported packs hold them, so that engines do with them what they do with a pack: the normalisation spelled out under the
names by which :mod:`KDSegmentatorLib.engines.instance_normalization` knows it, and in int8 a QuantizeLinear and a
DequantizeLinear in front of each convolution. ONNX is protobuf; the field numbers are those of onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.packs.manifest import Precision

INPUT_NAME = "input"
OUTPUT_NAME = "features"

_IR_VERSION, _OPSET = 8, 17
_FLOAT, _INT8 = 1, 3  # TensorProto.DataType
_VARINT, _BYTES, _FIXED32 = 0, 2, 5  # wire types
_SPATIAL_AXES = (4, 3, 2)
_KERNEL_VOXELS = 27
_LARGEST_INT8 = 127
_INPUT_STEP = np.float32(4 / _LARGEST_INT8)
"""Width of an int8 step: normalised activations hardly leave -4 to 4."""

Array = npt.NDArray[Any]


def trial_network(width: int, blocks: int, precision: Precision) -> bytes:
    """Return an ONNX model of random blocks from (n, width, z, y, x) to the same shape, of any n, z, y and x.

    Args:
        width: channels.
        blocks: how many follow each other, >= 1.
        precision: int8 writes quantised convolutions; engines convert float32 to bfloat16 themselves.
    """
    graph = _Graph()
    random = np.random.default_rng(0)
    source = INPUT_NAME
    for block in range(blocks):
        kernel = random.normal(size=(width, width, 3, 3, 3)) / np.sqrt(_KERNEL_VOXELS * width)
        result = OUTPUT_NAME if block + 1 == blocks else f"block{block}"
        _add_block(graph, block, source, result, kernel.astype(np.float32), quantized=precision == "int8")
        source = result
    return graph.model(width)


def trial_flops(width: int, blocks: int, voxels: int) -> int:
    """Return 2 x multiply-accumulate of the convolutions of :func:`trial_network` on a window."""
    return 2 * _KERNEL_VOXELS * width**2 * blocks * voxels


def _add_block(
    graph: _Graph, number: int, source: str, result: str, kernel: npt.NDArray[np.float32], *, quantized: bool
) -> None:
    width = len(kernel)
    name = f"block{number}."
    weights = graph.constant(name + "weights", kernel)
    if quantized:
        source, weights = _quantized(graph, name, source, kernel)
    bias = graph.constant(name + "shift", np.zeros(width, np.float32))
    attributes = [_ints("kernel_shape", [3] * 3), _ints("pads", [1] * 6), _ints("strides", [1] * 3)]
    convolved = graph.add("Conv", [source, weights, bias], name + "convolved", attributes)
    normalized = _normalized(graph, f"normalization{number}.", convolved, name + "normalized", width)
    graph.add("LeakyRelu", [normalized], result, [_float("alpha", 0.01)])


def _normalized(graph: _Graph, prefix: str, source: str, result: str, width: int) -> str:
    """Add an instance normalisation as the exporter spells it out (``distillation.export.normalization``)."""
    per_channel = (1, width, 1, 1, 1)
    scale = graph.constant(prefix + "scale", np.ones(per_channel, np.float32))
    bias = graph.constant(prefix + "bias", np.zeros(per_channel, np.float32))
    epsilon = graph.constant(prefix + "epsilon", np.asarray(1e-5, np.float32))
    mean = _mean(graph, source, prefix + "mean")
    centred = graph.add("Sub", [source, mean], prefix + "centred")
    squared = graph.add("Mul", [centred, centred], prefix + "squared")
    raised = graph.add("Add", [_mean(graph, squared, prefix + "variance"), epsilon], prefix + "raised")
    factor = graph.add("Div", [scale, graph.add("Sqrt", [raised], prefix + "deviation")], prefix + "factor")
    return graph.add("Add", [graph.add("Mul", [centred, factor], prefix + "scaled"), bias], result)


def _mean(graph: _Graph, source: str, result: str) -> str:
    for axis in _SPATIAL_AXES:
        target = result if axis == _SPATIAL_AXES[-1] else f"{result}.{axis}"
        source = graph.add("ReduceMean", [source], target, [_ints("axes", [axis]), _int("keepdims", 1)])
    return source


def _quantized(graph: _Graph, name: str, source: str, kernel: npt.NDArray[np.float32]) -> tuple[str, str]:
    """Add what brings an input and a kernel to eight bits and back; return the names of both."""
    step = graph.constant(name + "step", np.asarray(_INPUT_STEP))
    zero = graph.constant(name + "zero", np.asarray(0, np.int8))
    levels = graph.add("QuantizeLinear", [source, step, zero], name + "levels")
    values = graph.add("DequantizeLinear", [levels, step, zero], name + "values")
    steps = np.abs(kernel).max(axis=(1, 2, 3, 4)) / _LARGEST_INT8
    kernel_levels = np.round(kernel / steps[:, None, None, None, None]).astype(np.int8)
    inputs = [
        graph.constant(name + "kernel.levels", kernel_levels),
        graph.constant(name + "kernel.steps", steps),
        graph.constant(name + "kernel.zeros", np.zeros(len(kernel), np.int8)),
    ]
    return values, graph.add("DequantizeLinear", inputs, name + "kernel", [_int("axis", 0)])


class _Graph:
    """Collects nodes and constants, and writes them."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: dict[str, bytes] = {}

    def add(self, operator: str, inputs: Sequence[str], output: str, attributes: Sequence[bytes] = ()) -> str:
        """Add a node (NodeProto) and return the name of its output."""
        node = b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, operator)
        self._nodes.append(node + b"".join(_message(5, attribute) for attribute in attributes))
        return output

    def constant(self, name: str, values: Array) -> str:
        """Add a constant (TensorProto) and return its name."""
        kind = _INT8 if values.dtype == np.int8 else _FLOAT
        dimensions = b"".join(_number(1, length) for length in values.shape)
        little_endian = values.astype(values.dtype.newbyteorder("<")).tobytes()
        self._constants[name] = dimensions + _number(2, kind) + _text(8, name) + _message(9, little_endian)
        return name

    def model(self, width: int) -> bytes:
        """Return the ModelProto."""
        graph = b"".join(_message(1, node) for node in self._nodes) + _text(2, "trial")
        used = b"".join(_message(5, constant) for constant in self._constants.values())
        graph += used + _message(11, _value(INPUT_NAME, width)) + _message(12, _value(OUTPUT_NAME, width))
        operators = _text(1, "") + _number(2, _OPSET)
        return _number(1, _IR_VERSION) + _message(7, graph) + _message(8, operators)


def _value(name: str, width: int) -> bytes:
    """Return a ValueInfoProto of (n, width, z, y, x)."""
    dimensions: tuple[str | int, ...] = ("n", width, "z", "y", "x")
    shape = b"".join(_message(1, _text(2, each) if isinstance(each, str) else _number(1, each)) for each in dimensions)
    return _text(1, name) + _message(2, _message(1, _number(1, _FLOAT) + _message(2, shape)))


def _float(name: str, value: float) -> bytes:
    """Return an AttributeProto of the type FLOAT."""
    return _text(1, name) + _varint(2 << 3 | _FIXED32) + struct.pack("<f", value) + _number(20, 1)


def _int(name: str, value: int) -> bytes:
    """Return an AttributeProto of the type INT."""
    return _text(1, name) + _number(3, value) + _number(20, 2)


def _ints(name: str, values: Sequence[int]) -> bytes:
    """Return an AttributeProto of the type INTS."""
    return _text(1, name) + b"".join(_number(8, value) for value in values) + _number(20, 7)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode("ascii"))


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Return a number >= 0 in groups of seven bits, the lowest first; the eighth says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
