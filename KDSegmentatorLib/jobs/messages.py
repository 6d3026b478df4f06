"""What the worker and its owner tell each other: requests, events, results, as JSON.

Nothing here imports numpy: the worker reads its request before it sets the number of threads that numpy looks at.

The owner writes a request into the job's folder. The worker writes one JSON object a line to its standard output, among
whatever its libraries print: ``{"kdseg": 2, "message": {"event": "progress", "run": 0, ...}}``. A line is ASCII, starts
on a fresh line, and is written in one piece, so that text of native libraries seldom breaks it. What is not such a line
belongs in the log. The result is a file in the job's folder (:mod:`KDSegmentatorLib.jobs.run`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from KDSegmentatorLib import errors
from KDSegmentatorLib.errors import JobError, KDSegmentatorError
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.options import RunOptions

if TYPE_CHECKING:
    from KDSegmentatorLib.jobs.run import SizeResult

PROTOCOL_VERSION = 2
"""Of requests, lines and results; both processes have to have the same."""

REQUEST_NAME = "request.json"
"""The request's file in the job's folder."""

RESULT_NAME = "result.json"
"""The result's file in the job's folder, written last."""

INPUT_NAME = "input"
"""The volume that is handed over in the job's folder: ``input.json`` and its voxels beside it."""

CANCEL_NAME = "cancel"
"""A file of this name in the job's folder asks the worker to stop."""

Suffix = Literal[".nii.gz", ".nii", ".nrrd", ".mha"]
Stage = Literal[
    "load", "region-preprocess", "region-windows", "region-restore", "preprocess", "windows", "restore", "write"
]
RunState = Literal["running", "done", "skipped", "failed"]
LogLevel = Literal["output", "info", "warning", "error"]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every job is asked.

    Attributes:
        task: the family, for example ``hippocampus``.
        user_packs: folder of the packs that the user installed (``str(PackStore().user_folder)``).
        shipped_packs: folder of the packs that came with KDSegmentator (``str(PackStore().shipped_folder)``).
        options: the user's choices.
    """

    task: str
    user_packs: str
    shipped_packs: str
    options: RunOptions = RunOptions()


class SegmentRequest(Request, frozen=True, kw_only=True, tag_field="job", tag="segment"):
    """Segment one volume with one size or several.

    Attributes:
        sizes: run one after another; empty for that of the options.
        input: absolute path of an image file, or of a folder, a .zip or a file with a DICOM series; or
            :data:`INPUT_NAME` for a volume that is handed over in the job's folder.
        series: which of several DICOM series: its UID, its number, or its description; empty for the only one.
    """

    sizes: tuple[str, ...] = ()
    input: str = INPUT_NAME
    series: str = ""

    def __post_init__(self) -> None:
        _check_unique("sizes", self.sizes)


class BatchRequest(Request, frozen=True, kw_only=True, tag_field="job", tag="batch"):
    """Segment the scans of a folder, all with one size.

    Attributes:
        input_folder: absolute path.
        inputs: image files, and folders or .zip files of one DICOM series each, relative to ``input_folder`` with
            ``/`` (:func:`KDSegmentatorLib.jobs.batch_files.find_scans`).
        output_folder: absolute path; the results lie in it as their inputs lie in ``input_folder``.
        suffix: format of the label maps.
        resume: leave out the files that have a result already, made from the same voxels with the same pack and
            options.
        bids: name the results as a BIDS derivative (:mod:`KDSegmentatorLib.jobs.bids`).
    """

    input_folder: str
    inputs: tuple[str, ...]
    output_folder: str
    suffix: Suffix = ".nii.gz"
    resume: bool = True
    bids: bool = False

    def __post_init__(self) -> None:
        if not self.inputs:
            raise JobError("there is nothing to segment: no input is named")
        _check_unique("inputs", self.inputs)


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What of a volume decides how long a run takes: its grid and where it is not zero, without the voxels.

    Attributes:
        shape: voxels along (z, y, x).
        dtype: numpy's name of the voxels' type.
        spacing: along (x, y, z) in mm.
        direction: nine cosines, row by row.
        box: first and last index along (z, y, x) of the voxels that are not zero.
    """

    shape: tuple[int, int, int]
    dtype: str
    spacing: tuple[float, float, float]
    direction: tuple[float, ...]
    box: tuple[tuple[int, int], ...]


class AdviseRequest(Request, frozen=True, kw_only=True, tag_field="job", tag="advise"):
    """Say what every size of some tasks takes for a volume; the sizes and labels of the options do not matter.

    Attributes:
        tasks: the families; ``task`` is not looked at.
        outline: of the volume (:func:`KDSegmentatorLib.jobs.advise.outline_of`).
    """

    tasks: tuple[str, ...]
    outline: Outline


AnyRequest: TypeAlias = SegmentRequest | BatchRequest | AdviseRequest


def _check_unique(field: str, values: tuple[str, ...]) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise JobError(f"{field}: {twice!r} is there twice; name each once")


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    pass


class Started(_Message, tag="started", frozen=True, kw_only=True):
    """The worker begins with the job: its process id and the version of its library."""

    pid: int
    version: str


class Log(_Message, tag="log", frozen=True, kw_only=True):
    """A line for the log; ``output`` is what a library printed."""

    level: LogLevel
    message: str


class Progressed(_Message, tag="progress", frozen=True, kw_only=True):
    """State of the run at work.

    Attributes:
        run: its number, from 0: of the size, or of the file of a batch.
        runs: number of runs of the job.
        stage: ``load`` (volume, pack, engine), ``preprocess``, ``windows``, ``restore`` or ``write``; the three in the
            middle with ``region-`` while the pack that finds the region is run.
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


class RunChanged(_Message, tag="run", frozen=True, kw_only=True):
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


class Complete(_Message, tag="result", frozen=True, kw_only=True):
    """The result's file is complete. Not passed on to the owner's caller."""


class Broken(_Message, tag="error", frozen=True, kw_only=True):
    """The worker gives up. Not passed on to the owner's caller.

    Attributes:
        kind: name of the error's class in :mod:`KDSegmentatorLib.errors`.
        message: for people.
    """

    kind: str
    message: str

    @classmethod
    def of(cls, error: KDSegmentatorError) -> Broken:
        """Return an error as a message."""
        return cls(kind=type(error).__name__, message=str(error))

    def error(self) -> KDSegmentatorError:
        """Return the error that it was."""
        known = getattr(errors, self.kind, None)
        if isinstance(known, type) and issubclass(known, KDSegmentatorError):
            return known(self.message)
        return JobError(self.message)


class FailedSize(msgspec.Struct, frozen=True, kw_only=True):
    """A size that could not be run, for example for want of memory, while another one could."""

    size: str
    error: KDSegmentatorError


class Segmented(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The end of a segmentation: at least one size has a result. Everything is in memory, the job's files are gone."""

    results: tuple[SizeResult, ...]
    failures: tuple[FailedSize, ...]


class BatchFile(msgspec.Struct, frozen=True, kw_only=True):
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


class BatchFinished(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a batch, also if files failed.

    Attributes:
        files: one entry an input, in the request's order.
        table: absolute path of the CSV table with the statistics of all of them.
    """

    files: tuple[BatchFile, ...]
    table: str


class SizeAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """What a size is expected to take; see :class:`KDSegmentatorLib.advice.Estimate`."""

    seconds: float
    loading_seconds: float
    memory_bytes: int
    measured: bool
    obstacle: str


class TaskAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """What a task means for the volume.

    Attributes:
        problem: why nothing can be said; empty if something can.
        sizes: what each takes.
        advised: the size that this computer's hardware suggests; empty if none.
        reason: for it, one sentence.
    """

    problem: str = ""
    sizes: dict[str, SizeAdvice] = {}
    advised: str = ""
    reason: str = ""


class Advised(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an :class:`AdviseRequest`: by task."""

    tasks: dict[str, TaskAdvice]


class Failed(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The end of a job without a result.

    Attributes:
        error: of the same class as in the worker (``InsufficientMemoryError``, ``EngineUnavailableError``, ...);
            ``JobError`` if the worker itself broke. ``str(error)`` is for people.
        log: the last lines of the log, for "Show details".
    """

    error: KDSegmentatorError
    log: tuple[str, ...]


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a job that was cancelled; of a batch, the finished files stay."""


End: TypeAlias = Segmented | BatchFinished | Advised | Failed | Cancelled
Event: TypeAlias = Started | Log | Progressed | RunChanged | End
Message: TypeAlias = Started | Log | Progressed | RunChanged | Complete | Broken


class _RequestFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    protocol: int
    request: AnyRequest


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A line to the worker's standard input.

    Attributes:
        folder: the job's, with the request in it; relative to the worker's working directory.
        stay: seconds to wait for another job afterwards.
    """

    folder: str
    stay: float = 0.0


def write_request(request: Request, folder: Path) -> None:
    """Write a request into a job's folder.

    Raises:
        JobError: a field has a value of another kind; the message names it.
        ImageWriteError: the file could not be written.
    """
    content = msgspec.json.encode({"protocol": PROTOCOL_VERSION, "request": request})
    _request(content, "the segmentation's settings")
    with atomic_output(folder / REQUEST_NAME) as unfinished:
        unfinished.write_bytes(content)


def read_request(folder: Path) -> AnyRequest:
    """Return the request in a job's folder.

    Raises:
        JobError: the file cannot be read, or is not a request of this version.
    """
    path = folder / REQUEST_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise JobError(f"{path} cannot be read ({error}); start the segmentation again") from error
    return _request(content, str(path))


def _request(content: bytes, where: str) -> AnyRequest:
    try:
        document = msgspec.json.decode(content)
        _check_protocol(document.get("protocol") if isinstance(document, dict) else None)
        return msgspec.json.decode(content, type=_RequestFile).request
    except msgspec.DecodeError as error:
        raise JobError(f"{where}: {error}") from None


def format_line(message: Message) -> bytes:
    """Return a message as it is written: on a line of its own, even after text without a line's end."""
    content = {"kdseg": PROTOCOL_VERSION, "message": msgspec.to_builtins(message)}
    return f"\n{json.dumps(content)}\n".encode("ascii")


def parse_line(line: str) -> Message | None:
    """Return the message of a line, the line itself as a log entry, or None for an empty one.

    Args:
        line: with or without its end.

    Raises:
        JobError: the worker speaks another version.
    """
    text = line.strip()
    if not text:
        return None
    other = Log(level="output", message=text)
    if not text.startswith("{"):
        return other
    try:
        content: Any = msgspec.json.decode(text)
        if not isinstance(content, dict) or "kdseg" not in content:
            return other
        _check_protocol(content["kdseg"])
        message: Message = msgspec.convert(content.get("message"), Message)
    except msgspec.DecodeError:
        return other
    return message


def _check_protocol(version: object) -> None:
    if version != PROTOCOL_VERSION:
        raise JobError(
            "two versions of KDSegmentator are mixed (it was probably updated just now): restart the application and "
            f"try again (protocol {version!r} instead of {PROTOCOL_VERSION})"
        )
