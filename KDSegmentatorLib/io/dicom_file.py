"""Whether a file is DICOM, which needs no DICOM library."""

from __future__ import annotations

from pathlib import Path

_PREFIX = b"DICM"
_PREFIX_START = 128


def is_dicom_file(path: Path) -> bool:
    """Return whether a file starts as DICOM files do: 128 bytes and ``DICM``."""
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(_PREFIX_START + len(_PREFIX))[_PREFIX_START:] == _PREFIX
    except OSError:
        return False
