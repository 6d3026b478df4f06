"""Where packs live (the user's own folder, and the one shipped with KDSegmentator), and where caches go."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

ENVIRONMENT_VARIABLE = "KDSEGMENTATOR_PACKS"
CACHE_VARIABLE = "KDSEGMENTATOR_CACHE"


def default_user_folder() -> Path:
    """Return the folder of the packs that the user installed; it need not exist.

    ``KDSEGMENTATOR_PACKS`` overrides the operating system's place for application data.
    """
    override = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    if override:
        return _expanded(override)
    return _application_data(sys.platform) / "KDSegmentator" / "Packs"


def default_shipped_folder() -> Path:
    """Return the folder of the packs that came with KDSegmentator: inside the wheel, or beside the library."""
    library = Path(__file__).resolve().parents[1]
    inside = library / "Resources" / "Packs"
    return inside if inside.is_dir() else library.parent / "Resources" / "Packs"


def default_cache_folder() -> Path:
    """Return the folder of what can be made anew (compiled networks, checks of engines); it need not exist.

    ``KDSEGMENTATOR_CACHE`` overrides the operating system's place for caches.
    """
    override = os.environ.get(CACHE_VARIABLE, "").strip()
    if override:
        return _expanded(override)
    return _caches(sys.platform)


def _caches(platform: str) -> Path:
    if platform == "win32":  # it has one place for both
        return _application_data(platform) / "KDSegmentator" / "Caches"
    if platform == "darwin":
        return _home() / "Library" / "Caches" / "KDSegmentator"
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(folder) if folder and Path(folder).is_absolute() else _home() / ".cache") / "KDSegmentator"


def _application_data(platform: str) -> Path:
    if platform == "win32":
        folder = os.environ.get("LOCALAPPDATA", "")
        return Path(folder) if folder else _home() / "AppData" / "Local"
    if platform == "darwin":
        return _home() / "Library" / "Application Support"
    folder = os.environ.get("XDG_DATA_HOME", "")
    # the XDG specification says to ignore relative paths
    return Path(folder) if folder and Path(folder).is_absolute() else _home() / ".local" / "share"


def _expanded(folder: str) -> Path:
    with contextlib.suppress(RuntimeError):  # "~" without a home: taken as it is
        return Path(folder).expanduser().absolute()
    return Path(folder).absolute()


def _home() -> Path:
    """Return the user's home; a folder that does not exist if there is none (an unknown uid without HOME).

    Not one in a shared temporary folder: another user could put packs there.
    """
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.sep, "nonexistent").absolute()
