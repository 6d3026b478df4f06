"""The watched folder: image files and DICOM series that are put into it become jobs.

An entry of the folder, a file or a sub-folder with all in it, is taken when it has not changed for a while, so that
what is still being copied is left alone. Loose DICOM files, beside each other in the folder itself, are one entry.
Nothing in the folder is changed, moved or deleted. Hidden files, links, and names that programs give to unfinished
files are left out.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.io.files import file_sha256
from KDSegmentatorLib.io.images import image_suffix
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.redaction import redacted
from KDSegmentatorLib.node.rules import Facts, fitting
from KDSegmentatorLib.node.scan import FolderSeries, ImageFile, OrthancSeries, decode, encode
from KDSegmentatorLib.node.settings import Settings

UNFINISHED_SUFFIXES = (".part", ".partial", ".tmp", ".crdownload", ".filepart")
LOOSE = ""
"""The entry of DICOM files that lie in the folder itself."""

_log = logging.getLogger(__name__)


class WatchFolder:
    """Looks through a folder, again and again.

    Args:
        folder: the watched one.
        settled_seconds: how long an entry must not have changed.
        settings: with the rules.
        queue: gets the jobs.
    """

    def __init__(self, folder: Path, settled_seconds: float, settings: Settings, queue: Queue) -> None:
        self.folder = folder
        self._settled_seconds = settled_seconds
        self._settings = settings
        self._queue = queue
        self._changing: dict[str, tuple[str, float]] = {}

    def look(self) -> int:
        """Look once; return how many jobs were made.

        Raises:
            OSError: the folder cannot be read.
        """
        entries = self._entries()
        made = 0
        for entry, files in entries.items():
            signature = _signature(self.folder, files)
            if signature is None or not self._has_settled(entry, signature):
                continue
            if self._queue.fact(f"watched {entry}") != signature:
                made += self._take(entry, files, signature)
                self._queue.set_fact(f"watched {entry}", signature)
        self._changing = {entry: state for entry, state in self._changing.items() if entry in entries}
        self._withdraw_deleted()
        return made

    def _entries(self) -> dict[str, list[str]]:
        """Return the files of each entry, relative to the folder, with ``/``."""
        entries: dict[str, list[str]] = {}
        with os.scandir(self.folder) as listing:
            for item in sorted(listing, key=lambda item: item.name):
                if _is_left_out(item):
                    continue
                if item.is_dir():
                    files = sorted(_below(self.folder / item.name, item.name))
                    if files:
                        entries[item.name] = files
                elif image_suffix(item.name) is not None or item.name.lower().endswith(".zip"):
                    entries[item.name] = [item.name]
                else:
                    entries.setdefault(LOOSE, []).append(item.name)
        return entries

    def _has_settled(self, entry: str, signature: str) -> bool:
        now = self._queue.clock()
        known, since = self._changing.get(entry, ("", now))
        if known != signature:
            since = now
            self._changing[entry] = (signature, now)
        return now - since >= self._settled_seconds

    def _take(self, entry: str, files: list[str], signature: str) -> int:
        """Make jobs of all scans in an entry, or a refused one that says why there is none."""
        images = [name for name in files if image_suffix(name) is not None]
        others = [name for name in files if image_suffix(name) is None]
        made = sum(self._admit_image(name, signature) for name in images)
        if others:
            try:
                made += self._admit_series(entry, others)
            except (KDSegmentatorError, OSError) as error:
                if not images:  # a text beside images does no harm
                    made += self._admit_none(entry, signature, redacted(str(error), files))
        return made

    def _admit_image(self, name: str, signature: str) -> int:
        try:
            sha256 = file_sha256(self.folder / name)
        except OSError as error:
            return self._admit_none(name, signature, f"the file cannot be read ({error.strerror})")
        stem = name[: -len(image_suffix(name) or "")]
        facts = Facts(dicom=False, description=stem.rpartition("/")[2])
        return self._admit(ImageFile(facts=facts, result=stem, sha256=sha256, path=name), f"file {name}")

    def _admit_series(self, entry: str, files: list[str]) -> int:
        from KDSegmentatorLib.dicom.series import find_series

        place = self.folder / entry
        archive = place.is_file()
        made = 0
        for series in find_series(place if entry else [self.folder / name for name in files]):
            if archive:
                sha256 = file_sha256(place)
            else:
                sha256 = combined_sha256(place if entry else self.folder, list(series.files))
            facts = Facts(
                dicom=True,
                modality=series.modality,
                description=series.description,
                body_part=series.body_part,
                images=series.images,
            )
            result = "/".join(part for part in (Path(entry).stem if archive else entry, series.uid) if part)
            source = FolderSeries(facts=facts, result=result, sha256=sha256, path=entry, uid=series.uid)
            made += self._admit(source, f"series {entry} {series.uid}", series.obstacle or "", series.uid)
        return made

    def _admit(self, source: ImageFile | FolderSeries, series: str, obstacle: str = "", uid: str = "") -> int:
        rules, refusal = ({}, obstacle) if obstacle else fitting(self._settings, source.facts)
        audit = {"sha256": source.sha256, **({"series_uid": uid} if uid else {})}
        content = hashlib.sha256(f"{series} {source.sha256}".encode()).hexdigest()
        numbers = self._queue.admit(
            content=content, series=_digest(series), source=encode(source), rules=rules, refusal=refusal, audit=audit
        )
        return len(numbers)

    def _admit_none(self, entry: str, signature: str, reason: str) -> int:
        source = ImageFile(facts=Facts(dicom=False), result="", sha256="", path=entry)
        numbers = self._queue.admit(
            content=_digest(f"{entry} {signature}"),
            series=_digest(f"file {entry}"),
            source=encode(source),
            rules={},
            refusal=reason,
        )
        return len(numbers)

    def _withdraw_deleted(self) -> None:
        for job in self._queue.jobs(("received",)):
            source = decode(job.source)
            if not isinstance(source, OrthancSeries) and not (self.folder / source.path).exists():
                self._queue.withdraw(job.subject.partition(":")[0], "its input was deleted")


def combined_sha256(folder: Path, files: list[str]) -> str:
    """Return the hash of all bytes of some files, whatever their names and order.

    Raises:
        OSError: one cannot be read.
    """
    digest = hashlib.sha256()
    for content in sorted(file_sha256(folder / name) for name in files):
        digest.update(content.encode())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _is_left_out(item: os.DirEntry[str]) -> bool:
    name = item.name.lower()
    return name.startswith((".", "~")) or name.endswith(UNFINISHED_SUFFIXES) or item.is_symlink()


def _below(folder: Path, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as listing:
        for item in listing:
            if _is_left_out(item):
                continue
            if item.is_dir():
                yield from _below(folder / item.name, f"{prefix}/{item.name}")
            else:
                yield f"{prefix}/{item.name}"


def _signature(folder: Path, files: list[str]) -> str | None:
    """Return what changes when a file of an entry does; None if one vanished meanwhile."""
    digest = hashlib.sha256()
    try:
        for name in files:
            found = (folder / name).stat()
            digest.update(msgspec.json.encode([name, found.st_size, found.st_mtime_ns]))
    except OSError:
        return None
    return digest.hexdigest()
