"""The way through the Segment box: from the user's choices to a job, and from its result into the scene."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from msgspec.structs import replace as with_fields

from KDSegmentatorLib.errors import InsufficientMemoryError, KDSegmentatorError
from KDSegmentatorLib.inference.segmentation import ResultWarning, RunRecord
from KDSegmentatorLib.jobs.messages import (
    Cancelled,
    Failed,
    Log,
    Progressed,
    Request,
    Segmented,
    SegmentRequest,
    Started,
)
from KDSegmentatorLib.jobs.run import SizeResult
from KDSegmentatorLib.mrml.label_maps import reference_volume
from KDSegmentatorLib.mrml.nodes import ATTRIBUTE_PREFIX
from KDSegmentatorLib.mrml.results import PlacedResult, place_result
from KDSegmentatorLib.mrml.slice_views import hide
from KDSegmentatorLib.mrml.volumes import check_scan, volume_from_node
from KDSegmentatorLib.packs.catalogue import Family
from KDSegmentatorPanel.ports import Background, Job, Jobs, Packs
from KDSegmentatorPanel.run_progress import RunProgress
from KDSegmentatorPanel.segment_view import Message, ProgressRow, Quality, SegmentView, State, about_size, done_message
from KDSegmentatorPanel.selection import Inputs, Selection, voxels_state
from KDSegmentatorPanel.surfaces import Surfaces
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import duration, for_people, in_words, volume_text

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

_LOG_LINES = 2000
_SHOWN_SECONDS = 0.5
"""How often the time that is left is said anew."""

_BAR = 1000
"""Steps of the progress bar."""

_SHUT_DOWN_SECONDS = 5.0
"""A cancelled worker is ended with all its processes after a second."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """One result of a run, in the scene; its voxels are there and nowhere else."""

    record: RunRecord
    nodes: PlacedResult
    times: list[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", _edit_times(self.nodes.segmentation))

    @property
    def edited(self) -> bool:
        """Whether somebody has drawn into it, or added or removed segments."""
        return self.times != _edit_times(self.nodes.segmentation)


@dataclass(kw_only=True, eq=False)
class _Run:
    """A run at work: what it was started with, whatever is chosen in the panel meanwhile."""

    job: Job
    request: SegmentRequest
    volume: vtkMRMLScalarVolumeNode
    voxels: object
    output: vtkMRMLSegmentationNode | None
    family: Family
    sizes: tuple[str, ...]
    surfaces: bool
    progress: RunProgress
    cancelled: bool = False
    volume_removed: bool = False


class SegmentPanel:
    """The state of the Segment box.

    Call :meth:`update` when the user chose something, :meth:`poll` from a timer, and show :meth:`view` after each.

    Args:
        packs: the packs of this machine.
        jobs: starts them.
        background: where volumes are looked at.
        surfaces: makes those of results.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        *,
        packs: Packs,
        jobs: Jobs,
        background: Background,
        surfaces: Surfaces,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._selection = Selection(packs=packs, jobs=jobs, background=background, clock=clock)
        self._jobs = jobs
        self._clock = clock
        self._shown = clock()
        self._run: _Run | None = None
        self._leaving: list[Job] = []
        self._surfaces = surfaces
        self._blocked = ""
        self._ended = State.READY
        self._message = Message()
        self._smaller: Quality | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._outcomes: tuple[Outcome, ...] = ()
        self._repeatable: dict[tuple[str, str, str], Outcome] = {}
        self.refresh()

    @property
    def state(self) -> State:
        """Where the panel is."""
        if self._run is not None:
            return State.CANCELLING if self._run.cancelled else State.RUNNING
        if self.problem:
            return State.NO_VOLUME
        return self._ended

    @property
    def problem(self) -> str:
        """Why nothing can be segmented now; empty if it can."""
        return self._selection.problem or self._blocked

    def block(self, reason: str) -> None:
        """Begin no run as long as there is a reason, such as a batch that needs the computer; empty for none."""
        self._blocked = reason

    @property
    def busy(self) -> bool:
        """Whether :meth:`poll` has to be called: a run is at work or being ended, or something is worked out."""
        return self._run is not None or self._selection.pending or bool(self._leaving) or bool(self._surfaces.text)

    @property
    def makes_surfaces(self) -> bool:
        """Whether surfaces are being made, which appear all at once."""
        return bool(self._surfaces.text)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The results of the last run that is done."""
        return self._outcomes

    @property
    def log(self) -> str:
        """What the last run said, for "Show log"."""
        return "\n".join(self._log)

    @property
    def family(self) -> Family | None:
        """The family that will be run; None if none is installed."""
        return self._selection.family

    @property
    def settings(self) -> Request | None:
        """How volumes are segmented with these choices; None if no pack is installed."""
        return self._selection.settings

    @property
    def obstacle(self) -> str:
        """Why nothing can be segmented, whatever the volume; empty if it can."""
        return self._selection.obstacle

    def refresh(self) -> None:
        """Look again which packs there are."""
        self._selection.refresh()

    def update(self, inputs: Inputs | None = None) -> None:
        """Take over what the user has chosen; None for nothing."""
        inputs = inputs or Inputs()
        before = self._selection.inputs
        if self._run is None and inputs.volume is not before.volume:
            self._ended, self._smaller = State.READY, None
            if inputs.volume is not None:  # else what happened to the volume or the scene would never be read
                self._message = Message()
        self._selection.update(inputs)

    def volume_changed(self) -> None:
        """Look again at the volume: its voxels, or the transforms that it is under, are other ones."""
        self._selection.consider_volume(anew=True)

    def overwritten(self) -> str:
        """Return the name of the segmentation that the next run will overwrite; empty if it overwrites nothing."""
        output = self._selection.inputs.output
        if output is None or output.GetSegmentation().GetNumberOfSegments() == 0:
            return ""
        return str(output.GetName())

    def segment(self, sizes: Sequence[str] = ()) -> None:
        """Start a run.

        Args:
            sizes: to run one after the other, each into a new segmentation; empty for the chosen one.
        """
        if self.state.at_work or self.state is State.NO_VOLUME:
            return
        inputs, family = self._selection.inputs, self.family
        volume = inputs.volume
        if family is None or volume is None:
            return
        self._message, self._smaller, self._outcomes = Message(), None, ()
        self._log.clear()
        try:
            check_scan(volume)
            scan = volume_from_node(volume)
            chosen = tuple(sizes) or (self._selection.size,)
            wanted = self._selection.settings_of(family)
            request = SegmentRequest(
                task=wanted.task,
                user_packs=wanted.user_packs,
                shipped_packs=wanted.shipped_packs,
                options=wanted.options,
                sizes=chosen,
            )
            warm, expected = self._jobs.warm, self._selection.seconds(chosen)
            job = self._jobs.segment(request, scan)
        except (KDSegmentatorError, MemoryError) as error:
            self._fail(for_people(in_words(error, _("to start, with a copy of the volume"))))
            return
        self._run = _Run(
            job=job,
            request=request,
            volume=volume,
            voxels=voxels_state(volume),
            output=None if sizes else inputs.output,
            family=family,
            sizes=chosen,
            surfaces=inputs.surfaces,
            progress=RunProgress(
                runs=len(chosen),
                chained=family.packs[0].manifest.region is not None and not request.options.region,
                warm=warm,
                expected=expected,
                clock=self._clock,
            ),
        )

    def make_surfaces(self, node: vtkMRMLSegmentationNode) -> None:
        """Begin to make the surfaces of a segmentation, which 3-D views then show."""
        self._surfaces.add([node])

    def cancel(self) -> None:
        """Stop the run; the end comes with a later :meth:`poll`."""
        if self._run is not None and not self._run.cancelled:
            self._run.cancelled = True
            self._run.job.cancel()

    def close(self, reason: str = "") -> None:
        """Stop and forget the run, because scene or module are being closed.

        Args:
            reason: shown if there was a run.
        """
        self._selection.forget_pending()
        self._surfaces.clear()
        self._outcomes, self._repeatable = (), {}
        self._ended, self._smaller, self._message = State.READY, None, Message()
        if self._run is not None:
            self._run.job.cancel()
            self._leaving.append(self._run.job)
            self._run = None
            self._message = Message(text=reason, level="warning")

    def shut_down(self) -> None:
        """Stop the run and wait until nothing is left of it, because nobody will call :meth:`poll` any more."""
        self.close()
        self._selection.shut_down()
        self._surfaces.shut_down()
        for job in self._leaving:
            job.wait(_SHUT_DOWN_SECONDS)
        self._leaving = []

    def poll(self) -> bool:
        """Take over what happened in the background.

        Returns:
            Whether there is something new to show.
        """
        changed = self._selection.poll()
        if self._surfaces.text:
            changed = True
            problem = self._surfaces.poll()
            if problem:
                self._log.append(problem)
                self._message = Message(text=problem, level="warning")
        self._leaving = [job for job in self._leaving if job.running]
        run = self._run
        if run is None:
            return changed
        if self._clock() - self._shown >= _SHOWN_SECONDS:  # the time that is left
            self._shown, changed = self._clock(), True
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
                run.progress.take(event)
            elif isinstance(event, Segmented):
                self._run = None
                self._place(run, event)
                self._selection.ran(run.request, run.sizes)
            elif isinstance(event, Failed):
                self._run = None
                self._take_failure(run, event.error)
            elif isinstance(event, Cancelled):
                self._run = None
                self._take_cancellation(run)
        return changed

    def view(self) -> SegmentView:
        """Return what the box shows."""
        selection, state = self._selection, self.state
        message = self._message
        if not message.text and selection.failure:
            message = Message(text=selection.failure, level="warning")
        if self._surfaces.text:
            message = replace(message, text=f"{message.text} {self._surfaces.text}".strip())
        return SegmentView(
            state=state,
            volume=volume_text(selection.inputs.volume),
            tasks=selection.task_cards(),
            task="" if selection.family is None else selection.family.task,
            qualities=selection.qualities(),
            size=selection.size,
            labels=selection.label_rows(),
            chained=selection.family is not None and selection.family.packs[0].manifest.region is not None,
            progress=ProgressRow() if self._run is None else _row(self._run),
            what=self.problem or selection.what,
            message=message,
            smaller=self._smaller,
        )

    def _place(self, run: _Run, event: Segmented) -> None:
        """Put the results into the scene."""
        if run.voxels != voxels_state(run.volume):
            event = with_fields(event, results=tuple(_of_other_voxels(result) for result in event.results))
        output = run.output if run.output is not None and run.output.GetScene() is not None else None
        unit = "HU" if run.family.packs[0].manifest.modality == "CT" else ""
        outcomes: list[Outcome] = []
        try:
            for result in event.results:
                into = output if len(run.sizes) == 1 else self._repeated(run, result)
                nodes = place_result(result.segmentation, result.statistics, run.volume, into=into, intensity_unit=unit)
                outcomes.append(Outcome(record=result.segmentation.record, nodes=nodes))
                self._log.append(about_size(result))
        except (KDSegmentatorError, MemoryError) as error:
            self._outcomes = tuple(outcomes)
            self._fail(for_people(in_words(error, _("to put the result into the scene"))))
            return
        self._outcomes = tuple(outcomes)
        if len(run.sizes) > 1:
            self._repeatable |= {_repeat_key(run, each.record.size): each for each in outcomes}
        _hide_others(outcomes[-1].nodes.segmentation, run.volume)
        if run.surfaces:
            self._surfaces.add(outcome.nodes.segmentation for outcome in outcomes)
        self._ended = State.DONE
        self._message = done_message(event)

    def _repeated(self, run: _Run, result: SizeResult) -> vtkMRMLSegmentationNode | None:
        """Return what an earlier comparison of all sizes made here with this size, unless somebody has edited it."""
        before = self._repeatable.get(_repeat_key(run, result.segmentation.record.size))
        if before is None or before.edited or before.nodes.segmentation.GetScene() is None:
            return None
        return before.nodes.segmentation

    def _take_failure(self, run: _Run, error: KDSegmentatorError) -> None:
        self._fail(for_people(error))
        if isinstance(error, InsufficientMemoryError):
            sizes = [pack.manifest.size for pack in run.family.packs]
            last = max((sizes.index(size) for size in run.sizes if size in sizes), default=len(sizes))
            smaller = sizes[last + 1] if last + 1 < len(sizes) else ""
            self._smaller = next((each for each in self._selection.qualities() if each.size == smaller), None)

    def _take_cancellation(self, run: _Run) -> None:
        self._ended = State.READY
        if run.volume_removed:
            self._fail(_("The volume was removed during the run. Load it and segment again."))
        else:
            self._message = Message(text=_("Cancelled. The scene was not changed."))

    def _fail(self, text: str) -> None:
        self._ended = State.FAILED
        self._message = Message(text=text, level="error")


def _row(run: _Run) -> ProgressRow:
    """Return the bar and the time that is left."""
    if run.cancelled:
        return ProgressRow(text=_("cancelling"))
    share = round(run.progress.share * _BAR)
    left = run.progress.seconds_left()
    if left is None:
        return ProgressRow(done=share, total=_BAR, text=_("at work"))
    text = _("almost done") if left < 1 else _("about {time} left").format(time=duration(left))
    return ProgressRow(done=share, total=_BAR, text=text)


def _edit_times(node: vtkMRMLSegmentationNode) -> list[int]:
    """Return when the voxels of each segment were last changed."""
    segments = node.GetSegmentation()
    maps = (
        segments.GetNthSegment(number).GetRepresentation(segments.GetSourceRepresentationName())
        for number in range(segments.GetNumberOfSegments())
    )
    return [0 if each is None else int(each.GetMTime()) for each in maps]


def _repeat_key(run: _Run, size: str) -> tuple[str, str, str]:
    return str(run.volume.GetID()), run.family.task, size


def _of_other_voxels(result: SizeResult) -> SizeResult:
    """Return a result with the warning, before all others, that the volume shows something else by now."""
    record = result.segmentation.record
    sentence = _(
        "The voxels of the volume changed during the run (another time point of a sequence, or an edit): this result "
        "belongs to the volume as it was at the start. Segment again for what is shown now."
    )
    warning = ResultWarning(kind="input", pack_id=record.pack_id, sentence=sentence)
    segmentation = replace(result.segmentation, record=replace(record, warnings=(warning, *record.warnings)))
    return with_fields(result, segmentation=segmentation)


def _hide_others(shown: vtkMRMLSegmentationNode, volume: vtkMRMLScalarVolumeNode) -> None:
    """Hide the other results of a volume, which would lie opaque over this one."""
    scene = volume.GetScene()
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        node = scene.GetNthNodeByClass(number, "vtkMRMLSegmentationNode")
        own = node.GetAttribute(f"{ATTRIBUTE_PREFIX}pack_id") is not None
        if own and node is not shown and reference_volume(node) is volume:
            hide(node)
    display = shown.GetDisplayNode()
    if display is not None:
        display.SetVisibility(True)
