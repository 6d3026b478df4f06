"""Which files a batch reads and writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.io.dicom_file import holds_dicom
from KDSegmentatorLib.io.images import image_suffix
from KDSegmentatorLib.jobs.bids import derivative_stem
from KDSegmentatorLib.jobs.folder import long_path
from KDSegmentatorLib.jobs.messages import BatchRequest

TABLE_NAME = "kdsegmentator-statistics.csv"
"""The table of a batch, in its output folder."""

_LABELS, _ENTROPY, _RECORD = "-labels", "-entropy", "-record.json"
_BIDS_LABELS, _BIDS_ENTROPY, _BIDS_RECORD = "_dseg", "_entropymap", "_dseg.json"
_ARCHIVE = ".zip"


@dataclass(frozen=True, kw_only=True)
class BatchPaths:
    """Files of one input of a batch.

    Attributes:
        name: of the input, as in the request.
        scan: the input: an image file, or a folder or a .zip of one DICOM series.
        labels: the label map.
        entropy: the entropy map, if it is asked for.
        record: how the result came about, with the hashes of the other two: they tell whether it is complete.
    """

    name: str
    scan: Path
    labels: Path
    entropy: Path
    record: Path


def find_scans(folder: Path, pattern: str = "*", output_folder: Path | None = None) -> tuple[str, ...]:
    """Return the scans of a folder for :attr:`BatchRequest.inputs`, sorted: images, and folders or .zip files of DICOM.

    Hidden files are left out, and what an earlier batch wrote. Of folders in each other that the pattern finds, the
    innermost that holds DICOM files is taken, so that ``**/*`` finds the folder of each series.

    Args:
        folder: where to look.
        pattern: as in ``Path.glob``: ``*`` for the folder itself, ``**/*`` for those in it too, ``*_t1.nii.gz``.
        output_folder: left out if it lies in the folder.

    Returns:
        Paths relative to the folder, with ``/``.

    Raises:
        InvalidSettingsError: there is no such folder, or the pattern is none.
    """
    if not folder.is_dir():
        raise InvalidSettingsError(f"there is no folder {folder}; choose the folder with the scans")
    own = output_folder.resolve() if output_folder is not None and output_folder.resolve() != folder.resolve() else None
    found, folders = [], []
    try:
        for path in folder.glob(pattern):
            relative = path.relative_to(folder)
            if not relative.parts or any(part.startswith(".") for part in relative.parts):
                continue
            if own is not None and path.resolve().is_relative_to(own):
                continue
            if path.is_dir():
                folders.append(path)
            elif path.is_file() and _is_scan(path):
                found.append(relative.as_posix())
    except (ValueError, NotImplementedError, IndexError) as error:
        raise InvalidSettingsError(
            f"the pattern {pattern!r} cannot be used ({error}); take '*' or '*.nii.gz'"
        ) from error
    except OSError as error:
        raise InvalidSettingsError(f"{folder} cannot be read ({error.strerror}); check the permissions") from error
    taken: list[Path] = []
    for path in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        if not any(inner.is_relative_to(path) for inner in taken) and holds_dicom(path):
            taken.append(path)
    return tuple(sorted([*found, *(path.relative_to(folder).as_posix() for path in taken)]))


def batch_paths(request: BatchRequest) -> list[BatchPaths]:
    """Return the files of all inputs; no two inputs write to the same.

    Raises:
        InvalidSettingsError: an input does not lie in the folder, or has no BIDS name in a BIDS data set.
    """
    folder, output = Path(request.input_folder), Path(request.output_folder)
    stems = _bids_stems(request) if request.bids else _stems(request.inputs)
    endings = (_BIDS_LABELS, _BIDS_ENTROPY, _BIDS_RECORD) if request.bids else (_LABELS, _ENTROPY, _RECORD)
    paths = []
    for name in request.inputs:
        inside = PurePosixPath(name)
        outside = inside.is_absolute() or ".." in inside.parts or not inside.parts or Path(name).drive
        if outside or not (_suffix(name) or (folder / inside).is_dir()):
            raise InvalidSettingsError(f"{name!r} is not the name of a scan in {folder}")
        if not name.isprintable():  # a surrogate stands for a byte that is no UTF-8
            raise InvalidSettingsError(f"the name {name!r} cannot be written into a table or a record; rename the file")
        stem = output / stems[name]
        paths.append(
            BatchPaths(
                name=name,
                scan=long_path(folder / inside),
                labels=long_path(_appended(stem, endings[0] + request.suffix)),
                entropy=long_path(_appended(stem, endings[1] + request.suffix)),
                record=long_path(_appended(stem, endings[2])),
            )
        )
    return paths


def _stems(names: Sequence[str]) -> dict[str, str]:
    """Return what the names of each input's results begin with: the input's without its suffix, if that is enough."""
    short = {name: name[: len(name) - len(_suffix(name))] for name in names}
    times = Counter(stem.casefold() for stem in short.values())
    return {name: stem if times[stem.casefold()] == 1 else name for name, stem in short.items()}


def _bids_stems(request: BatchRequest) -> dict[str, str]:
    stems: dict[str, str] = {}
    for name in request.inputs:
        stem = derivative_stem(name, request.task)
        if stem is None or stem in stems.values():
            raise InvalidSettingsError(
                f"{name!r} is not named as BIDS asks (sub-01/anat/sub-01_T1w.nii.gz), or as another image; rename it, "
                "or name the results as the scans (--layout scans)"
            )
        stems[name] = stem
    return stems


def _suffix(name: str) -> str:
    """Return the suffix of an image or an archive; empty for a folder."""
    return image_suffix(name) or (_ARCHIVE if name.lower().endswith(_ARCHIVE) else "")


def _is_scan(path: Path) -> bool:
    if image_suffix(path) is not None:
        return not _is_result(path)
    return path.suffix.lower() == _ARCHIVE and holds_dicom(path)


def _appended(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _is_result(path: Path) -> bool:
    """Return whether a batch wrote this image: its record lies beside it."""
    stem = path.name[: -len(image_suffix(path) or "")]
    return any(
        stem.endswith(ending) and path.with_name(stem[: -len(ending)] + record).exists()
        for ending, record in (
            (_LABELS, _RECORD),
            (_ENTROPY, _RECORD),
            (_BIDS_LABELS, _BIDS_RECORD),
            (_BIDS_ENTROPY, _BIDS_RECORD),
        )
    )
