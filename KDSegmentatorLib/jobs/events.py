"""What a job tells whoever started it: what :meth:`KDSegmentatorLib.jobs.process.JobProcess.poll` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:  # the worker sets the number of threads before anything imports numpy
    from KDSegmentatorLib.analysis.statistics import LabelStatistics
    from KDSegmentatorLib.errors import KDSegmentatorError
    from KDSegmentatorLib.inference.segmentation import Segmentation

Stage = Literal[
    "load", "region-preprocess", "region-windows", "region-restore", "preprocess", "windows", "restore", "write"
]
RunState = Literal["running", "done", "skipped", "failed"]
LogLevel = Literal["output", "info", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Started:
    """The worker is there: its process id and the version of its library."""

    pid: int
    version: str


@dataclass(frozen=True, kw_only=True)
class Log:
    """A line for the log; ``output`` is what a library printed."""

    level: LogLevel
    message: str


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """State of the run at work.

    Attributes:
        run: its number, from 0: of the size, or of the file of a batch.
        runs: number of runs of the job.
        stage: ``load`` (volume, pack, engine), ``preprocess``, ``windows``, ``restore`` or ``write``; the three in the
            middle with ``region-`` while the earlier of two chained packs is run.
        done: finished steps of the stage.
        total: steps of the stage, >= 1.
        seconds_left: estimate for the stage, None while there is nothing to estimate from.
    """

    run: int
    runs: int
    stage: Stage
    done: int
    total: int
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class RunChanged:
    """A run started or ended.

    Attributes:
        run: its number, from 0.
        runs: number of runs of the job.
        name: the size, or the file of a batch as named in the request.
        state: ``skipped`` is a file of a batch that has its result already.
        message: why it failed, or its warnings; empty otherwise.
    """

    run: int
    runs: int
    name: str
    state: RunState
    message: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class SizeResult:
    """What one size made of the volume.

    Attributes:
        size: as asked for, ``auto`` included; ``segmentation.record.size`` is the one that ran.
        segmentation: on the input's grid, with labels, run record and, if asked for, entropy.
        statistics: one entry a label.
        engine_reason: why this engine ran, one sentence.
        size_reason: why this size ran, with ``auto``.
        peak_memory: bytes that the worker had used at most when the run ended; None if the system does not tell.
    """

    size: str
    segmentation: Segmentation
    statistics: tuple[LabelStatistics, ...]
    engine_reason: str
    size_reason: str | None
    peak_memory: int | None


@dataclass(frozen=True, kw_only=True)
class FailedSize:
    """A size that could not be run, for example for want of memory, while another one could."""

    size: str
    error: KDSegmentatorError


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmented:
    """The end of a segmentation: at least one size has a result. Everything is in memory, the job's files are gone."""

    results: tuple[SizeResult, ...]
    failures: tuple[FailedSize, ...]


@dataclass(frozen=True, kw_only=True)
class BatchFile:
    """A file of a batch: what became of it, and where its labels are.

    Attributes:
        input: as named in the request.
        state: ``done``, ``skipped`` or ``failed``.
        message: why it failed, or what to look at before using the result (its warnings); empty otherwise.
        labels: absolute path of the label map; None if it failed.
        entropy: absolute path of the entropy map; None if it failed or was not asked for.
    """

    input: str
    state: RunState
    message: str
    labels: str | None
    entropy: str | None


@dataclass(frozen=True, kw_only=True)
class BatchFinished:
    """The end of a batch, also if files failed.

    Attributes:
        files: one entry an input, in the request's order.
        table: absolute path of the CSV table with the statistics of all of them.
    """

    files: tuple[BatchFile, ...]
    table: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Failed:
    """The end of a job without a result.

    Attributes:
        error: of the same class as in the worker (``InsufficientMemoryError``, ``EngineUnavailableError``, ...);
            ``JobError`` if the worker itself broke. ``str(error)`` is for people.
        log: the last lines of the log, for "Show details".
    """

    error: KDSegmentatorError
    log: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """The end of a job that was cancelled; of a batch, the finished files stay."""


End: TypeAlias = Segmented | BatchFinished | Failed | Cancelled
Event: TypeAlias = Started | Log | Progressed | RunChanged | End
