"""Where the files of a series come from: a folder, an archive, one file, or files that were named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from KDSegmentatorLib.dicom.archive import extracted
from KDSegmentatorLib.errors import ImageReadError
from KDSegmentatorLib.io.dicom_file import is_dicom_file

Source = Path | str | Sequence[Path | str]
"""A folder (looked through to the bottom), a .zip, a DICOM file (a multi-frame image, or a slice of the series in its
folder that it belongs to), or files."""

MAXIMUM_FILES = 20_000
"""DICOM files of one source. A series has fewer; what has more is an archive, whose headers take minutes to read."""


@contextmanager
def opened(source: Source, check: Callable[[], None] = lambda: None) -> Iterator[dict[str, Path]]:
    """Give the DICOM files of a source while the block runs: how each is called in messages, and where it lies.

    What is no DICOM file is left out: a text beside the images does no harm. Of a file, these are all files of its
    folder.

    Args:
        source: see :data:`Source`.
        check: called for every file; may raise to stop.

    Raises:
        ImageReadError: there is no such file or folder, it cannot be read, there is no DICOM file in it, or more than
            :data:`MAXIMUM_FILES`.
    """
    if not isinstance(source, (str, os.PathLike)):
        paths = [Path(file) for file in source]
        for path in paths:
            if not path.is_file():
                raise ImageReadError(f"cannot read {path}: there is no such file; check the name")
        yield _dicom_files(((str(path), path) for path in paths), "the files that were named", check)
        return
    path = Path(source)
    if not path.exists():
        raise ImageReadError(f"cannot read {path}: there is no such file or folder; check the name")
    if path.is_dir():
        yield _dicom_files(_below(path), f"the folder {path}", check)
    elif path.suffix.lower() == ".zip":
        with extracted(path, check) as files:
            yield _dicom_files(files.items(), f"the archive {path}", check)
    elif not is_dicom_file(path):
        raise ImageReadError(f"cannot read {path}: it is not a DICOM file (it does not have DICOM's prefix)")
    else:
        yield _dicom_files(_below(path.parent, nested=False), f"the folder {path.parent}", check)


def _dicom_files(files: Iterable[tuple[str, Path]], where: str, check: Callable[[], None]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    others = 0
    for name, path in files:
        check()
        if is_dicom_file(path):
            found[name] = path
        else:
            others += 1
        if len(found) > MAXIMUM_FILES:
            raise ImageReadError(
                f"there are more than {MAXIMUM_FILES:,} DICOM files in {where}; give the folder of one series"
            )
    if not found:
        kind = f"none of its {others:,} files has DICOM's prefix" if others else "it is empty"
        raise ImageReadError(f"there is no DICOM file in {where} ({kind}); give the folder of a series")
    return found


def _below(folder: Path, *, nested: bool = True) -> Iterator[tuple[str, Path]]:
    """Yield the regular files of a folder in the order of their names; links to folders are not followed."""
    for root, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(folders) if nested else []
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file():  # no pipe, which would be waited for
                yield path.relative_to(folder).as_posix(), path


def _raise(error: OSError) -> None:
    raise ImageReadError(f"cannot read {error.filename}: {error.strerror}; check the permissions") from error
