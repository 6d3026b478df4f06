"""The wire format of protobuf, as far as an ONNX file needs it: fields are walked, nothing is copied."""

from __future__ import annotations

from collections.abc import Iterator

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
