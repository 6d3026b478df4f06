"""How large the tensors of a network get for one window, from the shapes that its operators give.

A file of a few hundred bytes can ask for terabytes: ``Concat(x, x)`` thirty times over, a convolution with a billion
voxels of padding. So the shape of every tensor is worked out before an engine sees the file, operator by operator as
the ONNX standard defines them, for those that :mod:`KDSegmentatorLib.packs.onnx_check` lets through.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs.onnx_check import BYTES, FIXED32, VARINT, MalformedError, expect, fields, varint
from KDSegmentatorLib.packs.onnx_shapes import MAXIMUM_RANK, Node, Tensor, output_of

_ITEM_BYTES = {
    1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2,
    17: 1, 18: 1, 19: 1, 20: 1, 21: 1, 22: 1, 23: 1,
}  # fmt: skip
"""ONNX data type to bytes; the types of four bits are counted as one byte, text and complex numbers are refused."""

_INT32, _INT64 = 6, 7
_SHORT = 16
"""Most numbers of a tensor that are read as numbers: axes, of which there are at most ``MAXIMUM_RANK``."""

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_VALUE_NAME = 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_TEXT, _ATTRIBUTE_TENSOR = 1, 2, 3, 4, 5
_ATTRIBUTE_FLOATS, _ATTRIBUTE_INTS = 7, 8
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_INT32, _TENSOR_INT64, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 5, 7, 8, 9


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A network.

    Attributes:
        nodes: in the order of the file, which is that of computing.
        initializers: the weights.
        inputs: names.
        outputs: names.
    """

    nodes: list[Node]
    initializers: dict[bytes, Tensor]
    inputs: list[bytes]
    outputs: list[bytes]


class _Message:
    """A message's fields by number; the same message given in several parts is one, as protobuf has it."""

    def __init__(self, view: memoryview, parts: list[tuple[int, int]], kind: str) -> None:
        self._view = view
        self._kind = kind
        self._found: dict[int, list[tuple[int, int, int]]] = {}
        for start, end in parts:
            for number, wire, value, stop in fields(view, start, end):
                self._found.setdefault(number, []).append((wire, value, stop))

    def __contains__(self, number: int) -> bool:
        return number in self._found

    def parts(self, number: int) -> list[tuple[int, int]]:
        """Return where the bytes of a field are."""
        return [(value, stop) for value, stop in self._of(number, BYTES)]

    def texts(self, number: int) -> list[bytes]:
        return [bytes(self._view[start:stop]) for start, stop in self.parts(number)]

    def text(self, number: int) -> bytes:
        return (self.texts(number) or [b""])[-1]

    def integer(self, number: int) -> int | None:
        found = self._of(number, VARINT)
        return _signed(found[-1][0]) if found else None

    def integers(self, number: int) -> tuple[int, ...]:
        """Return a list of numbers, which may be packed."""
        found: list[int] = []
        for wire, value, stop in self._found.get(number, ()):
            if wire == VARINT:
                found.append(_signed(value))
                continue
            expect(wire, BYTES, self._kind, number)
            position = value
            while position < stop:
                each, position = varint(self._view, position, stop)
                found.append(_signed(each))
        return tuple(found)

    def count_of_floats(self, number: int) -> int:
        count = 0
        for wire, value, stop in self._found.get(number, ()):
            if wire == FIXED32:
                count += 1
            else:
                expect(wire, BYTES, self._kind, number)
                count += (stop - value) // 4
        return count

    def _of(self, number: int, wire: int) -> list[tuple[int, int]]:
        found = self._found.get(number, [])
        for present, _, _ in found:
            expect(present, wire, self._kind, number)
        return [(value, stop) for _, value, stop in found]


def read_graph(data: bytes) -> Graph:
    """Return the graph of an ONNX file.

    Raises:
        MalformedError: it is not what it has to be; says what.
    """
    view = memoryview(data)
    model = _Message(view, [(0, len(view))], "model")
    graph = _Message(view, model.parts(_MODEL_GRAPH), "graph")
    weights: dict[bytes, Tensor] = {}
    for part in graph.parts(_GRAPH_INITIALIZER):
        message = _Message(view, [part], "tensor")
        weights[message.text(_TENSOR_NAME)] = _tensor(view, message)
    return Graph(
        nodes=[_node(view, part) for part in graph.parts(_GRAPH_NODE)],
        initializers=weights,
        inputs=[_Message(view, [part], "value").text(_VALUE_NAME) for part in graph.parts(_GRAPH_INPUT)],
        outputs=[_Message(view, [part], "value").text(_VALUE_NAME) for part in graph.parts(_GRAPH_OUTPUT)],
    )


def item_bytes(data_type: int | None) -> int:
    """Return the size of one number of an ONNX data type.

    Raises:
        MalformedError: a network has no numbers of this type.
    """
    size = _ITEM_BYTES.get(data_type or 0)
    if size is None:
        raise MalformedError(f"a tensor has the data type {data_type}")
    return size


def _node(view: memoryview, part: tuple[int, int]) -> Node:
    message = _Message(view, [part], "node")
    numbers: dict[bytes, int | tuple[int, ...] | bytes] = {}
    value: Tensor | None = None
    for place in message.parts(_NODE_ATTRIBUTE):
        attribute = _Message(view, [place], "attribute")
        name = attribute.text(_ATTRIBUTE_NAME)
        integer = attribute.integer(_ATTRIBUTE_INT)
        integers = attribute.integers(_ATTRIBUTE_INTS)
        if _ATTRIBUTE_TENSOR in attribute:
            value = _tensor(view, _Message(view, attribute.parts(_ATTRIBUTE_TENSOR), "tensor"))
        elif integers:
            numbers[name] = integers
            value = Tensor((len(integers),), 8, integers if len(integers) <= _SHORT else None)
        elif _ATTRIBUTE_FLOATS in attribute:
            value = Tensor((attribute.count_of_floats(_ATTRIBUTE_FLOATS),), 4)
        elif _ATTRIBUTE_TEXT in attribute:
            numbers[name] = attribute.text(_ATTRIBUTE_TEXT)
        elif _ATTRIBUTE_FLOAT in attribute:
            value = Tensor((), 4)
        elif integer is not None:
            numbers[name] = integer
            value = Tensor((), 8, (integer,))
    operator = message.text(_NODE_OPERATOR).decode("utf-8", errors="replace")
    to = numbers.get(b"to")
    return Node(
        operator=operator,
        inputs=message.texts(_NODE_INPUT),
        outputs=message.texts(_NODE_OUTPUT),
        attributes=numbers,
        value=value if operator == "Constant" else None,
        cast_bytes=item_bytes(to if isinstance(to, int) else None) if operator == "Cast" else None,
    )


def _tensor(view: memoryview, message: _Message) -> Tensor:
    shape = message.integers(_TENSOR_DIMS)
    data_type = message.integer(_TENSOR_TYPE)
    if len(shape) > MAXIMUM_RANK or any(length < 0 for length in shape):
        raise MalformedError(f"a tensor has the shape {shape[: MAXIMUM_RANK + 1]}")
    tensor = Tensor(shape, item_bytes(data_type))
    if tensor.count > 2 * len(view):  # two numbers of four bits a byte is the least that is stored
        raise MalformedError(f"a tensor has {tensor.count:,} numbers, more than are in the file")
    if data_type not in (_INT32, _INT64) or len(shape) > 1 or tensor.count > _SHORT:
        return tensor
    raw = message.text(_TENSOR_RAW)
    if raw:
        size = tensor.item_bytes
        if len(raw) != size * tensor.count:
            raise MalformedError(f"a tensor of {tensor.count} numbers has {len(raw)} bytes")
        values = struct.unpack(f"<{tensor.count}{'q' if size == 8 else 'i'}", raw)
    else:
        values = message.integers(_TENSOR_INT64 if data_type == _INT64 else _TENSOR_INT32)
    if len(values) != tensor.count:
        raise MalformedError(f"a tensor of {tensor.count} numbers has {len(values)}")
    return Tensor(shape, tensor.item_bytes, tuple(values))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


MAXIMUM_LIVE_BYTES = 16 << 30
"""Most that a network's tensors may take at one time, for one window and without its weights.

nnU-Net's own network, 32 features in windows of 160 x 192 x 160 voxels, takes 2.5 GB.
"""


def check_sizes(data: bytes, patch_size: Sequence[int], where: str) -> int:
    """Check that a network fits into memory, whatever its operators do; return the bytes that one window takes.

    Tensors are counted from the node that makes them to the last one that reads them, in the order of the file.

    Args:
        data: the ONNX file, which passed :func:`KDSegmentatorLib.packs.onnx_check.check_onnx`.
        patch_size: (z, y, x) of a window.
        where: the file's name, for error messages.

    Raises:
        PackError: it takes more than ``MAXIMUM_LIVE_BYTES``, or the shapes do not fit together.
    """
    try:
        return _peak_bytes(read_graph(data), (1, 1, *patch_size))
    except MalformedError as error:
        raise PackError(f"{where} is not a usable ONNX model: {error}; export or download the pack again") from None
    except _TooLargeError as error:
        raise PackError(
            f"{where} is refused: with windows of {' x '.join(map(str, patch_size))} voxels {error}; "
            f"{MAXIMUM_LIVE_BYTES:,} are allowed. Export it with a smaller patch size or fewer features"
        ) from None


class _TooLargeError(Exception):
    pass


def _peak_bytes(graph: Graph, window: tuple[int, ...]) -> int:
    tensors = dict(graph.initializers)
    inputs = [name for name in graph.inputs if name not in tensors]  # old files list the weights as inputs too
    if len(inputs) > 1:
        raise MalformedError(f"it has {len(inputs)} inputs, a network has one")
    sizes: dict[bytes, int] = {}
    for name in inputs:
        tensors[name] = Tensor(window, 4)
        sizes[name] = tensors[name].size_bytes
    last_read = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
    kept = set(graph.outputs)
    alive = peak = sum(sizes.values())
    for place, node in enumerate(graph.nodes):
        missing = next((name for name in node.inputs if name and name not in tensors), None)
        if missing is not None:
            raise MalformedError(f"the tensor {missing[:100].decode(errors='replace')!a} is read before it is made")
        made = output_of(node, [tensors[name] if name else None for name in node.inputs])
        for name in node.outputs:
            if name in tensors:
                raise MalformedError(f"the tensor {name[:100].decode(errors='replace')!a} is made twice")
            if not name:
                continue
            tensors[name] = made
            sizes[name] = made.size_bytes
            alive += sizes[name]
        if alive > MAXIMUM_LIVE_BYTES:
            shape = " x ".join(map(str, made.shape))
            raise _TooLargeError(f"its tensors take {alive:,} bytes at the {node.operator} whose output is {shape}")
        peak = max(peak, alive)
        for name in {*node.inputs, *node.outputs}:
            if name in sizes and name not in kept and last_read.get(name, -1) <= place:
                alive -= sizes.pop(name)
    return peak
