"""File names by which ITK opens the file that is meant.

ITK's NIfTI code, asked for ``scan.nii.gz``, takes the voxels from ``scan.nii`` if that lies beside it: the header of
one scan with the voxels of another, without a word. So such a file is read under another name, and not written at all.

ITK also opens files with C's narrow-character functions. On Windows these know the characters of the system's code
page only, so that an umlaut or a Chinese name makes a file unreadable (SimpleITK's FAQ, "special character in the
filename"), and paths of more than 259 characters are none to them. Elsewhere a name that is not UTF-8, as from an old
file server, ends the whole process in SimpleITK. Such files pass through a temporary folder with a plain name.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_UTF8_CODE_PAGE = 65001
_LONGEST_WINDOWS_PATH = 259
_EXTENDED_PREFIX = "\\\\?\\"


@contextmanager
def readable_by_itk(path: Path, suffix: str) -> Iterator[str]:
    """Give a name by which ITK can read ``path``: its own, or that of a temporary copy.

    Raises:
        OSError: a copy is needed and cannot be made, or the folder for temporary files has no plain name either.
    """
    if not _needs_plain_name(path) and shadowing_file(path) is None:
        yield str(path)
        return
    with _plain_folder() as folder:
        copy = folder / f"image{suffix}"
        shutil.copyfile(path, copy)
        yield str(copy)


@contextmanager
def writable_by_itk(path: Path, suffix: str) -> Iterator[str]:
    """Give a name into which ITK can write what shall be in ``path``: its own, or one that is copied at the end.

    Raises:
        OSError: see :func:`readable_by_itk`.
    """
    if not _needs_plain_name(path):
        yield str(path)
        return
    with _plain_folder() as folder:
        copy = folder / f"image{suffix}"
        yield str(copy)
        shutil.copyfile(copy, path)


def shadowing_file(path: Path) -> Path | None:
    """Return the file beside ``path`` whose voxels ITK would read in its place, or None."""
    if not path.name.lower().endswith(".nii.gz"):
        return None
    stem = path.name[: -len(".nii.gz")]
    beside = (path.with_name(stem + suffix) for suffix in (".nii", ".NII"))
    return next((other for other in beside if other.exists()), None)


def shadowing_reason(path: Path) -> str | None:
    """Return why nothing should be written to ``path`` because of :func:`shadowing_file`, and what to do; or None."""
    other = shadowing_file(path)
    if other is None:
        return None
    return (
        f"{other.name} lies beside it, and programs built on ITK (3D Slicer, ITK-SNAP) would show its voxels under "
        "this name; give another name, or move that file"
    )


def _needs_plain_name(path: Path) -> bool:
    name = str(path)
    if sys.platform != "win32":
        return any("\ud800" <= letter <= "\udfff" for letter in name)  # bytes that are not text, as Python has them
    if len(name) > _LONGEST_WINDOWS_PATH or name.startswith(_EXTENDED_PREFIX):
        return True
    return not name.isascii() and _code_page() != _UTF8_CODE_PAGE


@contextmanager
def _plain_folder() -> Iterator[Path]:
    parent = tempfile.gettempdir()
    if not parent.isascii():
        parent = _short_name(parent)
    if not parent.isascii():
        raise OSError(
            "ITK cannot use names with such characters on this computer, and the folder for temporary files "
            f"({parent}) has them too; set the environment variable TEMP to a folder with a plain name"
        )
    with tempfile.TemporaryDirectory(prefix="kdseg-", dir=parent) as folder:
        yield Path(folder)


def _code_page() -> int:
    if sys.platform != "win32":
        return _UTF8_CODE_PAGE
    import ctypes

    return int(ctypes.windll.kernel32.GetACP())


def _short_name(folder: str) -> str:
    """Return the 8.3 name of a folder on Windows (``JRGEN~1`` for ``Jürgen``), or the folder itself if it has none."""
    if sys.platform != "win32":
        return folder
    import ctypes

    buffer = ctypes.create_unicode_buffer(32768)
    length = ctypes.windll.kernel32.GetShortPathNameW(folder, buffer, len(buffer))
    return buffer.value if 0 < length < len(buffer) else folder
