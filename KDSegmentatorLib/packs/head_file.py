"""The head's file: an npz with ``weight`` and ``bias``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.packs.array_file import ArrayFormat, read_arrays, write_arrays

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
