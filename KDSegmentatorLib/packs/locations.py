"""Where packs live (the user's own folder, and the one shipped with KDSegmentator), and where caches go."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

ENVIRONMENT_VARIABLE = "KDSEGMENTATOR_PACKS"
CACHE_VARIABLE = "KDSEGMENTATOR_CACHE"

_NAME = "KDSegmentator"


def default_user_folder() -> Path:
    """Return the folder of the packs that the user installed; it need not exist.

    ``KDSEGMENTATOR_PACKS`` overrides the operating system's place for application data. A user without a home has none
    that lasts (:func:`is_lasting`).
    """
    return _override(ENVIRONMENT_VARIABLE) or _in_home(platformdirs.user_data_dir) / "Packs"


def default_shipped_folder() -> Path:
    """Return the folder of the packs that came with KDSegmentator: inside the wheel, or beside the library."""
    library = Path(__file__).resolve().parents[1]
    inside = library / "Resources" / "Packs"
    return inside if inside.is_dir() else library.parent / "Resources" / "Packs"


def default_cache_folder() -> Path:
    """Return the folder of what can be made anew (compiled networks, checks of engines); it need not exist.

    ``KDSEGMENTATOR_CACHE`` overrides the operating system's place for caches. A user without a home, or whose cache
    belongs to somebody else, gets a folder of this process alone: what lies in a stranger's may be made to harm.
    """
    if override := _override(CACHE_VARIABLE):
        return override
    folder = _in_home(platformdirs.user_cache_dir)
    return _of_this_process() if _is_strangers(folder) else folder


def is_lasting(folder: Path) -> bool:
    """Return whether a folder is still there when this process has ended."""
    return not folder.is_relative_to(_of_this_process()) if _of_this_process.cache_info().currsize else True


def _override(variable: str) -> Path | None:
    folder = os.environ.get(variable, "").strip()
    if not folder:
        return None
    with contextlib.suppress(RuntimeError):  # "~" without a home: taken as it is
        return Path(folder).expanduser().absolute()
    return Path(folder).absolute()


def _in_home(place: Callable[..., str]) -> Path:
    """Return a folder of the operating system's places for a user; without a home, one of this process alone."""
    try:
        folder = Path(place(_NAME, appauthor=False))
    except RuntimeError:  # an unknown user id without HOME; earlier versions of platformdirs leave "~" as it is
        return _of_this_process()
    return folder if folder.is_absolute() else _of_this_process()


def _is_strangers(folder: Path) -> bool:
    """Return whether a folder, or the first above it that there is, belongs to another user than this one or root."""
    if not hasattr(os, "getuid"):  # Windows keeps users apart by the folders' own permissions
        return False
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        return there.stat().st_uid not in (os.getuid(), 0)
    except (OSError, StopIteration):
        return True


@functools.cache
def _of_this_process() -> Path:
    """Return a new folder that only this user can look into; it goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="kdsegmentator-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
