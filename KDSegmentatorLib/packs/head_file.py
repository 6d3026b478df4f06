"""The head's file: an npz with ``weight`` and ``bias``, read without trusting it."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import PackError

MAXIMUM_HEAD_BYTES = 16 << 20
"""Largest head file: 16 MiB; a head of 111 labels and 32 features has 14 kB."""

MAXIMUM_ARRAY_BYTES = 64 << 20
"""Largest array in it, uncompressed: 64 MiB."""

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
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in (("weight", weight), ("bias", bias)):
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), content.getvalue())
    read_head(buffer.getvalue(), weight.shape[0], weight.shape[1], str(path))
    with Path(path).open("xb") as file:
        file.write(buffer.getvalue())


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
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = sorted(entry.filename for entry in archive.infolist())
            if names != ["bias.npy", "weight.npy"]:
                raise PackError(f"{where} must hold the arrays 'weight' and 'bias' only, holds {names[:5]}")
            return (
                _read_array(archive, "weight.npy", (labels, features), where),
                _read_array(archive, "bias.npy", (labels,), where),
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError) as error:
        raise PackError(f"{where} is not a readable npz file ({error}); export or install the pack again") from error


def _read_array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], where: str) -> npt.NDArray[np.float32]:
    """Return an array whose header was checked before anything of its size is allocated."""
    if archive.getinfo(name).file_size > MAXIMUM_ARRAY_BYTES:
        raise PackError(f"{where}: {name} is larger than {MAXIMUM_ARRAY_BYTES:,} bytes; no head is")
    file = io.BytesIO(archive.read(name))
    if np.lib.format.read_magic(file) != (1, 0):
        raise PackError(f"{where}: {name} is not in version 1.0 of the npy format; write it with numpy.savez")
    found, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if found != shape:
        raise PackError(f"{where}: {name} has the shape {found}; the labels and features in the manifest need {shape}")
    if dtype.name not in _STORED_TYPES:
        raise PackError(f"{where}: {name} is of type {dtype}; store it as {' or '.join(_STORED_TYPES)}")
    raw = file.read()
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise PackError(f"{where}: {name} has {len(raw)} bytes of data, {math.prod(shape) * dtype.itemsize} are needed")
    array = np.frombuffer(raw, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    if not np.isfinite(array).all():
        raise PackError(f"{where}: {name} has values that are not finite; export the pack again")
    return np.ascontiguousarray(array, dtype=np.float32)
