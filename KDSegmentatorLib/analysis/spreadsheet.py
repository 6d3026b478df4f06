"""Texts in tables that are likely to be opened in a spreadsheet."""

from __future__ import annotations

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def as_text(text: str) -> str:
    """Return a text that a spreadsheet shows and does not compute: names of files and structures come from anywhere."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
