"""Where the files of a series come from: a folder, an archive, one file, or files that were named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from KDSegmentatorLib.dicom.archive import extracted
from KDSegmentatorLib.errors import ImageReadError

Source = Path | str | Sequence[Path | str]
"""A folder (looked through to the bottom), a .zip, a DICOM file (of the series in its folder that it belongs to), or
files."""

MAXIMUM_FILES = 1_000_000
"""More than any study has; a folder of more is not looked through."""

_PREFIX = b"DICM"
_PREFIX_START = 128


@contextmanager
def opened(source: Source) -> Iterator[dict[str, Path]]:
    """Give the DICOM files of a source while the block runs: how each is called in messages, and where it lies.

    What is no DICOM file is left out: a text beside the images does no harm.

    Raises:
        ImageReadError: there is no such file or folder, it cannot be read, or there is no DICOM file in it.
    """
    if not isinstance(source, (str, os.PathLike)):
        yield _dicom_files({str(file): Path(file) for file in source}, "the files that were named")
        return
    path = Path(source)
    if not path.exists():
        raise ImageReadError(f"cannot read {path}: there is no such file or folder; check the name")
    if path.is_dir():
        yield _dicom_files(dict(_below(path)), f"the folder {path}")
    elif path.suffix.lower() == ".zip":
        with extracted(path) as files:
            yield _dicom_files(files, f"the archive {path}")
    else:
        if not is_dicom_file(path):
            raise ImageReadError(f"cannot read {path}: it is not a DICOM file (it does not have DICOM's prefix)")
        beside = {name: file for name, file in _below(path.parent, nested=False) if is_dicom_file(file)}
        yield beside


def is_dicom_file(path: Path) -> bool:
    """Return whether a file starts as DICOM files do: 128 bytes and ``DICM``."""
    try:
        with path.open("rb") as file:
            return file.read(_PREFIX_START + len(_PREFIX))[_PREFIX_START:] == _PREFIX
    except OSError:
        return False


def _dicom_files(files: dict[str, Path], where: str) -> dict[str, Path]:
    found = {name: path for name, path in files.items() if is_dicom_file(path)}
    if not found:
        raise ImageReadError(
            f"there is no DICOM file in {where} ({len(files):,} files, none of which has DICOM's prefix); give the "
            "folder of a series"
        )
    return found


def _below(folder: Path, *, nested: bool = True) -> Iterator[tuple[str, Path]]:
    """Yield the regular files of a folder in the order of their names; links to folders are not followed."""
    count = 0
    for root, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(folders) if nested else []
        for name in sorted(names):
            path = Path(root, name)
            if not path.is_file():
                continue
            count += 1
            if count > MAXIMUM_FILES:
                raise ImageReadError(f"there are more than {MAXIMUM_FILES:,} files in {folder}; give a folder in it")
            yield path.relative_to(folder).as_posix(), path


def _raise(error: OSError) -> None:
    raise ImageReadError(f"cannot read {error.filename}: {error.strerror}; check the permissions") from error
