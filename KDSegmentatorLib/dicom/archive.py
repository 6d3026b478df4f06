"""A .zip of DICOM files, extracted into a folder of its own: bounded, and nothing outside of it."""

from __future__ import annotations

import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from KDSegmentatorLib.errors import ImageReadError

MAXIMUM_ENTRIES = 100_000
MAXIMUM_BYTES = 8 << 30
"""Of all entries together, unpacked: four times the largest volume in 16 bits and its headers."""

MAXIMUM_RATIO = 100
"""Largest compression of all entries together; images shrink to a third, empty ones to a hundredth."""

RATIO_FREE_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_ENCRYPTED = 0x1 | 0x40
_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


@contextmanager
def extracted(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[dict[str, Path]]:
    """Give the files of an archive while the block runs: each one's name in the archive, and where it lies.

    On disk they have numbers for names, so that no name in the archive can lead anywhere.

    Args:
        path: the archive.
        check: called again and again; may raise to stop.

    Raises:
        ImageReadError: it is no archive, damaged, encrypted, too large, or it unpacks like a zip bomb.
    """
    with tempfile.TemporaryDirectory(prefix="kdseg-dicom-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                files = _extract(archive, path, Path(folder), check)
        except _ERRORS as error:
            raise ImageReadError(f"cannot read {path}: the archive is damaged ({error}); export it again") from error
        except OSError as error:
            raise ImageReadError(
                f"cannot unpack {path}: {error.strerror or error}; check the disk, and that of temporary files"
            ) from error
        yield files


def _extract(archive: zipfile.ZipFile, path: Path, folder: Path, check: Callable[[], None]) -> dict[str, Path]:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > MAXIMUM_ENTRIES:
        raise ImageReadError(f"cannot read {path}: it holds {len(entries):,} files, more than {MAXIMUM_ENTRIES:,}")
    total = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    if total > MAXIMUM_BYTES or total > max(RATIO_FREE_BYTES, MAXIMUM_RATIO * packed):
        raise ImageReadError(
            f"cannot read {path}: its {packed:,} bytes would unpack to {total:,}, as a zip bomb does; unpack it "
            "yourself if you trust it, and give the folder"
        )
    if total > shutil.disk_usage(folder).free:
        raise ImageReadError(f"cannot unpack {path}: {total:,} bytes do not fit into {folder.parent}; free some space")
    files: dict[str, Path] = {}
    for number, entry in enumerate(entries):
        if entry.flag_bits & _ENCRYPTED:
            raise ImageReadError(f"cannot read {path}: {entry.filename} needs a password; unpack it, give the folder")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            continue  # a link
        target = folder / f"{number:06}"
        left = entry.file_size
        with archive.open(entry) as content, target.open("xb") as file:
            while chunk := content.read(min(_CHUNK_BYTES, left + 1)):
                check()
                left -= len(chunk)
                if left < 0:
                    raise ImageReadError(f"cannot read {path}: {entry.filename} is longer than the archive says")
                file.write(chunk)
        files[entry.filename] = target
    return files
