"""MetaImage: ``.mha``, and ``.mhd`` with its voxels in other files."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.geometry import Volume, check_placement, matrix, vector
from KDSegmentatorLib.io.voxels import (
    Encoding,
    Header,
    add_field,
    check_axes,
    components_error,
    data_files,
    numbered_files,
    numbers,
    positive_numbers,
    whole_numbers,
)

_HEADER_LIMIT = 1 << 20
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_WRITTEN = {kind: name for name, kind in _TYPES.items() if not name.endswith("T_LONG") and name != "MET_ULONG"}
_FROM_LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "I": (2, 1), "S": (2, -1)}
"""What ``AnatomicalOrientation`` names: the side that an axis comes from; patient axis and sign in LPS."""

_LEAST_COSINE = 0.2
"""Of an axis with the patient axis that AnatomicalOrientation gives it; writers may take a second nearest."""


def read_metaimage_header(path: Path) -> Header:
    """Return the header of a MetaImage, of one volume or a series.

    Raises:
        GeometryError: the spacing is missing or not positive, a number is not finite, the axes are not perpendicular,
            or there are too many voxels.
        ImageReadError: not MetaImage, not 3-D, no orientation or two that contradict each other, not mm, or the file
            with the voxels is missing.
    """
    with path.open("rb") as file:
        fields, listed = _fields(file)
        end = file.tell()
    sizes = whole_numbers(fields.get("DimSize", ""))
    size = check_axes(sizes)
    channels = whole_numbers(fields.get("ElementNumberOfChannels", "1"))
    if channels != (1,):
        raise components_error(channels[0] if channels else 0)
    spacing, origin, direction = _place(fields, len(sizes))
    slope, intercept = (
        numbers(fields.get(f"ElementToIntensityFunction{name}", default).split(), name)
        for name, default in (("Slope", "1"), ("Offset", "0"))
    )
    kind = _TYPES.get(fields.get("ElementType", "").upper())
    if kind is None:
        raise ImageReadError(
            f"the voxels are of the type {fields.get('ElementType', '')!r}; give an image with one number a voxel"
        )
    orders = {_true(fields, name) for name in ("ElementByteOrderMSB", "BinaryDataByteOrderMSB") if name in fields}
    if len(orders) == 2:
        raise ImageReadError(
            "the header says two different things about the order of bytes (ElementByteOrderMSB, "
            "BinaryDataByteOrderMSB); find out which is right and repair it"
        )
    files = _data_files(path, fields, listed)
    local = files == (path,)
    before = int(_first(numbers(fields.get("HeaderSize", "0").split(), "HeaderSize"), 0.0))
    encoding = _encoding(fields)
    if (local and before > 0) or (before and encoding != "raw"):
        raise ImageReadError(f"the header has a HeaderSize of {before}; save the image again without one")
    return Header(
        size=size,
        spacing=vector(spacing),
        origin=vector(np.array(origin) + 0.0),
        direction=matrix(direction + 0.0),
        dtype=np.dtype((">" if orders == {True} else "<") + kind),
        frames=max(sizes[3], 1) if len(sizes) == 4 else 1,
        slope=_first(slope, 1.0),
        intercept=_first(intercept, 0.0),
        files=files,
        offset=end if local else before,
        encoding=encoding,
    )


def metaimage_header(volume: Volume, data_bytes: int) -> bytes:
    """Return the header of a compressed ``.mha`` file, up to its voxels; its length does not depend on their number.

    Args:
        volume: the image; its voxels follow in little-endian order, compressed by zlib.
        data_bytes: of the compressed voxels.
    """
    letters = {code: letter for letter, code in zip("RLAPIS", "LRPASI", strict=True)}
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": f"{data_bytes:015d}",
        "TransformMatrix": _text(np.array(volume.direction).T),
        "Offset": _text(volume.origin),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "".join(letters[code] for code in volume.axis_codes),
        "ElementSpacing": _text(volume.spacing),
        "DimSize": " ".join(map(str, volume.size)),
        "ElementType": _WRITTEN[volume.voxels.dtype.str[1:]],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{name} = {value}\n" for name, value in lines.items()).encode()


def _text(values: npt.ArrayLike) -> str:
    return " ".join(repr(float(value) + 0.0) for value in np.asarray(values).ravel())


def _fields(file: BinaryIO) -> tuple[dict[str, str], list[str]]:
    """Read up to the line ``ElementDataFile``, which ends a header; return its fields, and a list of files."""
    fields: dict[str, str] = {}
    while line := file.readline(_HEADER_LIMIT):
        name, separator, value = line.decode("utf-8", "replace").partition("=")
        if not separator:
            break
        add_field(fields, name.strip(), value.strip())
        if name.strip() == "ElementDataFile":
            listing = value.strip().upper().startswith("LIST")
            text = file.read(_HEADER_LIMIT).decode("utf-8", "replace") if listing else ""
            return fields, [each.strip() for each in text.splitlines() if each.strip()]
        if file.tell() > _HEADER_LIMIT:
            break
    if "NDims" in fields:
        raise ImageReadError("the file is truncated or damaged: its header does not end; copy or export it again")
    raise ImageReadError("the file is not a MetaImage, whatever its name says; export it again")


def _place(fields: dict[str, str], axes: int) -> tuple[list[float], list[float], npt.NDArray[np.float64]]:
    """Return spacing, origin and direction, of which column n is the unit vector of index axis n in LPS."""
    texts = fields.get("ElementSpacing", fields.get("ElementSize"))
    if texts is None:
        raise GeometryError("the header gives no spacing (ElementSpacing); repair the image's header")
    spacing = positive_numbers(texts.split(), "ElementSpacing")
    found = {}
    for wanted, names in (("origin", ("Offset", "Position", "Origin")), ("matrix", _MATRIX_NAMES)):
        name = next((name for name in names if name in fields), None)
        if name is not None:
            found[wanted] = numbers(fields[name].split(), name)
    if fields.get("DistanceUnits", "mm").lower() not in ("mm", "?", ""):
        raise ImageReadError(f"lengths are in {fields['DistanceUnits']!r}, not mm; export the image again in mm")
    if "matrix" not in found:
        raise ImageReadError(
            "the header does not say how the image lies in the patient (no TransformMatrix), so left and right cannot "
            "be told apart; check its orientation in a viewer and save it again, for example with 3D Slicer"
        )
    origin = found.get("origin", [0.0] * axes)
    if len(spacing) != axes or len(origin) != axes or len(found["matrix"]) != axes * axes:
        raise GeometryError(
            f"the header's ElementSpacing, Offset or TransformMatrix does not fit its {axes} axes; repair the image's "
            "header"
        )
    direction = np.reshape(found["matrix"], (axes, axes))[:3, :3].T
    check_placement(vector(spacing[:3]), vector(origin[:3]), matrix(direction))
    _check_orientation(fields.get("AnatomicalOrientation", ""), direction)
    return spacing[:3], origin[:3], direction


_MATRIX_NAMES = ("TransformMatrix", "Rotation", "Orientation")


def _check_orientation(letters: str, direction: npt.NDArray[np.float64]) -> None:
    """Check that AnatomicalOrientation, if it says something, says the same as TransformMatrix."""
    for axis, letter in enumerate(letters.strip().upper()[:3]):
        patient, sign = _FROM_LETTERS.get(letter, (0, 0))
        if sign and sign * direction[patient, axis] < _LEAST_COSINE:
            raise ImageReadError(
                "the header says two different things about how the image lies in the patient: AnatomicalOrientation "
                f"is {letters}, TransformMatrix {' '.join(f'{value:.4g}' for value in direction.T.ravel())}. Find out "
                "which one is right in a viewer and repair the other; LPS, with the patient's left, posterior and "
                "superior along the axes, is RAI there and 1 0 0 0 1 0 0 0 1"
            )


def _encoding(fields: dict[str, str]) -> Encoding:
    if "BinaryData" in fields and not _true(fields, "BinaryData"):
        return "text"
    return "zlib" if _true(fields, "CompressedData") else "raw"


def _data_files(path: Path, fields: dict[str, str], listed: list[str]) -> tuple[Path, ...]:
    """Return the files with the voxels: the header's own, one other, a list, or those of a pattern and a range."""
    text = fields["ElementDataFile"]
    if text.upper() == "LOCAL":
        return (path,)
    if text.upper().startswith("LIST"):
        return data_files(path, listed)
    words = text.split()
    if words and "%" in words[0] and len(words) in (3, 4):
        first, last, step = whole_numbers(" ".join([*words[1:], "1"]))[:3]
        return numbered_files(path, words[0], range(first, last + 1, max(step, 1)))
    return data_files(path, [text])


def _true(fields: dict[str, str], name: str) -> bool:
    return fields.get(name, "").lower() in ("true", "t", "1")


def _first(values: list[float], default: float) -> float:
    return values[0] if values else default
