"""Whether a file is DICOM, or a folder or an archive holds such files; this needs no DICOM library."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

_PREFIX = b"DICM"
_PREFIX_START = 128
_MOST_ENTRIES = 20
"""Of an archive, so many are looked at."""


def is_dicom_file(path: Path) -> bool:
    """Return whether a file starts as DICOM files do: 128 bytes and ``DICM``."""
    try:
        with path.open("rb", buffering=0) as file:
            return _has_prefix(file.read(_PREFIX_START + len(_PREFIX)))
    except OSError:
        return False


def holds_dicom(path: Path) -> bool:
    """Return whether there is a DICOM file in a folder, or in one in it, or near the start of a .zip."""
    if path.is_dir():
        return any(
            is_dicom_file(Path(root, name))
            for root, _, names in os.walk(path)
            for name in sorted(names)
            if Path(root, name).is_file()  # no pipe, which would be waited for
        )
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in [entry for entry in archive.infolist() if not entry.is_dir()][:_MOST_ENTRIES]:
                with archive.open(entry) as content:
                    if _has_prefix(content.read(_PREFIX_START + len(_PREFIX))):
                        return True
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError):
        pass  # no archive, encrypted or damaged
    return False


def _has_prefix(content: bytes) -> bool:
    return content[_PREFIX_START:] == _PREFIX
