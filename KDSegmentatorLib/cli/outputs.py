"""Output files that the user asked for: checked before the work, written together after it; and the record of a run."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from KDSegmentatorLib.cli.terminal import Interrupt
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.inference.segmentation import Segmentation
from KDSegmentatorLib.io import files
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.io.images import shadowing_reason
from KDSegmentatorLib.scan import Scan

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
    """Write several files, all or none, unless Ctrl-C is pressed before the first is moved into place.

    Raises:
        CancelledError: Ctrl-C was pressed; nothing was written.
        ImageWriteError: see :func:`KDSegmentatorLib.io.files.write_together`.
    """
    interrupt = interrupt or Interrupt()
    files.write_together(outputs, check=interrupt.check, begin=interrupt.finish)


def _identity(path: Path) -> str:
    """Return what two names of one file have in common."""
    return os.path.normcase(path.resolve())


def write_record(
    result: Segmentation, scan: Scan, reason: str, path: Path, *, region_given: bool, frame: int | None = None
) -> None:
    """Write a run's record as JSON (UTF-8): the fields of ``RunRecord``, the input and the labels.

    Args:
        result: of the run.
        scan: what was segmented; the name of its file or folder is written without that above, and its SHA-256.
        reason: why this engine was taken.
        path: the file.
        region_given: whether the earlier stage of a chain was left out; ``region`` is null then, as for single packs.
        frame: which volume of a 4-D scan was segmented, from 0; None if it has one only.

    Raises:
        ImageWriteError: the file could not be written; nothing was left behind.
    """
    content = {
        "input": os.fsencode(Path(str(scan.source)).name).decode("utf-8", errors="backslashreplace"),
        "input_sha256": scan.sha256,
        "input_frame": frame,
        "input_series": _series(scan),
        "engine_reason": reason,
        "region_given": region_given,
        "labels": [{"value": label.value, "name": label.name} for label in result.labels],
        **dataclasses.asdict(result.record),
    }
    with atomic_output(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _series(scan: Scan) -> dict[str, object] | None:
    """Return which DICOM series was segmented; nothing about the patient."""
    if scan.series is None:
        return None
    tilt = scan.series.tilt
    return {
        "uid": scan.series.uid,
        "study_uid": scan.series.study_uid,
        "modality": scan.series.modality,
        "images": len(scan.series.frame_numbers) or len(scan.series.datasets),
        "tilt_degrees": None if tilt is None else tilt.degrees,
    }
