"""Which series there are among DICOM files, from their headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.uid import UID

from KDSegmentatorLib.dicom.headers import read_header, text, whole

IMAGE_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT
        "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
        "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced CT
        "1.2.840.10008.5.1.4.1.1.4",  # MR
        "1.2.840.10008.5.1.4.1.1.4.1",  # enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.4",  # legacy converted enhanced MR
        "1.2.840.10008.5.1.4.1.1.128",  # PET
        "1.2.840.10008.5.1.4.1.1.128.1",  # legacy converted enhanced PET
        "1.2.840.10008.5.1.4.1.1.130",  # enhanced PET
    }
)
"""SOP classes whose images have a place in the patient."""

_SUMMARY_TAGS = [
    "SOPClassUID", "Modality", "SeriesInstanceUID", "StudyInstanceUID", "SeriesNumber", "SeriesDescription",
    "BodyPartExamined", "NumberOfFrames",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SeriesSummary:
    """A series that was found, from its headers alone. No patient data.

    Attributes:
        uid: Series Instance UID; empty if it was anonymised away.
        study_uid: Study Instance UID; empty if it was anonymised away.
        modality: ``CT``, ``MR``, ``SEG``, ...; empty if it is not said.
        number: Series Number; None if there is none.
        description: Series Description, or empty.
        body_part: Body Part Examined, or empty.
        images: number of images: files, or frames of multi-frame files.
        files: how they are called: paths below the folder, or names in the archive.
        obstacle: why it cannot be a volume (a segmentation, a report, a plain picture); empty if it may be one.
    """

    uid: str
    study_uid: str
    modality: str
    number: int | None
    description: str
    body_part: str
    images: int
    files: tuple[str, ...]
    obstacle: str = ""

    @property
    def title(self) -> str:
        """How it is called in messages, for example ``12 "T1post" (MR, 22 images)``."""
        number = "without a number" if self.number is None else str(self.number)
        description = f' "{self.description}"' if self.description else ""
        return (
            f"{number}{description} ({self.modality or 'no modality'}, {self.images} image{'s' * (self.images != 1)})"
        )


def summaries(files: Mapping[str, Path], check: Callable[[], None] = lambda: None) -> tuple[SeriesSummary, ...]:
    """Return the series that files belong to, by number and UID.

    Args:
        files: names for messages, and paths.
        check: called for every file; may raise to stop.

    Raises:
        ImageReadError: a file is damaged.
    """
    found: dict[str, SeriesSummary] = {}
    members: dict[str, list[str]] = {}
    images: dict[str, int] = {}
    classes: dict[str, set[str]] = {}
    for name, path in files.items():
        check()
        header = read_header(path, name, _SUMMARY_TAGS)
        sop_class = text(header, "SOPClassUID")
        if sop_class == "1.2.840.10008.1.3.10":  # a DICOMDIR is of no series
            continue
        uid = text(header, "SeriesInstanceUID")
        if uid not in found:
            found[uid] = SeriesSummary(
                uid=uid,
                study_uid=text(header, "StudyInstanceUID"),
                modality=text(header, "Modality"),
                number=whole(header, "SeriesNumber"),
                description=text(header, "SeriesDescription"),
                body_part=text(header, "BodyPartExamined"),
                images=0,
                files=(),
            )
        members.setdefault(uid, []).append(name)
        images[uid] = images.get(uid, 0) + (whole(header, "NumberOfFrames") or 1)
        classes.setdefault(uid, set()).add(sop_class)
    series = [
        replace(one, images=images[uid], files=tuple(members[uid]), obstacle=_obstacle(classes[uid]))
        for uid, one in found.items()
    ]
    return tuple(sorted(series, key=lambda one: (one.number is None, one.number or 0, one.uid)))


def _obstacle(classes: set[str]) -> str:
    others = sorted(classes - IMAGE_CLASSES)
    names = [UID(other).name.removesuffix(" Storage") or "no SOP class" for other in others]
    return f"it holds {', '.join(names)}, not a CT, MR or PET scan" if names else ""
