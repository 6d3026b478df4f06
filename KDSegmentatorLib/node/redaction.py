"""Messages without what may tell who the patient is: names of files and folders, and values of DICOM headers."""

from __future__ import annotations

import os
import re
from pathlib import Path

from KDSegmentatorLib.io.images import image_suffix
from KDSegmentatorLib.node.scan import OrthancSeries, ScanSource

_SHORT = 2
"""Longer names are taken out; shorter ones tell nobody, and would be found in every word."""


def redacted(text: str, names: list[str]) -> str:
    """Return a message without the names of files.

    Args:
        text: of an error.
        names: paths of files; each part of them is taken out, the longest first.
    """
    parts = {part for name in names for part in (name, name.replace("/", os.sep), *name.split("/"))}
    parts |= {part[: -len(suffix)] for part in parts if (suffix := image_suffix(part) or Path(part).suffix)}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) > _SHORT:
            text = text.replace(part, "...")
    return re.sub(r"\.\.\.([/\\]\.\.\.)+", "...", text)


def names_of(source: ScanSource, watched: Path | None) -> list[str]:
    """Return the names that the files of a scan have: in the watched folder people may call them by patients.

    Args:
        source: of the job.
        watched: the watched folder, None without one.
    """
    if watched is None or isinstance(source, OrthancSeries):
        return []
    place = watched / source.path
    found = [source.path] if source.path else []
    if place.is_dir():
        found += [path.relative_to(watched).as_posix() for path in place.rglob("*")]
    return [str(watched), *found]
