"""BIDS data sets as the input of a batch, and its output as a BIDS derivative (BIDS 1.10).

The label map of ``sub-01/anat/sub-01_T1w.nii.gz`` is ``sub-01/anat/sub-01_seg-brainT1_dseg.nii.gz``; its sidecar, of
the same name with ``.json``, is the record of the batch. ``seg-brainT1_dseg.tsv`` beside ``dataset_description.json``
says what the values mean.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.packs.manifest import Label
from KDSegmentatorLib.version import __version__

DESCRIPTION_NAME = "dataset_description.json"
BIDS_VERSION = "1.10.0"

PATTERN = "sub-*/**/*_T1w.nii*"
"""The scans that a batch takes of a data set."""

_RAW = "raw"
_IMAGE = re.compile(r"(?P<entities>sub-[0-9A-Za-z]+(_[a-z]+-[0-9A-Za-z+]+)*)_(?P<suffix>[0-9A-Za-z]+)\.nii(\.gz)?")


def is_dataset(folder: Path) -> bool:
    """Return whether a folder is the top of a BIDS data set."""
    return (folder / DESCRIPTION_NAME).is_file() and any(path.is_dir() for path in folder.glob("sub-*"))


def segment_name(task: str) -> str:
    """Return a task as a BIDS label, which has letters and digits only: ``brainT1`` for ``brain-t1``."""
    first, *others = re.split(r"[^0-9A-Za-z]+", task)
    return first + "".join(other[:1].upper() + other[1:] for other in others)


def derivative_stem(name: str, task: str) -> str | None:
    """Return what the names of an image's results begin with, or None if it is not named as BIDS asks.

    An image that is no T1w keeps its suffix as ``desc``, so that the results of two images of a session differ.

    Examples:
        >>> derivative_stem("sub-01/anat/sub-01_acq-mprage_T1w.nii.gz", "brain-t1")
        'sub-01/anat/sub-01_acq-mprage_seg-brainT1'
    """
    path = PurePosixPath(name)
    match = _IMAGE.fullmatch(path.name)
    if match is None or path.parts[0] != match["entities"].partition("_")[0]:
        return None
    described = "" if match["suffix"] == "T1w" else f"_desc-{match['suffix']}"
    return str(path.with_name(f"{match['entities']}_seg-{segment_name(task)}{described}"))


def source_uri(name: str) -> str:
    """Return an image's BIDS URI, as it stands in a sidecar."""
    return f"bids:{_RAW}:{name}"


def write_description(dataset: Path, derivative: Path) -> None:
    """Write the description of the results as a data set, unless there is one.

    Args:
        dataset: the images'.
        derivative: the folder of the results.

    Raises:
        ImageWriteError: it cannot be written.
    """
    target = derivative / DESCRIPTION_NAME
    if target.exists():
        return
    try:
        link = Path(os.path.relpath(dataset, derivative)).as_posix()
    except ValueError:  # another drive of Windows
        link = dataset.absolute().as_uri()
    content = {
        "Name": "Segmentations by KDSegmentator",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "KDSegmentator", "Version": __version__}],
        "DatasetLinks": {_RAW: link},
    }
    with atomic_output(target) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_label_table(labels: Sequence[Label], task: str, derivative: Path) -> None:
    """Write what the values of a task's label maps mean.

    Raises:
        ImageWriteError: it cannot be written.
    """
    with (
        atomic_output(derivative / f"seg-{segment_name(task)}_dseg.tsv") as unfinished,
        unfinished.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, dialect="excel-tab", lineterminator="\n")
        table.writerow(["index", "name", "color"])
        for label in labels:
            table.writerow([label.value, label.name, "#{:02x}{:02x}{:02x}".format(*label.color)])
