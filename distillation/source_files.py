"""Which files a dataset was prepared from, so that changed ones are noticed before anything is trained on old data."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from distillation.splits import SPLITS_NAME
from KDSegmentatorLib.errors import TrainingError
from KDSegmentatorLib.io.files import file_sha256, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.dataset import RawDataset

RECORD_NAME = "prepared_from.json"
"""In the preprocessed folder: size, time of change and SHA-256 of every file by its name."""

_SHOWN = 3


def record_sources(raw: RawDataset, folder: Path) -> None:
    """Write down the files that a dataset is prepared from now; an existing record stays.

    Args:
        raw: the dataset.
        folder: its preprocessed folder.
    """
    if not (folder / RECORD_NAME).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD_NAME, {name: _entry(path) for name, path in _sources(raw).items()})


def changed_sources(raw: RawDataset, folder: Path) -> tuple[str, ...]:
    """Return the names of the files that were changed, added or removed since the dataset was prepared.

    A file that was only copied or touched is the same. Without a record nothing is known to have changed.

    Raises:
        TrainingError: a file cannot be read.
    """
    path = folder / RECORD_NAME
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        before = {name: (int(size), int(changed), str(sha256)) for name, (size, changed, sha256) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return ()
    sources = _sources(raw)
    changed = sorted(before.keys() ^ sources.keys())
    touched: dict[str, Any] = {}
    for name in sorted(before.keys() & sources.keys()):
        try:
            status = sources[name].stat()
            if (status.st_size, status.st_mtime_ns) == before[name][:2]:
                continue
            touched[name] = _entry(sources[name])
        except OSError as error:
            raise TrainingError(f"{error}; check the dataset and start again") from error
        if touched[name][2] != before[name][2]:
            changed.append(name)
    if touched and not changed:  # so that they are not read again and again
        write_json(path, {**known, **touched})
    return tuple(sorted(changed))


def clear_prepared(folder: Path, results: Path, changed: tuple[str, ...]) -> None:
    """Remove what was computed from an earlier state of a dataset; the split stays, it may be somebody's own.

    Args:
        folder: the preprocessed folder.
        results: of the trainings on this dataset.
        changed: what :func:`changed_sources` found.

    Raises:
        TrainingError: networks were trained on it.
    """
    if results.is_dir() and any(results.iterdir()):
        raise TrainingError(
            f"the dataset was prepared from other files; changed since then: {some(changed)}. Networks were trained on "
            f"it: put the files back, give another --workspace, or remove or rename {results}"
        )
    for path in list(folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != SPLITS_NAME:
            path.unlink()


def some(names: tuple[str, ...]) -> str:
    """Return the first names for people, and how many there are besides."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _sources(raw: RawDataset) -> dict[str, Path]:
    files = [raw.folder / "dataset.json", *(path for case in raw.cases for path in (case.image, case.label))]
    return {path.relative_to(raw.folder).as_posix(): path for path in files}


def _entry(path: Path) -> list[Any]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, file_sha256(path)]
