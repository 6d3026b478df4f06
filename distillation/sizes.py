"""Names of a family's sizes: ``x1`` is the teacher, ``x1/4`` a student of a quarter of its width."""

from __future__ import annotations

import re

from KDSegmentatorLib.errors import InvalidSettingsError


def alpha_of(size: str) -> float:
    """Return the width factor of a size name, for example 0.25 for ``x1/4``.

    Raises:
        InvalidSettingsError: the name is not ``x1`` or ``x1/2``, ``x1/4``, ...
    """
    match = re.fullmatch(r"x1(?:/([2-9]|[1-9][0-9]+))?", size)
    if match is None:
        raise InvalidSettingsError(f"a size is called x1, x1/2, x1/4, ..., got {size!r}")
    return 1.0 / int(match[1] or 1)


def name_part(size: str) -> str:
    """Return the size as part of file and pack names: ``x1_4`` for ``x1/4``."""
    return size.replace("/", "_")
