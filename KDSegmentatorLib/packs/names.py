"""Names of files in a pack: safe on every operating system."""

from __future__ import annotations

MANIFEST_NAME = "manifest.json"

FILE_NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}\.(onnx|npz|json|txt|md|png|csv)"
"""A pack holds data and texts, never code: no folders, no drives, no hidden files, only these suffixes."""

FILE_NAME_MEANING = (
    "a plain file name (letters, digits, '.', '_', '-') that ends in .onnx, .npz, .json, .txt, .md, .png or .csv"
)

# Windows opens a device for these, whatever the suffix.
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))})


def is_reserved(name: str) -> bool:
    """Return whether Windows reserves the name for a device (``NUL.txt``)."""
    return name.split(".", 1)[0].casefold() in _RESERVED
