"""A pack's arrays in ``.npz`` files, read without pickle: the head, and the probe that engines are checked with."""

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


MAXIMUM_HEAD_BYTES = 16 << 20
"""Largest head file: 16 MiB; a head of 111 labels and 32 features has 14 kB."""

_STORED_TYPES = ("float32", "float16")


def write_head(path: Path | str, weight: npt.NDArray[np.floating], bias: npt.NDArray[np.floating]) -> None:
    """Write a head's file; the same arrays give the same bytes.

    Args:
        path: ends in ``.npz``; the file must not exist.
        weight: (labels with background, features), float32 or float16.
        bias: (labels with background,), float32 or float16.

    Raises:
        PackError: :func:`read_head` would not accept the arrays.
        OSError: the file exists or cannot be written.
    """
    if weight.ndim != 2:
        raise PackError(f"a head's weight needs two axes (labels, features), got the shape {weight.shape}")
    path = Path(path)
    write_arrays(path, {"weight": weight, "bias": bias}, compressed=False)
    try:
        read_head(path.read_bytes(), weight.shape[0], weight.shape[1], str(path))
    except PackError:
        path.unlink()
        raise


def read_head(
    content: bytes, labels: int, features: int, where: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return weight (labels, features) and bias (labels,) in float32.

    Args:
        content: the npz file.
        labels: expected number of labels, background included.
        features: expected number of features.
        where: the file's name, for error messages.

    Raises:
        PackError: not such a file, other arrays, other shapes, another type, or values that are not finite.
    """
    if len(content) > MAXIMUM_HEAD_BYTES:
        raise PackError(f"{where} has {len(content):,} bytes, more than {MAXIMUM_HEAD_BYTES:,}; no head has")
    formats = {
        "weight": ArrayFormat(shape=(labels, features), types=_STORED_TYPES),
        "bias": ArrayFormat(shape=(labels,), types=_STORED_TYPES),
    }
    arrays = read_arrays(content, formats, where)
    weight, bias = (np.ascontiguousarray(arrays[name], dtype=np.float32) for name in ("weight", "bias"))
    return weight, bias


_STEPS = 255


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A window to try an engine with.

    Attributes:
        window: (1, 1, z, y, x), normalised intensities, ready for an engine.
        labels: (z, y, x), label values that the network gives it in float32.
    """

    window: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8 | np.uint16]


def as_stored(window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a window (z, y, x) as a probe's file gives it back: (1, 1, z, y, x), in 255 steps."""
    levels, limits = _levels(window)
    return _values(levels, limits)


def write_probe(path: Path | str, window: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8 | np.uint16]) -> None:
    """Write a probe's file.

    Args:
        path: ends in ``.npz``; the file must not exist.
        window: (z, y, x), normalised intensities.
        labels: (z, y, x), what float32 makes of :func:`as_stored` of the window.

    Raises:
        OSError: the file exists or cannot be written.
    """
    levels, limits = _levels(window)
    write_arrays(path, {"levels": levels, "limits": limits, "labels": labels}, compressed=True)


def read_probe(content: bytes, patch_size: tuple[int, int, int], rows: int, where: str) -> Probe:
    """Return a probe.

    Args:
        content: the npz file.
        patch_size: (z, y, x) that the window must have.
        rows: number of labels, background included.
        where: the file's name, for error messages.

    Raises:
        PackError: not such a file, or it does not fit the window or the labels.
    """
    formats = {
        "levels": ArrayFormat(shape=patch_size, types=("uint8",)),
        "limits": ArrayFormat(shape=(2,), types=("float32",)),
        "labels": ArrayFormat(shape=patch_size, types=("uint8", "uint16")),
    }
    arrays = read_arrays(content, formats, where)
    if arrays["labels"].max() >= rows:
        raise PackError(f"{where}: the probe has the label {arrays['labels'].max()}, the pack has {rows - 1}")
    return Probe(window=_values(arrays["levels"], arrays["limits"]), labels=arrays["labels"])


def _levels(window: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    low, high = window.min(), window.max()
    span = max(float(high - low), float(np.finfo(np.float32).tiny))
    return np.round((window - low) / span * _STEPS).astype(np.uint8), np.array([low, high], dtype=np.float32)


def _values(levels: npt.NDArray[np.uint8], limits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    low, high = limits
    values: npt.NDArray[np.float32] = low + levels.astype(np.float32) * ((high - low) / np.float32(_STEPS))
    return values[None, None]
