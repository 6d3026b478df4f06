"""Checks of NRRD and MetaImage headers that ITK does not make, or answers with a silent repair.

ITK takes a missing or undefined spacing as one, ignores units and unknown coordinate systems, and returns what a
damaged compressed MetaImage happens to give.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from typing import TYPE_CHECKING, BinaryIO, cast

from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.geometry import check_size
from KDSegmentatorLib.io.checks import (
    check_not_too_long,
    check_not_too_short,
    check_three_axes,
    voxel_chunks,
)
from KDSegmentatorLib.io.files import CHUNK_BYTES

if TYPE_CHECKING:
    from pathlib import Path

_HEADER_LIMIT = 1 << 20
_NOT_FINITE = re.compile("nan|inf", re.IGNORECASE)
_NRRD_SPACES = {
    "left-posterior-superior", "lps", "left-anterior-superior", "las", "right-anterior-superior", "ras",
}  # fmt: skip
_NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(
        ("short", "short int", "signed short", "signed short int", "int16", "int16_t",
         "ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(
        ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(
        ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t",
         "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"), 8),
}  # fmt: skip
_META_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_FLOAT": 4,
    "MET_DOUBLE": 8, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8,
}  # fmt: skip


def check_nrrd(path: Path) -> None:
    """Check that an NRRD file is whole and says where its voxels are in the patient.

    Raises:
        GeometryError: a spacing is missing or not positive, a number is not finite, or there are too many voxels.
        ImageReadError: not NRRD, not 3-D, voxels in another file, no patient coordinate system, not mm, truncated or
            damaged.
    """
    with path.open("rb") as file:
        if file.read(4) != b"NRRD":
            raise ImageReadError("the file is not an NRRD image, whatever its name says; export it again")
        fields = _nrrd_fields(file)
        if "data file" in fields or "datafile" in fields:
            raise ImageReadError("the voxels are in another file; save the image as one .nrrd with its voxels inside")
        _check_nrrd_place(fields)
        try:
            _check_nrrd_length(file, fields)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ImageReadError(f"the file is truncated or damaged ({error}); copy or export it again") from error


def check_metaimage(path: Path) -> None:
    """Check that a MetaImage file is whole and gives its spacing in mm.

    Raises:
        GeometryError: the spacing is missing or not positive, a number is not finite, or there are too many voxels.
        ImageReadError: not MetaImage, not 3-D, voxels in another file, not mm, truncated or damaged.
    """
    with path.open("rb") as file:
        fields = _meta_fields(file)
        if fields["ElementDataFile"].upper() != "LOCAL":
            raise ImageReadError("the voxels are in another file; save the image as one .mha with its voxels inside")
        sizes = tuple(_whole_number(text) for text in fields.get("DimSize", "").split())
        check_three_axes(sizes)
        check_size(sizes)
        spacing = fields.get("ElementSpacing", fields.get("ElementSize"))
        if spacing is None:
            raise GeometryError("the header gives no spacing (ElementSpacing); repair the image's header")
        _check_positive(spacing.split(), "ElementSpacing")
        for name in ("Offset", "Position", "Origin", "TransformMatrix", "Rotation", "Orientation"):
            if name in fields and not all(math.isfinite(_number(text)) for text in fields[name].split()):
                raise GeometryError(f"the header's {name} ({fields[name]}) is not finite; repair the image's header")
        if fields.get("DistanceUnits", "mm").lower() not in ("mm", "?", ""):
            raise ImageReadError(f"lengths are in {fields['DistanceUnits']!r}, not mm; export the image again in mm")
        _check_meta_length(file, fields)


def _nrrd_fields(file: BinaryIO) -> dict[str, str]:
    """Read up to the empty line that ends an NRRD header; return its fields, names in lower case."""
    fields: dict[str, str] = {}
    while line := file.readline(_HEADER_LIMIT):
        text = line.decode("utf-8", "replace").strip()
        if not text:
            return fields
        name, separator, value = text.partition(":")
        # `name:=value` is free text, not a field.
        if separator and not text.startswith("#") and not value.startswith("="):
            fields[name.strip().lower()] = value.strip()
        if file.tell() > _HEADER_LIMIT:
            break
    raise ImageReadError("the file is truncated: its header does not end; copy or export it again")


def _check_nrrd_place(fields: dict[str, str]) -> None:
    sizes = tuple(_whole_number(text) for text in fields.get("sizes", "").split())
    # An axis of components (colour, vectors) has no direction; `io.images` refuses it after ITK has counted them.
    if len(sizes) == 3 or "none" not in fields.get("space directions", ""):
        check_three_axes(sizes)
        check_size(sizes)
    for name in ("space directions", "space origin"):
        if _NOT_FINITE.search(fields.get(name, "")):
            raise GeometryError(f"the header's {name} ({fields[name]}) is not finite; repair the image's header")
    if "space directions" in fields:
        if "none" in fields["space directions"].lower().split() and len(sizes) == 3:
            raise GeometryError(
                f"an axis has no direction (space directions: {fields['space directions']}); repair the image's header"
            )
    elif "spacings" in fields:
        _check_positive(fields["spacings"].split(), "spacings")
    else:
        raise GeometryError("the header gives no spacing (space directions); repair the image's header")
    space = fields.get("space", "")
    if space.lower() not in _NRRD_SPACES:
        raise ImageReadError(
            "the header does not say how the image lies in the patient "
            f"({f'space: {space}' if space else 'no space field'}), so left and right cannot be told apart; save it "
            "with space left-posterior-superior, for example with 3D Slicer"
        )
    units = {unit.strip().lower() for unit in fields.get("space units", "").split('"')} - {"", "mm", "???"}
    if units:
        raise ImageReadError(f"lengths are in {', '.join(sorted(units))}, not mm; export the image again in mm")


def _check_nrrd_length(file: BinaryIO, fields: dict[str, str]) -> None:
    encoding = fields.get("encoding", "").lower()
    for name in ("line skip", "lineskip", "byte skip", "byteskip"):
        if encoding != "raw" and fields.get(name, "0") != "0":  # ITK would read on for as long as the file lasts
            raise ImageReadError(f"the header has a {name} of {fields[name]}; save the image again without one")
    width = _NRRD_BYTES.get(fields.get("type", "").lower())
    if width is None or encoding not in ("raw", "gzip", "gz") or {"byte skip", "byteskip"} & fields.keys():
        return  # ITK's reader checks the rest itself
    expected = width * math.prod(_whole_number(text) for text in fields.get("sizes", "").split())
    stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if encoding != "raw" else file
    _check_length(stream, expected)


def _meta_fields(file: BinaryIO) -> dict[str, str]:
    """Read up to the line ``ElementDataFile``, which ends a MetaImage header; return its fields."""
    fields: dict[str, str] = {}
    while line := file.readline(_HEADER_LIMIT):
        name, separator, value = line.decode("utf-8", "replace").partition("=")
        if not separator:
            break
        fields[name.strip()] = value.strip()
        if name.strip() == "ElementDataFile":
            return fields
        if file.tell() > _HEADER_LIMIT:
            break
    if "NDims" in fields:
        raise ImageReadError("the file is truncated or damaged: its header does not end; copy or export it again")
    raise ImageReadError("the file is not a MetaImage, whatever its name says; export it again")


def _check_meta_length(file: BinaryIO, fields: dict[str, str]) -> None:
    width = _META_BYTES.get(fields.get("ElementType", ""))
    if width is None or fields.get("BinaryData", "True").lower() != "true":
        return  # ITK's reader checks the rest itself
    channels = _whole_number(fields.get("ElementNumberOfChannels", "1"))
    expected = width * channels * math.prod(_whole_number(text) for text in fields.get("DimSize", "").split())
    if fields.get("CompressedData", "False").lower() != "true":
        _check_length(file, expected)
        return
    inflater = zlib.decompressobj()
    present = 0
    try:
        while not inflater.eof and (chunk := inflater.unconsumed_tail or file.read(CHUNK_BYTES)):
            present += len(inflater.decompress(chunk, CHUNK_BYTES))
            check_not_too_long(present, expected)
    except zlib.error as error:
        raise ImageReadError(f"the file is damaged ({error}); copy or export it again") from error
    if not inflater.eof:
        raise ImageReadError("the file is truncated: its compressed voxels do not end; copy or export it again")
    check_not_too_short(present, expected)


def _check_length(stream: BinaryIO, expected: int) -> None:
    for _ in voxel_chunks(stream, expected):
        pass


def _check_positive(texts: list[str], name: str) -> None:
    numbers = [_number(text) for text in texts]
    if not numbers or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise GeometryError(f"the spacing ({name}: {' '.join(texts)}) is not positive; repair the image's header")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _whole_number(text: str) -> int:
    try:
        return max(int(text), 0)
    except ValueError:
        return 0
