"""The shape that each operator of a U-Net gives, as the ONNX standard defines it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from KDSegmentatorLib.packs.onnx_check import MalformedError

MAXIMUM_RANK = 8
"""Most axes of a tensor; a 3-D network has five."""

_LIKE_THE_INPUT = frozenset({"Cast", "Identity", "InstanceNormalization", "LeakyRelu", "Relu", "Sqrt"})
_BROADCAST = frozenset({"Add", "Div", "Mul", "Sub"})

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """What is known of a tensor.

    Args:
        shape: of one window.
        item_bytes: of one number.
        values: of a few whole numbers that are in the file, None of anything else.
    """

    shape: Shape
    item_bytes: int
    values: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """Number of numbers."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of all."""
        return self.count * self.item_bytes


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operator of a network.

    Attributes:
        operator: its name.
        inputs: names of tensors; an empty one is an optional input that is left out.
        outputs: names.
        attributes: whole numbers and text.
        value: what a Constant gives.
        cast_bytes: size of a number that a Cast gives.
    """

    operator: str
    inputs: list[bytes]
    outputs: list[bytes]
    attributes: dict[bytes, int | tuple[int, ...] | bytes]
    value: Tensor | None = None
    cast_bytes: int | None = None

    def integer(self, name: bytes, default: int) -> int:
        """Return an attribute.

        Raises:
            MalformedError: it is no whole number.
        """
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise MalformedError(f"{name!a} of a {self.operator} is not a whole number")
        return value

    def integers(self, name: bytes, count: int, default: int, least: int) -> tuple[int, ...]:
        """Return an attribute with one number for each of ``count`` things.

        Raises:
            MalformedError: there is another count of them, or one is below ``least``.
        """
        value = self.attributes.get(name, (default,) * count)
        if not isinstance(value, tuple) or len(value) != count or min(value) < least:
            raise MalformedError(f"{name!a} of a {self.operator} does not fit a window of {count} axes")
        return value


def output_of(node: Node, inputs: Sequence[Tensor | None]) -> Tensor:
    """Return what an operator gives; for one with several outputs the largest.

    Args:
        node: one of :data:`KDSegmentatorLib.packs.onnx_check.OPERATORS`.
        inputs: what goes in; None for one that is left out.

    Raises:
        MalformedError: the inputs or attributes do not fit the operator.
    """
    if node.operator == "Constant":
        if node.value is None:
            raise MalformedError("a Constant has no value")
        return node.value
    first = _given(node, inputs, 0)
    if node.operator in _LIKE_THE_INPUT:
        return Tensor(first.shape, node.cast_bytes or first.item_bytes)
    if node.operator in _BROADCAST:
        second = _given(node, inputs, 1)
        return Tensor(_broadcast(node, first.shape, second.shape), max(first.item_bytes, second.item_bytes))
    if node.operator == "QuantizeLinear":
        zero = inputs[2] if len(inputs) > 2 else None
        return Tensor(first.shape, zero.item_bytes if zero else 2)  # without one it may be of 16 bits at most
    if node.operator == "DequantizeLinear":
        return Tensor(first.shape, _given(node, inputs, 1).item_bytes)
    if node.operator == "Concat":
        return _concatenated(node, [_given(node, inputs, n) for n in range(len(inputs))])
    if node.operator == "ReduceMean":
        return _reduced(node, first, inputs[1] if len(inputs) > 1 else None)
    if node.operator == "AveragePool":
        _expect_window(node, first)
        return Tensor((*first.shape[:2], *_slid(node, first.shape[2:], None)), first.item_bytes)
    weight = _given(node, inputs, 1)
    _expect_window(node, first)
    if len(weight.shape) != len(first.shape):
        raise MalformedError(f"the weights of a {node.operator} have {len(weight.shape)} axes, not {len(first.shape)}")
    if node.operator == "Conv":
        shape = (first.shape[0], weight.shape[0], *_slid(node, first.shape[2:], weight.shape[2:]))
    elif node.operator == "ConvTranspose":
        group = node.integer(b"group", 1)
        shape = (first.shape[0], weight.shape[1] * group, *_spread(node, first.shape[2:], weight.shape[2:]))
    else:
        raise MalformedError(f"the operator {node.operator!a} is not known")
    if min(shape) < 0:
        raise MalformedError(f"a {node.operator} gives the shape {shape}")
    return Tensor(shape, first.item_bytes)


def _given(node: Node, inputs: Sequence[Tensor | None], place: int) -> Tensor:
    found = inputs[place] if place < len(inputs) else None
    if found is None:
        raise MalformedError(f"a {node.operator} has no input {place + 1}")
    return found


def _expect_window(node: Node, tensor: Tensor) -> None:
    if len(tensor.shape) < 3:
        raise MalformedError(f"a {node.operator} gets {len(tensor.shape)} axes, at least 3 are needed")


def _broadcast(node: Node, first: Shape, second: Shape) -> Shape:
    rank = max(len(first), len(second))
    pairs = zip((1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second, strict=True)
    shape = []
    for a, b in pairs:
        if a != b and 1 not in (a, b):
            raise MalformedError(f"a {node.operator} gets the shapes {first} and {second}")
        shape.append(b if a == 1 else a)
    return tuple(shape)


def _concatenated(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    rank = len(inputs[0].shape)
    axis = node.integer(b"axis", rank)
    axis += rank if axis < 0 else 0
    others = {(*each.shape[:axis], *each.shape[axis + 1 :]) for each in inputs}
    if not 0 <= axis < rank or len(others) != 1 or any(len(each.shape) != rank for each in inputs):
        raise MalformedError(f"a Concat gets shapes that do not fit along axis {axis}")
    length = sum(each.shape[axis] for each in inputs)
    shape = (*inputs[0].shape[:axis], length, *inputs[0].shape[axis + 1 :])
    return Tensor(shape, max(each.item_bytes for each in inputs))


def _reduced(node: Node, tensor: Tensor, given: Tensor | None) -> Tensor:
    """Return a mean along axes, which are an attribute up to operator set 17 and an input from 18 on."""
    rank = len(tensor.shape)
    axes = node.attributes.get(b"axes", ())
    if given is not None:
        if given.values is None:
            raise MalformedError("the axes of a ReduceMean are not in the file")
        axes = given.values
    if not isinstance(axes, tuple) or any(not -rank <= axis < rank for axis in axes):
        raise MalformedError(f"a ReduceMean of {rank} axes has axes that are none of them")
    if not axes and node.integer(b"noop_with_empty_axes", 0):
        return tensor
    gone = {axis % rank for axis in axes} if axes else set(range(rank))
    keep = node.integer(b"keepdims", 1)
    lengths = [1 if axis in gone else length for axis, length in enumerate(tensor.shape)]
    shape = tuple(length for axis, length in enumerate(lengths) if keep or axis not in gone)
    return Tensor(shape, tensor.item_bytes)


def _slid(node: Node, lengths: Shape, kernel: Shape | None) -> Shape:
    """Return the lengths after a kernel that slides over a window."""
    rank = len(lengths)
    kernel = _kernel(node, rank, kernel)
    strides = node.integers(b"strides", rank, 1, 1)
    dilations = node.integers(b"dilations", rank, 1, 1)
    spans = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    automatic = _automatic(node)
    if automatic.startswith(b"SAME"):
        return tuple(-(-length // stride) for length, stride in zip(lengths, strides, strict=True))
    pads = (0,) * (2 * rank) if automatic == b"VALID" else node.integers(b"pads", 2 * rank, 0, 0)
    found = []
    for axis, (length, span, stride) in enumerate(zip(lengths, spans, strides, strict=True)):
        room = length + pads[axis] + pads[axis + rank] - span
        if room < 0:
            raise MalformedError(f"the kernel of a {node.operator} is longer than its input")
        found.append((-(-room // stride) if node.integer(b"ceil_mode", 0) else room // stride) + 1)
    return tuple(found)


def _spread(node: Node, lengths: Shape, kernel: Shape) -> Shape:
    """Return the lengths after a transposed convolution."""
    rank = len(lengths)
    kernel = _kernel(node, rank, kernel)
    if b"output_shape" in node.attributes:
        return node.integers(b"output_shape", rank, 0, 0)
    strides = node.integers(b"strides", rank, 1, 1)
    automatic = _automatic(node)
    if automatic.startswith(b"SAME"):
        return tuple(length * stride for length, stride in zip(lengths, strides, strict=True))
    dilations = node.integers(b"dilations", rank, 1, 1)
    more = node.integers(b"output_padding", rank, 0, 0)
    pads = (0,) * (2 * rank) if automatic == b"VALID" else node.integers(b"pads", 2 * rank, 0, 0)
    return tuple(
        stride * (length - 1) + extra + (size - 1) * dilation + 1 - low - high
        for length, size, stride, dilation, extra, low, high in zip(
            lengths, kernel, strides, dilations, more, pads[:rank], pads[rank:], strict=True
        )
    )


def _kernel(node: Node, rank: int, weights: Shape | None) -> Shape:
    kernel = node.integers(b"kernel_shape", rank, 0, 0) if weights is None else weights
    if min(kernel) < 1 or node.attributes.get(b"kernel_shape", kernel) != kernel:
        raise MalformedError(f"a {node.operator} has no kernel of the shape it says")
    return kernel


def _automatic(node: Node) -> bytes:
    value = node.attributes.get(b"auto_pad", b"NOTSET")
    if value not in (b"NOTSET", b"VALID", b"SAME_UPPER", b"SAME_LOWER"):
        raise MalformedError(f"a {node.operator} has the padding {value!a}")
    assert isinstance(value, bytes)  # noqa: S101 - one of these
    return value
