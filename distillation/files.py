"""Small files that appear whole or not at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.io.files import atomic_output

if TYPE_CHECKING:
    from pathlib import Path


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; a kill or a full disk leaves whatever was there before.

    Raises:
        ImageWriteError: the folder is missing or not writable, or the disk is full.
    """
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
