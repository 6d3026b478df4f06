"""Files and folders that appear whole or not at all; the only module that replaces what is on the disk.

- One file: ``with atomic_output(path) as temporary:`` write into ``temporary``. Every ``OSError`` becomes an
  :class:`~KDSegmentatorLib.errors.ImageWriteError` that says what to do; ``with replacing(path)`` leaves it as it is,
  for callers with an error of their own.
- One folder: ``with atomic_folder(folder) as temporary:`` fill ``temporary``, and check it before the block ends.
- Several files, all or none: :func:`write_together`.
- Before long work: :func:`check_output`. After an ``OSError``: :func:`is_disk_full`.

A temporary lies beside its target, because renaming is atomic only inside one file system, and has a hidden name. A
failure or Ctrl-C removes it; a killed process leaves it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from KDSegmentatorLib.errors import ImageWriteError

CHUNK_BYTES = 1 << 20

TEMPORARY_PREFIX = ".kdseg-"
"""What the names of temporary files begin with; a killed process leaves them."""

_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DISK_FULL_ON_WINDOWS = {39, 112}
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.1


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits; it is read in pieces.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, is that the disk is full or a quota used up."""
    while error is not None:
        if isinstance(error, OSError) and (
            error.errno in _DISK_FULL or getattr(error, "winerror", None) in _DISK_FULL_ON_WINDOWS
        ):
            return True
        error = error.__cause__
    return False


@contextmanager
def atomic_output(path: Path | str) -> Iterator[Path]:
    """Give a temporary file to write into, and put it in the place of ``path`` at the end.

    The temporary has the same suffix (writers choose their format by it). It exists already, empty, and is overwritten
    by the caller. If the block raises, it is removed, and whatever was at ``path`` stays. A symbolic link is followed.

    Args:
        path: the file that shall appear; its folder must exist.

    Raises:
        ImageWriteError: the folder is missing or not writable, the disk is full, or ``path`` cannot be replaced. Any
            ``OSError`` that the block raises becomes this error too.

    Examples:
        >>> with atomic_output("volumes.csv") as temporary:
        ...     temporary.write_text(table, encoding="utf-8")
    """
    path = Path(path)
    target = check_output(path)
    try:
        with replacing(target, _suffix(target)) as temporary:
            yield temporary
    except OSError as error:
        raise ImageWriteError(f"cannot write {path}: {_reason(error)}") from error


def write_json(path: Path | str, content: Any) -> None:
    """Write a JSON file; a kill or a full disk leaves whatever was there before.

    Raises:
        ImageWriteError: the folder is missing or not writable, or the disk is full.
    """
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def check_output(path: Path | str) -> Path:
    """Check, before long work starts, that a file can be made at ``path``; return it with symbolic links followed.

    Raises:
        ImageWriteError: its folder does not exist or is not a folder, or ``path`` is a folder.
    """
    path = Path(path)
    try:
        target = path.resolve() if path.is_symlink() else path
        if target.is_dir():
            raise ImageWriteError(f"cannot write {path}: it is a folder; give the name of a file")
        if not target.parent.is_dir():
            raise ImageWriteError(f"cannot write {path}: there is no folder {target.parent}; create it first")
    except (OSError, ValueError, RuntimeError) as error:  # a link that leads to itself, a name no file can have
        raise ImageWriteError(f"cannot write {path}: {error}; give another name") from error
    return target


@contextmanager
def replacing(target: Path, suffix: str = "") -> Iterator[Path]:
    """Give a temporary file to write into, and put it in the place of ``target`` at the end.

    Args:
        target: the file that shall appear; its folder must exist.
        suffix: of the temporary's name, for writers that choose their format by it.

    Raises:
        OSError: a file cannot be made, written or replaced, or the block raised it.
    """
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{suffix}")
    try:
        # Created here so that a folder without permission is reported before any work.
        temporary.open("xb").close()
        yield temporary
        _sync_file(temporary)
        replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into, and put it in the place of ``folder`` at the end.

    A failure or Ctrl-C leaves the earlier folder or the new one, whole. So does a kill or a power cut, but for the
    moment between the two renames at the end: then ``folder`` is missing, the earlier one lies whole beside it under a
    hidden name, and the next start of this, or :func:`restore_folder`, puts it back.

    Args:
        folder: the folder that shall appear; those above it are created.

    Raises:
        OSError: something cannot be made, written or renamed, or the block raised it.

    Examples:
        >>> with atomic_folder(Path("packs/brain-x1_4")) as temporary:
        ...     (temporary / "manifest.json").write_text("{}", encoding="utf-8")
    """
    temporary = folder.with_name(new_name(_unfinished_prefix(folder)))
    previous = folder.with_name(new_name(_previous_prefix(folder)))
    try:
        restore_folder(folder)
        temporary.mkdir(parents=True)
        yield temporary
        sync_folder(temporary)
        if folder.exists():
            replace(folder, previous)
        replace(temporary, folder)
    finally:
        if previous.exists() and not folder.exists():
            replace(previous, folder)
        delete_tree(previous)
        delete_tree(temporary)


def restore_folder(folder: Path) -> None:
    """Put a folder back that a killed process had moved away to replace it; others that it left are deleted.

    Args:
        folder: where it belongs; nothing happens if no process was killed.

    Raises:
        OSError: it cannot be moved.
    """
    name = re.compile(re.escape(_previous_prefix(folder)) + "[0-9a-f]{12}")
    left = [path for path in folder.parent.glob(".*") if name.fullmatch(path.name)] if folder.parent.is_dir() else []
    for path in sorted(left, key=lambda path: path.stat().st_mtime, reverse=True):
        if folder.exists():
            delete_tree(path)
        else:
            replace(path, folder)


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes left of :func:`atomic_folder`, for a folder that no other process writes now."""
    name = re.compile(re.escape(_unfinished_prefix(folder)) + "[0-9a-f]{12}")
    left = [path for path in folder.parent.glob(".*") if name.fullmatch(path.name)] if folder.parent.is_dir() else []
    for path in left:
        delete_tree(path)


def write_together(
    outputs: Sequence[tuple[Path, Callable[[Path], None]]],
    *,
    check: Callable[[], None] = lambda: None,
    begin: Callable[[], None] = lambda: None,
) -> None:
    """Write several files; if one of them fails, none is left and those that were there before stay.

    Every file is first written into a hidden folder beside its target, then all are moved into place. A file that was
    there before keeps its place until it is replaced in one step, and has a second name in the hidden folder until all
    is done.

    Args:
        outputs: target, and what writes the file to the path that it is given.
        check: called before every file; may raise to stop.
        begin: called when all files are written, before the first is moved; from there on it is too late to stop.

    Raises:
        ImageWriteError: a file could not be written or put into place. Should an old file not be back in its place, the
            message says where it is.
    """
    staged: list[_Staged] = []
    begun: list[_Staged] = []
    try:
        for path, write in outputs:
            check()
            target = path.resolve() if path.is_symlink() else path
            item = _Staged(folder=target.with_name(new_name(TEMPORARY_PREFIX)), target=target)
            item.folder.mkdir(mode=0o700)
            staged.append(item)
            try:
                write(item.source)
            except ImageWriteError as error:  # name the file that the user asked for
                raise ImageWriteError(str(error).replace(str(item.source), str(path))) from error
        for item in staged:
            check()
            _keep_previous(item)
        begin()
        for item in staged:
            begun.append(item)  # first, so that whatever comes in between is undone
            replace(item.source, item.target)
    except BaseException as error:
        problems = _put_back(begun)
        _remove(item for item in staged if item not in begun or not item.holds_the_only_copy)
        if problems:
            reason = str(error) or "interrupted"
            raise ImageWriteError(f"cannot write the results: {reason}; {'; '.join(problems)}") from error
        if isinstance(error, OSError):
            raise ImageWriteError(
                f"cannot write the results: {error}; nothing was written. Check the disk, and close the files if they "
                "are open in another program"
            ) from error
        raise
    _remove(staged)


def replace(source: Path, target: Path) -> None:
    """Rename, replacing an existing file, in one step.

    On Windows a file that a virus scanner or another process has open for a moment cannot be renamed or replaced, so
    it is tried for two seconds.

    Raises:
        OSError: it did not work.
    """
    for attempt in range(_ATTEMPTS):
        try:
            source.replace(target)
            return
        except PermissionError:
            if sys.platform != "win32" or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE_SECONDS)


def new_name(prefix: str) -> str:
    """Return a name that nothing has yet."""
    return f"{prefix}{secrets.token_hex(6)}"


def delete_tree(folder: Path) -> None:
    """Delete a folder as far as possible; what another process has open on Windows stays for the next time."""
    shutil.rmtree(folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Bring all files in a folder, and its listing, to the disk, so that a power cut after this cannot lose them.

    Raises:
        OSError: a file cannot be opened or written.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            _sync_file(path)
        elif path.is_dir():
            sync_listing(path)
    sync_listing(folder)


def sync_listing(folder: Path) -> None:
    """Bring a folder's listing to the disk; Windows has no such call and does not need it.

    Raises:
        OSError: the folder cannot be opened.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    # Some file systems (network, quota) report a full disk only here.
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _suffix(path: Path) -> str:
    """Return the last suffix in lower case, with the one before it if compressed: ``.nii.gz``, ``.csv``."""
    return "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()


def _reason(error: OSError) -> str:
    if is_disk_full(error):
        return "the disk is full or the quota is used up; free some space or write somewhere else"
    if isinstance(error, PermissionError):
        return (
            "no permission; write into a folder of your own, and close the file if it is open in another program "
            f"({error.strerror})"
        )
    return f"{error.strerror or error}; check the disk or write somewhere else"


def _unfinished_prefix(folder: Path) -> str:
    """Return how the names start that a new folder has until it is complete."""
    return f".{folder.name}-new-"


def _previous_prefix(folder: Path) -> str:
    """Return how the names start that an earlier folder has while the new one takes its place."""
    return f".{folder.name}-previous-"


@dataclass(frozen=True, kw_only=True)
class _Staged:
    """A file of :func:`write_together` on its way; ``folder`` is hidden, of this file alone, beside its target."""

    folder: Path
    target: Path

    @property
    def source(self) -> Path:
        """The new file, until it is moved."""
        return self.folder / self.target.name

    @property
    def previous(self) -> Path:
        """The file that was at the target before, if there was one, from before the move on."""
        return self.folder / "previous" / self.target.name

    @property
    def holds_the_only_copy(self) -> bool:
        """Whether the file from before is nowhere else, as the new one is in its place."""
        return self.previous.exists() and not self.source.exists()


def _keep_previous(item: _Staged) -> None:
    """Give the file at the target, if there is one, a second name in the hidden folder.

    Raises:
        OSError: it did not work; the file is as it was.
    """
    if not item.target.exists():
        return
    item.previous.parent.mkdir()
    try:
        os.link(item.target, item.previous)
    except (OSError, NotImplementedError, AttributeError):  # FAT, many network drives: a copy does as well
        shutil.copyfile(item.target, item.previous)
        with suppress(OSError):
            shutil.copystat(item.target, item.previous)


def _put_back(begun: Sequence[_Staged]) -> list[str]:
    """Put the files from before in the places of those that were moved; return what did not work."""
    problems = []
    for item in reversed(begun):
        if item.source.exists():
            continue  # it was not moved, so the target was not touched
        try:
            if item.previous.exists():
                replace(item.previous, item.target)
            else:
                item.target.unlink(missing_ok=True)
        except OSError as error:
            problems.append(
                f"{item.target} could not be put back ({error.strerror}): its old content is in {item.previous}, move "
                "it back when the file is closed"
                if item.previous.exists()
                else f"{item.target} could not be removed ({error.strerror}): delete it, the results are not complete"
            )
    return problems


def _remove(items: Iterable[_Staged]) -> None:
    for item in items:
        delete_tree(item.folder)
