"""Several output files that appear together or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from KDSegmentatorLib.cli.interrupt import Interrupt
from KDSegmentatorLib.errors import ImageWriteError, InvalidSettingsError
from KDSegmentatorLib.io.files import TEMPORARY_PREFIX, replace
from KDSegmentatorLib.io.plain_paths import shadowing_reason

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
    if (reason := shadowing_reason(path)) is not None:
        raise InvalidSettingsError(f"{option} {path}: {reason}")
    with tempfile.TemporaryFile(dir=path.resolve().parent):  # only trying tells: os.access is wrong on Windows
        pass
    return _identity(path)


def write_together(outputs: Sequence[tuple[Path, Writer]], interrupt: Interrupt | None = None) -> None:
    """Write several files; if one of them fails, none is left and those that were there before stay.

    Every file is first written into a hidden folder beside its destination, then all are moved into place. A file that
    was there before keeps its place until it is replaced in one step, and has a second name in the hidden folder until
    all is done.

    Args:
        outputs: destination, and what writes the file to the path that it is given.
        interrupt: asked before every file; ignores Ctrl-C once the files are moved into place.

    Raises:
        CancelledError: Ctrl-C was pressed; nothing was written.
        ImageWriteError: a file could not be written or put into place. Should an old file not be back in its place, the
            message says where it is.
    """
    interrupt = interrupt or Interrupt()
    staged: list[_Staged] = []
    begun: list[_Staged] = []
    try:
        for path, write in outputs:
            interrupt.check()
            target = path.resolve() if path.is_symlink() else path
            item = _Staged(folder=Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=target.parent)), target=target)
            staged.append(item)
            try:
                write(item.source)
            except ImageWriteError as error:  # name the file that the user asked for
                raise ImageWriteError(str(error).replace(str(item.source), str(path))) from error
        for item in staged:
            interrupt.check()
            _keep_previous(item)
        interrupt.finish()
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


@dataclass(frozen=True, kw_only=True)
class _Staged:
    """A file on its way.

    Attributes:
        folder: hidden, of this file alone, beside the target.
        target: where the file goes.
    """

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
        shutil.rmtree(item.folder, ignore_errors=True)


def _identity(path: Path) -> str:
    """Return what two names of one file have in common."""
    return os.path.normcase(path.resolve())
