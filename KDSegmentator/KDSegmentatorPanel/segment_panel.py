"""The way through the Segment box: from the user's choices to a job, and from its result into the scene."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from KDSegmentatorLib.advisor.selection import AUTOMATIC
from KDSegmentatorLib.errors import EngineUnavailableError, InsufficientMemoryError, KDSegmentatorError
from KDSegmentatorLib.jobs.events import Cancelled, Failed, Log, Progressed, Segmented, SizeResult, Started
from KDSegmentatorLib.jobs.request import SegmentRequest, Settings
from KDSegmentatorLib.mrml.results import PlacedResult, place_result
from KDSegmentatorLib.mrml.volumes import check_scan, volume_from_node
from KDSegmentatorLib.packs.catalogue import Family, families
from KDSegmentatorPanel.assessment import Assessment, TaskAssessment
from KDSegmentatorPanel.choices import Inputs
from KDSegmentatorPanel.estimation import Question
from KDSegmentatorPanel.outline import Outline
from KDSegmentatorPanel.ports import Assess, Background, Job, Packages, Packs, Pending, StartSegmentation
from KDSegmentatorPanel.segment_view import Message, ProgressRow, SegmentView, label_rows, size_rows, task_rows
from KDSegmentatorPanel.state import State, controls
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import duration, for_people, progress

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

_LOG_LINES = 2000
_SHUT_DOWN_SECONDS = 5.0
"""A cancelled worker is ended with all its processes after a second."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """One result of a run, in the scene."""

    result: SizeResult
    nodes: PlacedResult


@dataclass(kw_only=True, eq=False)
class _Run:
    """A run at work: what it was started with, whatever is chosen in the panel meanwhile."""

    job: Job
    volume: vtkMRMLScalarVolumeNode
    output: vtkMRMLSegmentationNode | None
    family: Family
    sizes: tuple[str, ...]
    surfaces: bool
    progress: ProgressRow
    cancelled: bool = False
    volume_removed: bool = False


class SegmentPanel:
    """The state of the Segment box.

    Call :meth:`update` when the user chose something, :meth:`poll` from a timer, and show :meth:`view` after each.

    Args:
        packs: the packs of this machine.
        start: starts the job.
        assess: tells what fits a volume; run in the background.
        background: where it runs.
        packages: the engines' packages.
    """

    def __init__(
        self, *, packs: Packs, start: StartSegmentation, assess: Assess, background: Background, packages: Packages
    ) -> None:
        self._packs = packs
        self._start = start
        self._assess = assess
        self._background = background
        self._packages = packages
        self._inputs = Inputs()
        self._run: _Run | None = None
        self._leaving: list[Job] = []
        self._ended = State.READY
        self._message = Message()
        self._smaller = ""
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._outcomes: tuple[Outcome, ...] = ()
        self._volume_problem = ""
        self._assessment: Assessment = {}
        self._pending: Pending[Assessment] | None = None
        self._families: tuple[Family, ...] = ()
        self._missing: tuple[str, ...] = ()
        self.refresh()

    @property
    def state(self) -> State:
        """Where the panel is."""
        if self._run is not None:
            return State.CANCELLING if self._run.cancelled else State.RUNNING
        if self._problem():
            return State.NO_VOLUME
        return State.PACKAGES_MISSING if self._missing else self._ended

    @property
    def busy(self) -> bool:
        """Whether :meth:`poll` has to be called: a run is at work or being ended, or estimates are worked out."""
        return self._run is not None or self._pending is not None or bool(self._leaving)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The results of the last run that is done."""
        return self._outcomes

    @property
    def log(self) -> str:
        """What the last run said, for "Show log"."""
        return "\n".join(self._log)

    @property
    def packages_missing(self) -> tuple[str, ...]:
        """What has to be installed before anything can run; empty if an engine is there."""
        return self._missing

    @property
    def families(self) -> tuple[Family, ...]:
        """The installed families."""
        return self._families

    @property
    def family(self) -> Family | None:
        """The family that will be run; None if none is installed."""
        for family in self._families:
            if family.task == self._inputs.task:
                return family
        fitting = (each for each in self._families if not self._assessed(each).problem)
        return next(fitting, self._families[0] if self._families else None)

    @property
    def size(self) -> str:
        """The size that will be run: the chosen one, else the advised one, else the smallest; empty without a pack."""
        family = self.family
        if family is None:
            return ""
        sizes = [pack.manifest.size for pack in family.packs]
        if self._inputs.size in sizes:
            return self._inputs.size
        return self._assessed(family).advised or sizes[-1]

    @property
    def settings(self) -> Settings | None:
        """How volumes are segmented with these choices; None if no pack is installed."""
        return None if self.family is None else self._settings(self.family)

    @property
    def obstacle(self) -> str:
        """Why nothing can be segmented, whatever the volume; empty if it can."""
        family = self.family
        if family is None:
            return self._problem()
        if self._missing:
            return self._missing_text()
        return self._label_problem(family)

    def refresh(self) -> None:
        """Look again which packs and packages there are."""
        self._families = tuple(families(self._packs.packs()))
        self._missing = self._packages.missing()
        self._consider_volume()

    def update(self, inputs: Inputs) -> None:
        """Take over what the user has chosen."""
        before, self._inputs = self._inputs, inputs
        if inputs == before:
            return
        if self._run is None and inputs.volume is not before.volume:
            self._ended, self._message, self._smaller = State.READY, Message(), ""
        if _basis(inputs) != _basis(before):
            self._consider_volume()

    def volume_changed(self) -> None:
        """Look again at the volume: its voxels, or the transforms that it is under, are other ones."""
        self._consider_volume()

    def overwritten(self) -> str:
        """Return the name of the segmentation that the next run will overwrite; empty if it overwrites nothing."""
        output = self._inputs.output
        if output is None or output.GetSegmentation().GetNumberOfSegments() == 0:
            return ""
        return str(output.GetName())

    def segment(self, sizes: Sequence[str] = ()) -> None:
        """Start a run.

        Args:
            sizes: to run one after the other, each into a new segmentation; empty for the chosen one.
        """
        if self.state in (State.RUNNING, State.CANCELLING, State.NO_VOLUME, State.PACKAGES_MISSING):
            return
        family, volume = self.family, self._inputs.volume
        if family is None or volume is None:
            return
        self._message, self._smaller, self._outcomes = Message(), "", ()
        self._log.clear()
        try:
            check_scan(volume)
            scan = volume_from_node(volume)
        except KDSegmentatorError as error:
            self._fail(for_people(error))
            return
        # without a choice and before the estimates are there, the worker finds out which size is advised
        own = AUTOMATIC if self._pending is not None and not self._inputs.size else self.size
        chosen = tuple(sizes) or (own,)
        self._run = _Run(
            job=self._start(SegmentRequest(settings=self._settings(family), sizes=chosen), scan),
            volume=volume,
            output=None if sizes else self._inputs.output,
            family=family,
            sizes=chosen,
            surfaces=self._inputs.surfaces,
            progress=ProgressRow(text=_("starting")),
        )

    def cancel(self) -> None:
        """Stop the run; the end comes with a later :meth:`poll`."""
        if self._run is not None and not self._run.cancelled:
            self._run.cancelled = True
            self._run.progress = ProgressRow(text=_("cancelling"))
            self._run.job.cancel()

    def close(self, reason: str = "") -> None:
        """Stop and forget the run, because scene or module are being closed.

        Args:
            reason: shown if there was a run.
        """
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        self._outcomes = ()
        self._ended, self._smaller, self._message = State.READY, "", Message()
        if self._run is not None:
            self._run.job.cancel()
            self._leaving.append(self._run.job)
            self._run = None
            self._message = Message(text=reason, level="warning")

    def shut_down(self) -> None:
        """Stop the run and wait until nothing is left of it, because nobody will call :meth:`poll` any more."""
        self.close()
        for job in self._leaving:
            job.wait(_SHUT_DOWN_SECONDS)
        self._leaving = []

    def install_packages(self, wheel_folder: Path | None = None) -> None:
        """Install the engines' packages; blocks, and asks the user.

        Args:
            wheel_folder: with wheels, for machines without internet; None for the package index.
        """
        try:
            self._packages.install(wheel_folder)
        except KDSegmentatorError as error:
            self._message = Message(text=for_people(error), level="error")
        else:
            self._message = Message()
        self._missing = self._packages.missing()

    def poll(self) -> bool:
        """Take over what happened in the background.

        Returns:
            Whether there is something new to show.
        """
        changed = self._poll_assessment()
        self._leaving = [job for job in self._leaving if job.running]
        run = self._run
        if run is None:
            return changed
        if run.volume.GetScene() is None and not run.volume_removed:
            run.volume_removed = True
            self.cancel()
            changed = True
        for event in run.job.poll():
            changed = True
            if isinstance(event, Log):
                self._log.append(event.message)
            elif isinstance(event, Started):
                self._log.append(_("worker {pid}, library {version}").format(pid=event.pid, version=event.version))
            elif isinstance(event, Progressed):
                if not run.cancelled:
                    total = 0 if event.stage == "load" else event.total
                    run.progress = ProgressRow(done=event.done, total=total, text=progress(event))
            elif isinstance(event, Segmented):
                self._run = None
                self._place(run, event)
            elif isinstance(event, Failed):
                self._run = None
                self._take_failure(run, event.error)
            elif isinstance(event, Cancelled):
                self._run = None
                self._take_cancellation(run)
        return changed

    def view(self) -> SegmentView:
        """Return what the box shows."""
        family = self.family
        state = self.state
        problem = self._problem()
        if state is State.PACKAGES_MISSING:
            problem = self._missing_text()
        message = self._message
        if not message.text and state in (State.NO_VOLUME, State.PACKAGES_MISSING):
            message = Message(text=problem)
        return SegmentView(
            controls=controls(state, problem),
            tasks=task_rows(self._families, self._assessment),
            task="" if family is None else family.task,
            sizes=() if family is None else size_rows(family, self._assessment.get(family.task)),
            size=self.size,
            labels=() if family is None else label_rows(family, self._inputs.left_out),
            progress=ProgressRow() if self._run is None else self._run.progress,
            message=message,
            smaller=self._smaller,
        )

    def _problem(self) -> str:
        """Return why nothing can be segmented; empty if it can."""
        family = self.family
        if family is None:
            damaged = [f"{pack.id}: {for_people(pack.error)}" for pack in self._packs.damaged()]
            return " ".join([_("No pack is installed. Install one under Packs."), *damaged])
        if self._volume_problem:
            return self._volume_problem
        if problem := self._assessed(family).problem:
            return problem
        return self._label_problem(family)

    def _label_problem(self, family: Family) -> str:
        if not any(row.kept for row in label_rows(family, self._inputs.left_out)):
            return _("No structure is chosen. Choose at least one under Labels.")
        return ""

    def _missing_text(self) -> str:
        return _("Install the missing packages first: {packages}.").format(packages=", ".join(self._missing))

    def _consider_volume(self) -> None:
        """Check the volume, and have it assessed in the background."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        self._assessment = {}
        self._volume_problem = ""
        if self._inputs.volume is None:
            self._volume_problem = _("Choose a volume.")
            return
        try:
            check_scan(self._inputs.volume)
            volume = volume_from_node(self._inputs.volume)
        except KDSegmentatorError as error:
            self._volume_problem = for_people(error)
            return
        inputs, installed = self._inputs, self._families
        self._pending = self._background.submit(
            lambda: self._assess(
                volume,
                installed,
                lambda outline, tasks: self._question(inputs, outline, tasks),
                check_intensities=inputs.check_intensities,
            )
        )

    def _question(self, inputs: Inputs, outline: Outline, tasks: tuple[str, ...]) -> Question:
        return Question(
            outline=outline,
            tasks=tasks,
            user_packs=str(self._packs.user_folder),
            shipped_packs=str(self._packs.shipped_folder),
            engine=inputs.engine.value,
            precision=inputs.precision.value,
            threads=inputs.threads or None,
            mirroring=inputs.mirroring,
            entropy=inputs.entropy,
        )

    def _poll_assessment(self) -> bool:
        pending = self._pending
        if pending is None or not pending.done():
            return False
        self._pending = None
        try:
            self._assessment = pending.result()
        except MemoryError:  # a run may still fit: it takes its copy in another process
            self._log.append(_("There is not enough memory for estimates."))
        return True

    def _assessed(self, family: Family) -> TaskAssessment:
        return self._assessment.get(family.task, TaskAssessment(estimates={}))

    def _settings(self, family: Family) -> Settings:
        inputs = self._inputs
        rows = label_rows(family, inputs.left_out)
        kept = tuple(row.name for row in rows if row.kept)
        return Settings(
            task=family.task,
            user_packs=str(self._packs.user_folder),
            shipped_packs=str(self._packs.shipped_folder),
            engine=inputs.engine.value,
            precision=inputs.precision.value,
            threads=inputs.threads or None,
            mirroring=inputs.mirroring,
            labels=None if len(kept) == len(rows) else kept,
            entropy=inputs.entropy,
            check_modality=inputs.check_intensities,
        )

    def _place(self, run: _Run, event: Segmented) -> None:
        """Put the results into the scene."""
        output = run.output if run.output is not None and run.output.GetScene() is not None else None
        unit = "HU" if run.family.packs[0].manifest.modality == "CT" else ""
        outcomes: list[Outcome] = []
        try:
            for result in event.results:
                nodes = place_result(
                    result.segmentation, result.statistics, run.volume, into=output, intensity_unit=unit
                )
                outcomes.append(Outcome(result=result, nodes=nodes))
                self._log.append(_about(result))
        except KDSegmentatorError as error:
            self._outcomes = tuple(outcomes)
            self._fail(for_people(error))
            return
        self._outcomes = tuple(outcomes)
        if run.surfaces:
            for outcome in outcomes:
                outcome.nodes.segmentation.CreateClosedSurfaceRepresentation()
        self._ended = State.DONE
        self._message = _done_message(event)

    def _take_failure(self, run: _Run, error: KDSegmentatorError) -> None:
        if isinstance(error, EngineUnavailableError):
            self._missing = self._packages.missing()
        self._fail(for_people(error))
        if isinstance(error, InsufficientMemoryError):
            sizes = [pack.manifest.size for pack in run.family.packs]
            last = max((sizes.index(size) for size in run.sizes if size in sizes), default=len(sizes))
            self._smaller = sizes[last + 1] if last + 1 < len(sizes) else ""

    def _take_cancellation(self, run: _Run) -> None:
        self._ended = State.READY
        if run.volume_removed:
            self._fail(_("The volume was removed during the run. Load it and segment again."))
        else:
            self._message = Message(text=_("Cancelled. The scene was not changed."))

    def _fail(self, text: str) -> None:
        self._ended = State.FAILED
        self._message = Message(text=text, level="error")


def _basis(inputs: Inputs) -> tuple[object, ...]:
    """Return the choices that decide which tasks fit and how long a run takes."""
    engine = (inputs.engine, inputs.precision, inputs.threads)
    return inputs.volume, *engine, inputs.mirroring, inputs.entropy, inputs.check_intensities


def _about(result: SizeResult) -> str:
    record = result.segmentation.record
    reasons = ". ".join(reason for reason in (result.size_reason, result.engine_reason) if reason)
    return _("{size}: {seconds} s with {engine} {precision} on {device}. {reasons}").format(
        size=record.size,
        seconds=f"{record.seconds['total']:.1f}",
        engine=record.engine,
        precision=record.precision,
        device=record.device,
        reasons=reasons,
    )


def _done_message(event: Segmented) -> Message:
    """Return what the user has to know about the results: times, sizes that failed, structures that are missing."""
    parts = [
        _("{size}: done in {time}.").format(
            size=result.segmentation.record.size, time=duration(result.segmentation.record.seconds["total"])
        )
        for result in event.results
    ]
    problems = [
        _("{size} failed: {reason}").format(size=failure.size, reason=for_people(failure.error))
        for failure in event.failures
    ]
    for result in event.results:
        absent = [row.name for row in result.statistics if row.voxels == 0]
        if absent:
            problems.append(
                _("{size} did not find: {names}. Look at the volume's field of view.").format(
                    size=result.segmentation.record.size, names=", ".join(absent)
                )
            )
    return Message(text=" ".join(parts + problems), level="warning" if problems else "information")
