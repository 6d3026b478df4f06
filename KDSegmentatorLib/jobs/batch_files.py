"""Which files a batch reads and writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.io.images import image_suffix
from KDSegmentatorLib.jobs.folder import long_path
from KDSegmentatorLib.jobs.messages import BatchRequest

TABLE_NAME = "kdsegmentator-statistics.csv"
"""The table of a batch, in its output folder."""

_LABELS, _ENTROPY, _RECORD = "-labels", "-entropy", "-record.json"


@dataclass(frozen=True, kw_only=True)
class BatchPaths:
    """Files of one input of a batch.

    Attributes:
        name: of the input, as in the request.
        scan: the input.
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
    """Return the images of a folder for :attr:`BatchRequest.inputs`, sorted.

    Hidden files are left out, and what an earlier batch wrote.

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
    found = []
    try:
        for path in folder.glob(pattern):
            relative = path.relative_to(folder)
            if any(part.startswith(".") for part in relative.parts) or image_suffix(path) is None:
                continue
            if (own is not None and path.resolve().is_relative_to(own)) or _is_result(path) or not path.is_file():
                continue
            found.append(relative.as_posix())
    except (ValueError, NotImplementedError, IndexError) as error:
        raise InvalidSettingsError(
            f"the pattern {pattern!r} cannot be used ({error}); take '*' or '*.nii.gz'"
        ) from error
    except OSError as error:
        raise InvalidSettingsError(f"{folder} cannot be read ({error.strerror}); check the permissions") from error
    return tuple(sorted(found))


def batch_paths(request: BatchRequest) -> list[BatchPaths]:
    """Return the files of all inputs; no two inputs write to the same.

    Raises:
        InvalidSettingsError: an input does not lie in the folder.
    """
    folder, output = Path(request.input_folder), Path(request.output_folder)
    stems = _stems(request.inputs)
    paths = []
    for name in request.inputs:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or image_suffix(name) is None or Path(name).drive:
            raise InvalidSettingsError(f"{name!r} is not the name of an image in {folder}")
        if not name.isprintable():  # a surrogate stands for a byte that is no UTF-8
            raise InvalidSettingsError(f"the name {name!r} cannot be written into a table or a record; rename the file")
        stem = output / stems[name]
        paths.append(
            BatchPaths(
                name=name,
                scan=long_path(folder / inside),
                labels=long_path(_appended(stem, _LABELS + request.suffix)),
                entropy=long_path(_appended(stem, _ENTROPY + request.suffix)),
                record=long_path(_appended(stem, _RECORD)),
            )
        )
    return paths


def _stems(names: Sequence[str]) -> dict[str, str]:
    """Return what the names of each input's results begin with: the input's without its suffix, if that is enough."""
    short = {name: name[: -len(image_suffix(name) or "")] for name in names}
    times = Counter(stem.casefold() for stem in short.values())
    return {name: stem if times[stem.casefold()] == 1 else name for name, stem in short.items()}


def _appended(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _is_result(path: Path) -> bool:
    """Return whether a batch wrote this image: its record lies beside it."""
    stem = path.name[: -len(image_suffix(path) or "")]
    return any(
        stem.endswith(ending) and path.with_name(stem[: -len(ending)] + _RECORD).exists()
        for ending in (_LABELS, _ENTROPY)
    )
