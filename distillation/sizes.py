"""Widths of a family's sizes: ``x1`` is the teacher, ``x1/4`` a student of a quarter of its width."""

from __future__ import annotations

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.packs.rules import divisor, is_size


def alpha_of(size: str) -> float:
    """Return the width factor of a size name, for example 0.25 for ``x1/4``.

    Raises:
        InvalidSettingsError: the name is not ``x1`` or ``x1/2``, ``x1/4``, ... up to ``x1/999``.
    """
    if not is_size(size):
        raise InvalidSettingsError(f"a size is called x1, x1/2, x1/4, ..., got {size!r}")
    return 1.0 / divisor(size)
