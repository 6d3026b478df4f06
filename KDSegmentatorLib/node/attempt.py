"""One attempt at a job: from the scan to complete results in the job's folder."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from KDSegmentatorLib.errors import (
    CancelledError,
    GeometryError,
    ImageReadError,
    ImageWriteError,
    InsufficientMemoryError,
    KDSegmentatorError,
    ManifestError,
    NodeError,
    PackError,
    UnsuitableVolumeError,
)
from KDSegmentatorLib.io.files import is_disk_full
from KDSegmentatorLib.node.deliveries import Deliveries
from KDSegmentatorLib.node.job import Job
from KDSegmentatorLib.node.models import Segmenters
from KDSegmentatorLib.node.orthanc import OrthancFaultError
from KDSegmentatorLib.node.outputs import check_outputs, write_outputs
from KDSegmentatorLib.node.places import RESULT, Places
from KDSegmentatorLib.node.queue import Cause, LeaseLostError, Queue
from KDSegmentatorLib.node.redaction import names_of, redacted
from KDSegmentatorLib.node.rules import fitting
from KDSegmentatorLib.node.scan import FolderSeries, OrthancSeries, ScanSource, decode, read_scan
from KDSegmentatorLib.node.settings import Settings
from KDSegmentatorLib.node.signs_of_life import LEASE_SECONDS, SignsOfLife

_DATA_FAULTS = (GeometryError, ImageReadError, UnsuitableVolumeError)

_log = logging.getLogger(__name__)


class Attempts:
    """Does jobs, one after another, in this process.

    Args:
        places: the node's folder.
        settings: of the node.
        queue: with the jobs.
        deliveries: of the queue.
        fetch: brings a job's series from Orthanc into its folder.
        guard: asked every two seconds, with the seconds that the job takes so far, for a reason to end this process at
            once; None to go on. The reason ends the job.
        end_process: ends it.
        worker: name of this process, for the queue.
        stopping: when it is set, the job at work is put back, and none is begun.
    """

    def __init__(
        self,
        places: Places,
        settings: Settings,
        queue: Queue,
        deliveries: Deliveries,
        fetch: Callable[[Job, OrthancSeries], Path],
        guard: Callable[[float], str | None] = lambda _: None,
        end_process: Callable[[], None] = lambda: None,
        worker: str = "",
        stopping: threading.Event | None = None,
    ) -> None:
        self._places = places
        self._settings = settings
        self._queue = queue
        self._deliveries = deliveries
        self._fetch = fetch
        self._guard = guard
        self._end_process = end_process
        self._worker = worker
        self._stopping = stopping or threading.Event()
        self._segmenters = Segmenters(places.store(settings.packs))

    def do_next(self) -> bool:
        """Do the next job; return whether there was one.

        A fault of the scan refuses the job; one that every job would meet puts it back and suspends the queue.
        """
        job = None if self._stopping.is_set() else self._queue.claim(LEASE_SECONDS, self._worker)
        if job is None:
            return False
        source = decode(job.source)
        life = SignsOfLife(self._queue, job, self._guard, self._end_process, self._stopping.is_set)
        try:
            try:
                with life:
                    self._do(job, source, life)
            except CancelledError:
                self._queue.give_back(job, "the node was stopped", counts=False)
            except Exception as error:
                self._judge(job, error, names_of(source, self._watched))
        except LeaseLostError:
            _log.info("job %d is not ours any more", job.id)
        return True

    def _do(self, job: Job, source: ScanSource, life: SignsOfLife) -> None:
        rule = self._settings.rule_named(job.rule)
        if not job.rule:
            self._match_again(job, source)
            return
        if rule is None:
            raise NodeError(f"the settings have no rule {job.rule!r} any more; put it back, then run the job again")
        check_outputs(self._settings, rule, dicom=source.facts.dicom)
        scan = read_scan(source, self._watched, lambda series: self._fetch(job, series), life.check)
        segmenter = self._segmenters.get(rule, life.lost)
        pack = segmenter.choose(scan.volume, cancel=life.lost).pack
        self._queue.note_pack(job, f"{pack.manifest.id} {pack.manifest.version}", pack.manifest_sha256)
        result = segmenter(scan.volume, progress=life.report, cancel=life.lost)
        life.check()
        audit = {"sha256": source.sha256}
        if isinstance(source, FolderSeries | OrthancSeries):
            audit["series_uid"] = source.uid
        outputs = write_outputs(self._places.job(job.id) / RESULT, scan, result, rule, pack.manifest, audit)
        self._deliveries.written(job, rule.targets, outputs)

    @property
    def _watched(self) -> Path | None:
        return None if self._settings.watch is None else self._places.inside(self._settings.watch.folder)

    def _match_again(self, job: Job, source: ScanSource) -> None:
        """Give a scan that no rule fitted, and that is run again, to the rules that fit it now."""
        rules, refusal = fitting(self._settings, source.facts)
        content, series = job.key.rpartition(":")[0], job.subject.rpartition(":")[0]
        with self._queue.changing() as connection:
            self._queue.check_lease(connection, job)
            if not rules:
                self._queue.move(connection, job.id, "refused", refusal)
                return
            new = self._queue.admit_known(connection, content=content, series=series, source=job.source, rules=rules)
            self._queue.move(
                connection, job.id, "superseded", f"by job {', '.join(map(str, new))}, for a rule fits now"
            )

    def _judge(self, job: Job, error: Exception, names: list[str]) -> None:
        """Decide what becomes of a job that failed.

        Raises:
            LeaseLostError: the job is not this worker's any more.
        """
        folder = str(self._places.job(job.id))
        reason = redacted(str(error).replace(folder, "the job's folder"), names)
        if is_disk_full(error) or isinstance(error, ImageWriteError | OSError):
            self._suspend(job, "disk", reason)
        elif isinstance(error, PackError | ManifestError):
            self._suspend(job, "pack", reason)
        elif isinstance(error, OrthancFaultError):
            self._suspend(job, "orthanc", reason)
        elif isinstance(error, _DATA_FAULTS):
            self._end(job, "refused", reason)
        elif isinstance(error, MemoryError | InsufficientMemoryError):
            said = reason or "there is not enough memory for this scan"
            self._end(job, "failed", f"{said}; take a smaller size in the rule, then run it again")
        elif isinstance(error, KDSegmentatorError):
            self._end(job, "failed", reason)
        else:  # its text could hold anything: the log gets its place
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"
            _log.error("job %d: unexpected %s", job.id, where)
            self._queue.give_back(job, f"it failed unexpectedly ({where}); report it", counts=True)

    def _end(self, job: Job, state: Literal["refused", "failed"], reason: str) -> None:
        _log.warning("job %d is %s: %s", job.id, state, reason)
        self._queue.end_attempt(job, state, reason)

    def _suspend(self, job: Job, cause: Cause, reason: str) -> None:
        _log.error("the queue is suspended: %s", reason)
        self._queue.suspend(cause, reason)
        self._queue.give_back(job, reason, counts=False)
