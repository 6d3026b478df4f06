"""``.kdpack``: a pack's folder as one zip file, flat, without surprises."""

from __future__ import annotations

import errno
import io
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from KDSegmentatorLib.errors import PackError
from KDSegmentatorLib.io.files import CHUNK_BYTES, delete_tree, is_disk_full, replacing
from KDSegmentatorLib.packs.manifest import (
    MAXIMUM_FILE_BYTES,
    MAXIMUM_FILES,
    MAXIMUM_MANIFEST_BYTES,
    MAXIMUM_PACK_BYTES,
)
from KDSegmentatorLib.packs.names import FILE_NAME_MEANING, FILE_NAME_PATTERN, MANIFEST_NAME, is_reserved
from KDSegmentatorLib.packs.pack import open_pack, verify_pack

SUFFIX = ".kdpack"

MAXIMUM_RATIO = 100
"""Largest compression of an entry above ``RATIO_FREE_BYTES``; weights shrink to some 90 %, zip bombs to 0.1 %."""

RATIO_FREE_BYTES = 4 << 20

_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED = 0x1 | 0x40
_UNIX = 3
_REMEDY = "get an intact copy of the pack"
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)


def write_archive(folder: Path | str, path: Path | str) -> None:
    """Write a pack's folder as a ``.kdpack`` file, which appears complete or not at all.

    The same pack gives the same bytes: names in order, fixed timestamps, nothing compressed (weights hardly compress,
    and compressors differ).

    Args:
        folder: the pack; it is verified first.
        path: the file to write; an existing one is replaced.

    Raises:
        PackError: the pack is damaged, or the file cannot be written.
        ManifestError: the pack's manifest is not valid.
    """
    path = Path(path)
    pack = open_pack(folder)
    verify_pack(pack)
    if path.absolute().parent.resolve() == pack.folder.resolve():
        raise PackError(
            f"{path} would lie in the pack's own folder, where only its listed files may be; write elsewhere"
        )
    manifest = (pack.folder / MANIFEST_NAME).read_bytes()
    try:
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_entry(MANIFEST_NAME), manifest)
            for name in sorted(pack.manifest.files):
                archive.writestr(_entry(name), pack.read(name))
    except OSError as error:
        raise write_error(path, error) from error


def extract_archive(path: Path | str, into: Path | str) -> None:
    """Extract a ``.kdpack`` file into a new folder, completely or not at all.

    Only structure, names and sizes are checked here; open and verify the folder before using it.

    Args:
        path: the archive.
        into: a folder that does not exist yet; its parent does.

    Raises:
        PackError: not a readable archive, an entry that is not a plain file of a pack, a size limit is exceeded, or
            the folder cannot be written.
    """
    path, into = Path(path), Path(into)
    try:
        raw = path.open("rb", buffering=0)
    except OSError as error:
        raise PackError(f"{path} cannot be read ({error.strerror}); check the path") from error
    with _BoundedReader(raw) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (*_ZIP_ERRORS, OSError) as error:
            raise PackError(f"{path} is not a {SUFFIX} file, or it is incomplete ({error}); {_REMEDY}") from error
        with archive:
            entries = archive.infolist()
            _check_entries(entries, path)
            try:
                into.mkdir()
            except OSError as error:
                raise write_error(into, error) from error
            try:
                for entry in entries:
                    _extract(archive, entry, into / entry.filename, path)
            except OSError as error:
                delete_tree(into)
                raise write_error(into.parent, error) from error
            except BaseException:
                delete_tree(into)
                raise


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIMESTAMP)
    entry.create_system = _UNIX  # otherwise the bytes would depend on where they are written
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry


def _check_entries(entries: list[zipfile.ZipInfo], path: Path) -> None:
    if len(entries) > MAXIMUM_FILES + 1:
        raise PackError(f"{path} has {len(entries)} entries, more than {MAXIMUM_FILES + 1}; {_REMEDY}")
    seen: set[str] = set()
    for entry in entries:
        _check_entry(entry, path)
        folded = entry.filename.casefold()
        if folded in seen:
            raise PackError(f"{path} has the entry {entry.filename!a} twice; {_REMEDY}")
        seen.add(folded)
    if MANIFEST_NAME not in {entry.filename for entry in entries}:
        raise PackError(f"{path} has no {MANIFEST_NAME} at its top; a pack's files are zipped without their folder")
    total = sum(entry.file_size for entry in entries)
    if total > MAXIMUM_PACK_BYTES + MAXIMUM_MANIFEST_BYTES:
        raise PackError(f"{path} would unpack to {total:,} bytes, more than {MAXIMUM_PACK_BYTES:,}; {_REMEDY}")


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    # orig_filename: zipfile cuts names at a NUL and turns backslashes into slashes on Windows
    name = entry.orig_filename
    if re.fullmatch(FILE_NAME_PATTERN, name) is None or name != entry.filename or is_reserved(name):
        raise PackError(f"{path} has the unsafe entry {name[:100]!a}; a pack's entry is {FILE_NAME_MEANING}")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise PackError(f"{path}: the entry {name} is not a regular file but a link or a device; {_REMEDY}")
    if entry.flag_bits & _ENCRYPTED:
        raise PackError(f"{path}: the entry {name} is encrypted; packs are not, get one without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PackError(f"{path}: the entry {name} uses an unusual compression; write the archive with KDSegmentator")
    limit = MAXIMUM_MANIFEST_BYTES if name == MANIFEST_NAME else MAXIMUM_FILE_BYTES
    if entry.file_size > limit:
        raise PackError(f"{path}: the entry {name} has {entry.file_size:,} bytes, more than {limit:,}; {_REMEDY}")
    if entry.file_size > max(RATIO_FREE_BYTES, MAXIMUM_RATIO * entry.compress_size):
        raise PackError(
            f"{path}: the entry {name} expands more than {MAXIMUM_RATIO}-fold, as a zip bomb does; {_REMEDY}"
        )


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, path: Path) -> None:
    """Copy one entry, at most the bytes that its header promises, whatever the compressed data says."""
    left = entry.file_size
    try:
        source = archive.open(entry)
    except _ZIP_ERRORS as error:
        raise PackError(f"{path}: the entry {entry.filename} is damaged ({error}); {_REMEDY}") from error
    with source, target.open("xb") as file:
        while True:
            try:
                chunk = source.read(CHUNK_BYTES)
            except _ZIP_ERRORS as error:
                raise PackError(f"{path}: the entry {entry.filename} is damaged ({error}); {_REMEDY}") from error
            if not chunk:
                break
            left -= len(chunk)
            if left < 0:
                raise PackError(f"{path}: the entry {entry.filename} is longer than it says; {_REMEDY}")
            file.write(chunk)
    if left:
        raise PackError(f"{path}: the entry {entry.filename} is shorter than it says; {_REMEDY}")


class _BoundedReader(io.BufferedReader):
    """A file that refuses large reads at once.

    zipfile reads a whole table of contents before it can be asked for its length, and makes an object of some hundred
    bytes for each of its entries: a file that is nothing but a table of contents would fill the memory.
    """

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)

    def read(self, size: int | None = -1, /) -> bytes:
        whole = size is None or size < 0
        if size is not None and size > CHUNK_BYTES:
            raise zipfile.BadZipFile("its table of contents is too large")
        content = super().read(CHUNK_BYTES + 1 if whole else size)
        if len(content) > CHUNK_BYTES:
            raise zipfile.BadZipFile("its table of contents is too large")
        return content


_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_error(path: Path, error: OSError) -> PackError:
    """Return the error to raise when something could not be written at a path."""
    if is_disk_full(error):
        return PackError(f"the disk is full: {path} could not be written; free some space and try again")
    if error.errno in _NOT_ALLOWED:
        return PackError(
            f"{path} cannot be written ({error.strerror}); ask for write permission there, or choose another folder "
            "(for packs with the environment variable KDSEGMENTATOR_PACKS)"
        )
    return PackError(f"{path} could not be written ({error}); check the disk and try again")
