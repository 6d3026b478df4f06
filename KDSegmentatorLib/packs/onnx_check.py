"""A look into an ONNX file without the onnx package: no data outside the file, only the operators of a U-Net.

onnxruntime follows a tensor's ``external_data`` to any path on the disk, so a pack's network must not have any. ONNX is
protobuf; this walks the wire format with a list of pending messages (no recursion) along the fields that can hold
tensors, and refuses what it does not understand and what no U-Net needs: loops and branches (graphs inside of nodes),
functions, random numbers, operators whose output is as large as a number in the file says (Expand, Tile, Range). How
large the network's tensors get with the others is the matter of :mod:`KDSegmentatorLib.packs.onnx_sizes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from KDSegmentatorLib.errors import PackError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_VARINT_BITS = 64


class MalformedError(Exception):
    """The bytes are no message of this format; says what was found."""


def expect(wire: int, expected: int, kind: str, number: int) -> None:
    """Check a field's wire type.

    Raises:
        MalformedError: it is another one.
    """
    if wire != expected:
        raise MalformedError(f"field {number} of a {kind} has wire type {wire} instead of {expected}")


def fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, value, stop): a number, or for bytes where they start and stop.

    Raises:
        MalformedError: the bytes are cut off, or no fields.
    """
    position = start
    while position < end:
        key, position = varint(view, position, end)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise MalformedError(f"it has a field with the number {number}")
        if wire == VARINT:
            value, position = varint(view, position, end)
            yield number, wire, value, position
            continue
        if wire == BYTES:
            length, position = varint(view, position, end)
        elif wire == FIXED64:
            length = 8
        elif wire == FIXED32:
            length = 4
        else:
            raise MalformedError(f"it has a field of the wire type {wire}")
        if length > end - position:
            raise MalformedError("it ends in the middle of a field")
        yield number, wire, position, position + length
        position += length


def varint(view: memoryview, position: int, end: int) -> tuple[int, int]:
    """Return an unsigned number of up to 64 bits, and where it stops.

    Raises:
        MalformedError: it is cut off or longer.
    """
    value = 0
    for shift in range(0, _VARINT_BITS + 6, 7):
        if position >= end:
            raise MalformedError("it ends in the middle of a number")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << _VARINT_BITS) - 1), position
    raise MalformedError("it has a number of more than 64 bits")


MAXIMUM_FIELDS = 1_000_000
"""Most protobuf fields that are looked at; a 3-D U-Net has some thousands."""

DEFAULT_DOMAINS = ("", "ai.onnx")

OPERATORS = frozenset(
    {
        "Add", "AveragePool", "Cast", "Concat", "Constant", "Conv", "ConvTranspose", "DequantizeLinear", "Div",
        "Identity", "InstanceNormalization", "LeakyRelu", "Mul", "QuantizeLinear", "ReduceMean", "Relu", "Sqrt", "Sub",
    }
)  # fmt: skip
"""What an exported PlainConvUNet or ResidualEncoderUNet consists of; nothing else is run."""

# Field numbers of onnx.proto: message -> field -> message.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor"},
    "tensor": {},
    "opset": {},
}
# The other fields that can hold tensors or nodes.
_REFUSED: dict[str, dict[int, str]] = {
    "model": {20: "training information", 25: "a function"},
    "graph": {15: "a sparse tensor"},
    "attribute": {
        6: "a graph inside of a node", 11: "a graph inside of a node", 22: "a sparse tensor", 23: "a sparse tensor",
    },
}  # fmt: skip
_DOMAIN_FIELD = {"node": 7, "opset": 1}
_NODE_OPERATOR = 4
_MODEL_IR_VERSION, _MODEL_GRAPH, _OPSET_VERSION = 1, 7, 2
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14


@dataclass(frozen=True, kw_only=True)
class OnnxSummary:
    """What an ONNX file says about itself: format version and version of the default operator set."""

    ir_version: int
    opset: int


def check_onnx(data: bytes, where: str) -> OnnxSummary:
    """Check that a network is complete in itself and consists of the operators of a U-Net only.

    Args:
        data: the ONNX file.
        where: its name, for error messages.

    Raises:
        PackError: not a readable ONNX model, a tensor lies outside the file, an operator is not one of
            ``OPERATORS`` or of another domain than ONNX's own, or there are nested graphs, functions or sparse tensors.
    """
    try:
        return _walk(data)
    except MalformedError as error:
        raise PackError(f"{where} is not a usable ONNX model: {error}; export or download the pack again") from None
    except _UnsafeError as error:
        raise PackError(
            f"{where} is refused: {error}; export the network with 'kdseg-distill export', as plain ONNX operators "
            "with all weights inside the file"
        ) from None


class _UnsafeError(Exception):
    pass


def _walk(data: bytes) -> OnnxSummary:
    view = memoryview(data)
    pending: list[tuple[str, int, int]] = [("model", 0, len(view))]
    budget = MAXIMUM_FIELDS
    ir_versions: list[int] = []
    opsets: list[int] = []
    graphs = 0
    while pending:
        kind, start, end = pending.pop()
        children, refused = _CHILDREN[kind], _REFUSED.get(kind, {})
        opset_version = 0
        for number, wire, value, stop in fields(view, start, end):
            budget -= 1
            if budget < 0:
                raise MalformedError(f"it has more than {MAXIMUM_FIELDS:,} fields")
            if number in children:
                expect(wire, BYTES, kind, number)
                pending.append((children[number], value, stop))
                graphs += kind == "model" and number == _MODEL_GRAPH
            elif number in refused:
                raise _UnsafeError(f"it has {refused[number]}")
            elif number == _DOMAIN_FIELD.get(kind):
                expect(wire, BYTES, kind, number)
                _check_domain(bytes(view[value:stop]))
            elif kind == "node" and number == _NODE_OPERATOR:
                expect(wire, BYTES, kind, number)
                _check_operator(bytes(view[value:stop]))
            elif kind == "tensor":
                _check_tensor_field(number, wire, value)
            elif kind == "model" and number == _MODEL_IR_VERSION:
                expect(wire, VARINT, kind, number)
                ir_versions.append(value)
            elif kind == "opset" and number == _OPSET_VERSION:
                expect(wire, VARINT, kind, number)
                opset_version = value
        if kind == "opset":
            opsets.append(opset_version)
    if not graphs:
        raise MalformedError("it has no graph")
    if len(ir_versions) != 1:
        raise MalformedError("it does not have exactly one ir_version")
    if len(set(opsets)) != 1:
        raise MalformedError(
            f"it does not have exactly one version of the operator set (found {sorted(set(opsets))[:5]})"
        )
    return OnnxSummary(ir_version=ir_versions[0], opset=opsets[0])


def _check_tensor_field(number: int, wire: int, value: int) -> None:
    if number == _TENSOR_EXTERNAL_DATA:
        raise _UnsafeError("a tensor refers to data outside the file (external_data)")
    if number == _TENSOR_DATA_LOCATION:
        expect(wire, VARINT, "tensor", number)
        if value != 0:
            raise _UnsafeError("a tensor's data lies outside the file (data_location)")


def _check_operator(raw: bytes) -> None:
    operator = raw[:100].decode("utf-8", errors="replace")
    if operator not in OPERATORS:
        raise _UnsafeError(f"it uses the operator {operator!a}, which no exported network needs")


def _check_domain(raw: bytes) -> None:
    domain = raw[:100].decode("utf-8", errors="replace")
    if domain not in DEFAULT_DOMAINS:
        raise _UnsafeError(f"it uses the operator domain {domain!a}")
