"""Arrays in a pack's file: an npz of known names, shapes and types, read without trusting it."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import PackError

MAXIMUM_ARRAY_BYTES = 256 << 20
"""Largest array, uncompressed: 256 MiB."""


@dataclass(frozen=True, kw_only=True)
class ArrayFormat:
    """What an array of the file has to be: its shape, and the names of the types it may have."""

    shape: tuple[int, ...]
    types: tuple[str, ...]


def write_arrays(path: Path | str, arrays: Mapping[str, npt.NDArray[Any]], *, compressed: bool) -> None:
    """Write arrays to a new file; the same arrays give the same bytes.

    Args:
        path: ends in ``.npz``.
        arrays: name to array.
        compressed: deflate them.

    Raises:
        OSError: the file exists or cannot be written.
    """
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, content.getvalue(), compress_type=kind, compresslevel=9)
    with Path(path).open("xb") as file:
        file.write(buffer.getvalue())


def read_arrays(content: bytes, formats: Mapping[str, ArrayFormat], where: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a file, in the types that they are stored in.

    Args:
        content: the npz file.
        formats: every array that the file has to hold; it may hold no other.
        where: the file's name, for error messages.

    Raises:
        PackError: not such a file, other arrays, other shapes, another type, or values that are not finite.
    """
    expected = sorted(f"{name}.npy" for name in formats)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = sorted(entry.filename for entry in archive.infolist())
            if names != expected:
                wanted = " and ".join(f"'{name}'" for name in sorted(formats))
                raise PackError(f"{where} must hold the arrays {wanted} only, holds {names[:5]}")
            return {name: _read_array(archive, name, form, where) for name, form in formats.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError) as error:
        raise PackError(f"{where} is not a readable npz file ({error}); export or install the pack again") from error


def _read_array(archive: zipfile.ZipFile, name: str, form: ArrayFormat, where: str) -> npt.NDArray[Any]:
    """Return an array whose header was checked before anything of its size is allocated."""
    entry = f"{name}.npy"
    if archive.getinfo(entry).file_size > MAXIMUM_ARRAY_BYTES:
        raise PackError(f"{where}: {name} is larger than {MAXIMUM_ARRAY_BYTES:,} bytes; no array of a pack is")
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise PackError(f"{where}: {name} is not in version 1.0 of the npy format; write it with numpy.savez")
        found, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if found != form.shape:
            raise PackError(f"{where}: {name} has the shape {found}; the manifest needs {form.shape}")
        if dtype.name not in form.types:
            raise PackError(f"{where}: {name} is of type {dtype}; store it as {' or '.join(form.types)}")
        needed = math.prod(found) * dtype.itemsize
        raw = file.read(needed + 1)
    if len(raw) != needed:
        raise PackError(f"{where}: {name} does not have {needed} bytes of data, as its shape needs")
    array = np.frombuffer(raw, dtype=dtype).reshape(found, order="F" if fortran else "C")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise PackError(f"{where}: {name} has values that are not finite; export the pack again")
    return array
