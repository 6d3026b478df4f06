"""The way through the Batch box: a folder of volumes, one after the other, with one student."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.jobs.batch_files import find_scans
from KDSegmentatorLib.jobs.messages import (
    BatchFinished,
    BatchRequest,
    Cancelled,
    Failed,
    Log,
    Progressed,
    RunChanged,
    RunState,
)
from KDSegmentatorPanel.ports import Background, Choices, Job, Pending, StartBatch
from KDSegmentatorPanel.segment_view import Message, ProgressRow
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import for_people, in_words, progress

_LOG_LINES = 2000
_MOST_DETAILS = 6
SETTLE_SECONDS = 0.3
"""How long folders and pattern have to stay as they are before files are looked for: somebody may be typing."""

_SHUT_DOWN_SECONDS = 5.0
"""A cancelled worker is ended with all its processes after a second."""


@dataclass(frozen=True, kw_only=True)
class BatchInputs:
    """What the user has chosen.

    Attributes:
        input_folder: with the volumes; empty if none is chosen.
        output_folder: for the results; empty if none is chosen.
        pattern: which files, as in ``Path.glob``.
        resume: leave out the files that have a result already.
    """

    input_folder: str = ""
    output_folder: str = ""
    pattern: str = "*"
    resume: bool = True

    @classmethod
    def of(cls, parameters: Any) -> BatchInputs:
        """Return the choices in a ``KDSegmentatorParameterNode``."""
        return cls(
            input_folder=parameters.batchInputFolder,
            output_folder=parameters.batchOutputFolder,
            pattern=parameters.batchPattern,
            resume=parameters.batchResume,
        )


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """A file of the batch: its name, what it is at, and why it failed or what its warnings are."""

    name: str
    state: str
    message: str


@dataclass(frozen=True, kw_only=True)
class BatchView:
    """All of the Batch box.

    Attributes:
        running: whether a batch is at work: the button cancels it.
        enabled: whether the button can be pressed.
        reason: what the button does, or why it cannot be pressed.
        what: with what the files will be segmented, one sentence.
        rows: the files.
        current: number of the file at work, -1 if none is.
        progress: of the batch, counted in files.
        details: why files failed, and what to look at before results are used, one line a file.
        message: how it ended.
        table: path of the table with all statistics; empty if there is none.
    """

    running: bool
    enabled: bool
    reason: str
    what: str
    rows: tuple[FileRow, ...]
    current: int
    progress: ProgressRow
    details: tuple[str, ...]
    message: Message
    table: str


@dataclass(kw_only=True, eq=False)
class _Batch:
    """A batch at work."""

    job: Job
    states: dict[str, tuple[RunState, str]] = field(default_factory=dict)
    names: tuple[str, ...]
    current: int = -1
    progress: ProgressRow
    cancelled: bool = False


class BatchPanel:
    """The state of the Batch box.

    Args:
        start: starts the job.
        choices: of the Segment box, asked whenever they are needed: they change without the user, too.
        background: where files are looked for, which takes its time in a large folder on a slow disk.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        start: StartBatch,
        choices: Choices,
        background: Background,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._choices = choices
        self._background = background
        self._clock = clock
        self._due: float | None = None
        self._looking: Pending[tuple[str, ...]] | None = None
        self._inputs = BatchInputs()
        self._batch: _Batch | None = None
        self._leaving: list[Job] = []
        self._found: tuple[str, ...] = ()
        self._problem = _("Choose the folder with the volumes.")
        self._ended: dict[str, tuple[RunState, str]] = {}
        self._message = Message()
        self._table = ""
        self._blocked = ""
        self._log: deque[str] = deque(maxlen=_LOG_LINES)

    @property
    def busy(self) -> bool:
        """Whether :meth:`poll` has to be called: a batch is at work or being ended, or files are looked for."""
        looking = self._due is not None or self._looking is not None
        return self._batch is not None or bool(self._leaving) or looking

    @property
    def running(self) -> bool:
        """Whether a batch is at work."""
        return self._batch is not None

    def block(self, reason: str) -> None:
        """Start no batch as long as there is a reason, such as a run of the Segment box; empty for none."""
        self._blocked = reason

    @property
    def log(self) -> str:
        """What the last batch said."""
        return "\n".join(self._log)

    def update(self, inputs: BatchInputs) -> None:
        """Take over what the user has chosen; files are looked for if the folders or the pattern are other ones."""
        before, self._inputs = self._inputs, inputs
        if _place(before) != _place(inputs):
            self._forget_files()
            if inputs.input_folder:
                self._due = self._clock() + SETTLE_SECONDS

    def start(self) -> None:
        """Start the batch."""
        if self._batch is not None:
            return
        self._forget_files()
        self._take(lambda: _found(self._inputs))  # files may have come or gone
        inputs, settings = self._inputs, self._choices.settings
        if self._obstacle() or settings is None:
            return
        self._message, self._table, self._ended = Message(), "", {}
        self._log.clear()
        request = BatchRequest(
            task=settings.task,
            user_packs=settings.user_packs,
            shipped_packs=settings.shipped_packs,
            options=settings.options,
            input_folder=str(Path(inputs.input_folder).absolute()),
            inputs=self._found,
            output_folder=str(Path(inputs.output_folder).absolute()),
            resume=inputs.resume,
        )
        try:
            job = self._start(request)
        except (KDSegmentatorError, MemoryError) as error:
            self._message = Message(text=for_people(in_words(error, _("to start"))), level="error")
            return
        self._batch = _Batch(job=job, names=self._found, progress=ProgressRow(total=0, text=_("starting")))

    def cancel(self) -> None:
        """Stop after the file at work; finished files stay, and the next start goes on from there."""
        if self._batch is not None and not self._batch.cancelled:
            self._batch.cancelled = True
            self._batch.job.cancel()

    def close(self) -> None:
        """Stop and forget the batch, because the module is being closed."""
        if self._batch is not None:
            self._batch.job.cancel()
            self._leaving.append(self._batch.job)
            self._batch = None

    def shut_down(self) -> None:
        """Stop the batch and wait until nothing is left of it, because nobody will call :meth:`poll` any more."""
        self.close()
        self._forget_files()
        self._background.close()
        for job in self._leaving:
            job.wait(_SHUT_DOWN_SECONDS)
        self._leaving = []

    def poll(self) -> bool:
        """Take over what happened in the background; return whether there is something new to show."""
        self._leaving = [job for job in self._leaving if job.running]
        found = self._poll_files()
        batch = self._batch
        if batch is None:
            return found
        events = batch.job.poll()
        for event in events:
            if isinstance(event, Log):
                self._log.append(event.message)
            elif isinstance(event, RunChanged):
                batch.states[event.name] = (event.state, event.message)
                batch.current = event.run
            elif isinstance(event, Progressed):
                text = _("file {number} of {count} · {what}").format(
                    number=event.run + 1, count=event.runs, what=progress(event)
                )
                batch.progress = ProgressRow(done=event.run, total=event.runs, text=text)
            elif isinstance(event, (BatchFinished, Failed, Cancelled)):
                self._batch = None
                self._ended = {name: state for name, state in batch.states.items() if state[0] != "running"}
                self._end(event)
        return bool(events) or found

    def view(self) -> BatchView:
        """Return what the box shows."""
        batch = self._batch
        obstacle = self._obstacle()
        if batch is not None:
            reason = _("Stop. Finished files stay, and the next start goes on from there.")
        else:
            reason = obstacle or _("Segment {count} files.").format(count=len(self._found))
        states = self._ended if batch is None else batch.states
        names = self._found if batch is None else batch.names
        return BatchView(
            running=batch is not None,
            enabled=not batch.cancelled if batch is not None else not obstacle,
            reason=reason,
            what=self._what(),
            rows=tuple(_row(name, states.get(name)) for name in names),
            current=-1 if batch is None else batch.current,
            progress=ProgressRow() if batch is None else batch.progress,
            details=_details(states),
            message=self._message,
            table=self._table,
        )

    def _what(self) -> str:
        settings = self._choices.settings
        if settings is None:
            return ""
        return _("Task {task}, {size}, with the labels and options of the Segment box.").format(
            task=settings.task, size=settings.options.size
        )

    def _obstacle(self) -> str:
        return self._choices.obstacle or self._problem or self._blocked

    def _forget_files(self) -> None:
        """Know of no files, and do not wait for any."""
        self._due = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._found = ()
        chosen = bool(self._inputs.input_folder)
        self._problem = _("Looking for volumes …") if chosen else _("Choose the folder with the volumes.")
        if self._batch is None:
            self._ended, self._message, self._table = {}, Message(), ""

    def _poll_files(self) -> bool:
        if self._due is not None and self._clock() >= self._due:
            self._due = None
            inputs = self._inputs
            self._looking = self._background.submit(lambda: _found(inputs))
        if self._looking is None or not self._looking.done():
            return False
        looking, self._looking = self._looking, None
        self._take(looking.result)
        return True

    def _take(self, found: Callable[[], tuple[str, ...]]) -> None:
        """Take over the files, or say what is wrong with the folders."""
        if not self._inputs.input_folder:
            return
        try:
            self._found, self._problem = found(), ""
        except Exception as error:
            self._problem = for_people(in_words(error, _("to look for volumes")))
            return
        if not self._found:
            self._problem = _("The folder has no volumes (.nii.gz, .nii, .nrrd, .mha) that fit the pattern.")
        elif not self._inputs.output_folder:
            self._problem = _("Choose the folder for the results.")

    def _end(self, event: BatchFinished | Failed | Cancelled) -> None:
        if isinstance(event, Failed):
            self._message = Message(text=for_people(event.error), level="error")
        elif isinstance(event, Cancelled):
            self._message = Message(text=_("Cancelled. Finished files stay; start again to go on."))
        else:
            self._table = event.table
            self._ended = {file.input: (file.state, file.message) for file in event.files}
            states = ("done", "skipped", "failed")
            counts = {state: sum(file.state == state for file in event.files) for state in states}
            text = _("{done} done, {skipped} done before, {failed} failed. Statistics: {table}").format(
                table=event.table, **counts
            )
            warned = sum(bool(file.message) for file in event.files if file.state != "failed")
            about_warnings = _("{count} with warnings: look at these results before you use them.").format(count=warned)
            self._message = Message(
                text=f"{text} {about_warnings}" if warned else text,
                level="warning" if counts["failed"] or warned else "information",
            )


def _place(inputs: BatchInputs) -> tuple[str, str, str]:
    return inputs.input_folder, inputs.output_folder, inputs.pattern


def _found(inputs: BatchInputs) -> tuple[str, ...]:
    output = Path(inputs.output_folder) if inputs.output_folder else None
    return find_scans(Path(inputs.input_folder), inputs.pattern or "*", output)


def _details(states: Mapping[str, tuple[RunState, str]]) -> tuple[str, ...]:
    """Return what the files have to say, failures first; of many the first ones."""
    told = [(name, *state) for name, state in states.items() if state[1]]
    told.sort(key=lambda each: each[1] != "failed")
    lines = [f"{name}: {message[:1].upper()}{message[1:]}" for name, _state, message in told[:_MOST_DETAILS]]
    if len(told) > _MOST_DETAILS:
        lines.append(_("and {count} more: point at a file in the table.").format(count=len(told) - _MOST_DETAILS))
    return tuple(lines)


def _row(name: str, state: tuple[RunState, str] | None) -> FileRow:
    if state is None:
        return FileRow(name=name, state=_("waiting"), message="")
    texts: dict[RunState, str] = {
        "running": _("at work"),
        "done": _("done"),
        "skipped": _("done before"),
        "failed": _("failed"),
    }
    text = texts[state[0]]
    if state[1] and state[0] in ("done", "skipped"):
        text = _("{state}, with warnings").format(state=text)
    return FileRow(name=name, state=text, message=state[1])
