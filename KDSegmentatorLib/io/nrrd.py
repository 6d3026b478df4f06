"""NRRD: ``.nrrd``, and ``.nhdr`` with its voxels in other files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.geometry import Volume, matrix, vector
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
_TO_LPS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
}
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(
        ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"), "i8"
    ),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_ENCODINGS: dict[str, Encoding] = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2", "ascii": "text", "text": "text",
    "txt": "text", "hex": "hex",
}  # fmt: skip
_SERIES_KINDS = {"list", "time"}


def read_nrrd_header(path: Path) -> Header:
    """Return the header of an NRRD image, of one volume or a series.

    Raises:
        GeometryError: a spacing is missing or not positive, a number is not finite, the axes are not perpendicular, or
            there are too many voxels.
        ImageReadError: not NRRD, not 3-D, no patient coordinate system or two contradicting ones, not mm, or the file
            with the voxels is missing.
    """
    with path.open("rb") as file:
        if file.read(4) != b"NRRD":
            raise ImageReadError("the file is not an NRRD image, whatever its name says; export it again")
        fields, listed = _fields(file)
        end = file.tell()
    sizes = whole_numbers(fields.get("sizes", ""))
    series = _series_axis(fields, sizes)
    size = check_axes(tuple(length for axis, length in enumerate(sizes) if axis != series) if series == 0 else sizes)
    axes, origin = _place(fields, sizes, series)
    spacing = np.linalg.norm(axes, axis=0)
    if not spacing.all():
        raise GeometryError(
            f"the spacing is not positive (space directions: {fields['space directions']}); repair the image's header"
        )
    encoding = _encoding(fields)
    files = _data_files(path, fields, listed)
    offset, skip = _skips(fields, encoding, end if files == (path,) else 0, files[0])
    return Header(
        size=size,
        spacing=vector(spacing),
        origin=vector(origin + 0.0),
        direction=matrix(axes / spacing + 0.0),
        dtype=_dtype(fields),
        frames=sizes[series] if series is not None else 1,
        interleaved=series == 0,
        files=files,
        offset=offset,
        skip=skip,
        encoding=encoding,
    )


def nrrd_header(volume: Volume, extra: Mapping[str, str] | None = None) -> bytes:
    """Return the header of a compressed NRRD file, up to its voxels.

    Args:
        volume: the image; its voxels follow in little-endian order, compressed by gzip.
        extra: text that programs find by its key, as Slicer's names of segments.
    """
    columns = (volume.affine[:3, axis] for axis in range(3))
    names = {"i1": "int8", "u1": "uint8", "f4": "float", "f8": "double"}
    code = volume.voxels.dtype.str[1:]
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {names.get(code, volume.voxels.dtype.name)}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, volume.size))}",
        f"space directions: {' '.join(_vector_text(column) for column in columns)}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector_text(volume.origin)}",
        *(f"{key}:={text}" for key, text in (extra or {}).items()),
    ]
    return ("\n".join(lines) + "\n\n").encode()


def _vector_text(values: npt.ArrayLike) -> str:
    return "(" + ",".join(repr(float(value) + 0.0) for value in np.asarray(values)) + ")"


def _fields(file: BinaryIO) -> tuple[dict[str, str], list[str]]:
    """Read up to the empty line that ends a header; return its fields, names in lower case, and a list of files."""
    fields: dict[str, str] = {}
    detached = False
    listed: list[str] = []
    while line := file.readline(_HEADER_LIMIT):
        text = line.decode("utf-8", "replace").strip()
        if not text:
            return fields, listed
        if fields.get("data file", "").upper().startswith("LIST"):
            listed.append(text)
            continue
        name, separator, value = text.partition(":")
        # `name:=value` is free text, not a field
        if separator and not text.startswith("#") and not value.startswith("="):
            key = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}.get(
                name.strip().lower(), name.strip().lower()
            )
            add_field(fields, key, value.strip())
            detached = detached or key == "data file"
        if file.tell() > _HEADER_LIMIT:
            break
    if detached:
        return fields, listed
    raise ImageReadError("the file is truncated: its header does not end; copy or export it again")


def _series_axis(fields: dict[str, str], sizes: tuple[int, ...]) -> int | None:
    """Return which axis of a 4-D image counts its volumes; None in a 3-D one."""
    if len(sizes) != 4:
        return None
    directions = _directions(fields)
    kinds = fields.get("kinds", "").lower().split()
    without = [axis for axis, direction in enumerate(directions) if direction is None]
    if len(without) != 1 or without[0] not in (0, 3):
        sizes_text = " x ".join(map(str, sizes))
        raise ImageReadError(
            f"the image is 4-D ({sizes_text}), not 3-D, and does not say which axis counts its volumes (none in space "
            "directions); give one volume of the series"
        )
    kind = kinds[without[0]] if len(kinds) == 4 else ("list" if without[0] == 3 else "vector")
    if kind not in _SERIES_KINDS and without[0] == 0:
        raise components_error(sizes[0])
    return without[0]


def _directions(fields: dict[str, str]) -> list[list[float] | None]:
    """Return the vectors of ``space directions``, None for ``none``."""
    found: list[list[float] | None] = []
    for word in re.findall(r"none|\([^)]*\)", fields.get("space directions", ""), re.IGNORECASE):
        found.append(None if word.lower() == "none" else numbers(word[1:-1].split(","), "space directions"))
    return found


def _place(
    fields: dict[str, str], sizes: tuple[int, ...], series: int | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the vectors from voxel to voxel along i, j, k as columns, and the first voxel's place, both in LPS."""
    directions = [each for axis, each in enumerate(_directions(fields)) if axis != series or each is not None]
    origin = numbers(fields["space origin"].strip("() ").split(","), "space origin") if "space origin" in fields else []
    if "spacings" in fields and len(sizes) == 3:
        positive_numbers(fields["spacings"].split(), "spacings")
    if "spacings" not in fields and "space directions" not in fields:
        raise GeometryError("the header gives no spacing (space directions); repair the image's header")
    if None in directions:
        raise GeometryError(
            f"an axis has no direction (space directions: {fields['space directions']}); repair the image's header"
        )
    space = fields.get("space", "")
    if space.lower() not in _TO_LPS:
        raise ImageReadError(
            "the header does not say how the image lies in the patient "
            f"({f'space: {space}' if space else 'no space field'}), so left and right cannot be told apart; save it "
            "with space left-posterior-superior, for example with 3D Slicer"
        )
    units = {unit.strip().lower() for unit in fields.get("space units", "").split('"')} - {"", "mm", "???"}
    if units:
        raise ImageReadError(f"lengths are in {', '.join(sorted(units))}, not mm; export the image again in mm")
    if "spacings" in fields:
        raise ImageReadError(
            f"the header gives both a patient coordinate system (space: {space}) and spacings without directions "
            f"(spacings: {fields['spacings']}), which NRRD does not allow: how the axes lie is not known. Replace "
            "'spacings' by 'space directions', for example (1,0,0) (0,1,0) (0,0,1) times the spacings if the axes run "
            "along left, posterior and superior"
        )
    if len(directions) != 3 or any(len(each or ()) != 3 for each in directions) or len(origin) not in (0, 3):
        raise GeometryError(
            f"the header's space directions ({fields['space directions']}) or space origin "
            f"({fields.get('space origin', 'none')}) do not give three axes in three dimensions; repair the image's "
            "header"
        )
    to_lps = np.array(_TO_LPS[space.lower()])
    return np.array(directions, dtype=float).T * to_lps[:, None], np.array(origin or (0.0, 0.0, 0.0)) * to_lps


def _dtype(fields: dict[str, str]) -> np.dtype[Any]:
    kind = _TYPES.get(" ".join(fields.get("type", "").lower().split()))
    if kind is None:
        raise ImageReadError(
            f"the voxels are of the type {fields.get('type', '')!r}; give an image with one number a voxel"
        )
    endian = fields.get("endian", "little").lower()
    if endian not in ("little", "big"):
        raise ImageReadError(f"the header is damaged (endian: {endian}); export the image again")
    return np.dtype(("<" if endian == "little" else ">") + kind)


def _encoding(fields: dict[str, str]) -> Encoding:
    encoding = _ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise ImageReadError(f"the voxels are in the encoding {fields.get('encoding', '')!r}; save the image in gzip")
    return encoding


def _data_files(path: Path, fields: dict[str, str], listed: list[str]) -> tuple[Path, ...]:
    """Return the files with the voxels: the header's own, one other, a list, or those of a pattern and a range."""
    if "data file" not in fields:
        return (path,)
    text = fields["data file"]
    if text.upper().startswith("LIST"):
        return data_files(path, listed)
    words = text.split()
    if words and "%" in words[0] and len(words) in (4, 5):
        first, last, step = whole_numbers(" ".join(words[1:4]))
        return numbered_files(path, words[0], range(first, last + 1, max(step, 1)))
    return data_files(path, [text])


def _skips(fields: dict[str, str], encoding: Encoding, start: int, file: Path) -> tuple[int, int]:
    """Return the bytes before the voxels, in the file and after decompression."""
    values = {name: fields.get(name, "0") for name in ("line skip", "byte skip")}
    for name, value in values.items():
        if value.lstrip("-").isdecimal() and (value == "0" or (encoding == "raw" and int(value) >= -1)):
            continue
        raise ImageReadError(f"the header has a {name} of {value}; save the image again without one")
    lines, skip = int(values["line skip"]), int(values["byte skip"])
    if skip == -1:
        return -1, 0
    if lines > 0:
        with file.open("rb") as stream:
            stream.seek(start)
            for _ in range(lines):
                if not stream.readline(_HEADER_LIMIT):
                    raise ImageReadError(f"the header has a line skip of {lines}, beyond the end of the file")
            start = stream.tell()
    return start + skip, 0
