"""Names in a pack: ids, sizes and versions, and files whose names are safe on every operating system."""

from __future__ import annotations

import re

MANIFEST_NAME = "manifest.json"

FILE_NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}\.(onnx|npz|json|txt|md|png|csv)"
"""A pack holds data and texts, never code: no folders, no drives, no hidden files, only these suffixes."""

FILE_NAME_MEANING = (
    "a plain file name (letters, digits, '.', '_', '-') that ends in .onnx, .npz, .json, .txt, .md, .png or .csv"
)

_NUMBER = r"(0|[1-9][0-9]{0,8})"
SIZE_PATTERN = r"x1(/([2-9]|[1-9][0-9]{1,2}))?"
TASK_PATTERN = r"[a-z0-9]+(-[a-z0-9]+)*"
ID_PATTERN = r"[a-z0-9]+(-[a-z0-9]+)*-x1(_([2-9]|[1-9][0-9]{1,2}))?"
METHOD_PATTERN = r"[a-z0-9]+(-[a-z0-9]+)*"
VERSION_PATTERN = rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"

# Windows opens a device for these, whatever the suffix.
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))})


def is_reserved(name: str) -> bool:
    """Return whether Windows reserves the name for a device (``NUL.txt``)."""
    return name.split(".", 1)[0].casefold() in _RESERVED


def pack_id(task: str, size: str) -> str:
    """Return the id of a task's pack of that size: ``hippocampus`` and ``x1/4`` give ``hippocampus-x1_4``."""
    return f"{task}-{name_part(size)}"


def name_part(size: str) -> str:
    """Return the size as part of file and pack names: ``x1_4`` for ``x1/4``."""
    return size.replace("/", "_")


def is_size(size: str) -> bool:
    """Return whether this is the name of a size: ``x1``, ``x1/2``, ..., ``x1/999``."""
    return re.fullmatch(SIZE_PATTERN, size) is not None


def divisor(size: str) -> int:
    """Return 1 for ``x1``, 4 for ``x1/4``."""
    return int(size.partition("/")[2] or 1)


def version_key(version: str) -> tuple[int, ...]:
    """Return something that sorts versions from old to new."""
    return tuple(int(part) for part in version.split("."))
