"""Several output files that appear together or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from KDSegmentatorLib.errors import ImageWriteError, InvalidSettingsError

Writer = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class PlannedOutput:
    """A file that the user asked for.

    Attributes:
        option: how the command line calls it, for messages.
        path: where it goes.
        suffixes: what its name may end with.
    """

    option: str
    path: Path
    suffixes: tuple[str, ...]


def check_outputs(outputs: Sequence[PlannedOutput], input_path: Path) -> None:
    """Check all output paths before the work starts.

    Raises:
        InvalidSettingsError: a suffix is not known, a folder is missing or not writable, a path is a folder, the input
            itself, or named twice.
    """
    taken = {_identity(input_path): "INPUT"}
    for output in outputs:
        try:
            identity = _check_path(output)
        except OSError as error:
            raise InvalidSettingsError(
                f"{output.option} {output.path} cannot be written ({error.strerror}); choose another folder or name"
            ) from error
        if identity in taken:
            raise InvalidSettingsError(
                f"{output.option} {output.path} is the same file as {taken[identity]}; give another name"
            )
        taken[identity] = output.option


def _check_path(output: PlannedOutput) -> str:
    """Return the identity of an output file that can be written."""
    path, option = output.path, output.option
    if not path.name.lower().endswith(output.suffixes):
        raise InvalidSettingsError(f"{option} {path}: the name must end with {' or '.join(output.suffixes)}")
    if path.is_dir():
        raise InvalidSettingsError(f"{option} {path} is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise InvalidSettingsError(f"{option} {path}: there is no folder {path.parent}; create it first")
    with tempfile.TemporaryFile(dir=path.resolve().parent):  # only trying tells: os.access is wrong on Windows
        pass
    return _identity(path)


def write_together(outputs: Sequence[tuple[Path, Writer]]) -> None:
    """Write several files; if one of them fails, none is left and those that were there before stay.

    Every file is first written into a hidden folder beside its destination, then all are moved into place.

    Args:
        outputs: destination, and what writes the file to the path that it is given.

    Raises:
        ImageWriteError: a file could not be written or put into place.
    """
    staged: list[tuple[Path, Path]] = []
    folders: list[Path] = []
    try:
        for path, write in outputs:
            target = path.resolve() if path.is_symlink() else path
            folder = Path(tempfile.mkdtemp(prefix=".kdseg-", dir=target.parent))
            folders.append(folder)
            staged.append((folder / target.name, target))
            try:
                write(folder / target.name)
            except ImageWriteError as error:  # name the file that the user asked for
                raise ImageWriteError(str(error).replace(str(folder / target.name), str(path))) from error
        _move_into_place(staged)
    except OSError as error:
        raise ImageWriteError(
            f"cannot write the results: {error}; nothing was written. Check the disk, and close the files if they are "
            "open in another program"
        ) from error
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(staged: Sequence[tuple[Path, Path]]) -> None:
    """Move files to their targets; on failure put everything back as it was."""
    moved: list[tuple[Path, Path | None]] = []
    try:
        for source, target in staged:
            previous = None
            if target.exists():
                previous = source.with_name(f"previous-{target.name}")
                target.replace(previous)
            moved.append((target, previous))
            source.replace(target)
    except BaseException:
        for target, previous in reversed(moved):
            if previous is None:
                target.unlink(missing_ok=True)
            else:
                previous.replace(target)
        raise


def _identity(path: Path) -> str:
    """Return what two names of one file have in common."""
    return os.path.normcase(path.resolve())
