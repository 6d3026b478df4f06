"""What can be segmented with the user's choices: the packs that there are, the volume, and what they mean together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace as with_fields

from KDSegmentatorLib.advice import PROGRAM_SECONDS
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.jobs.messages import Advised, AdviseRequest, Cancelled, Failed, Request, Started, TaskAdvice
from KDSegmentatorLib.mrml.grids import world_to_lps
from KDSegmentatorLib.mrml.volumes import check_scan, volume_from_node
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.catalogue import Family, families, recommended
from KDSegmentatorPanel.assessment import Assessment, CheckedVolume, assess, check, with_advice
from KDSegmentatorPanel.ports import Background, Job, Jobs, Packs, Pending
from KDSegmentatorPanel.segment_view import LabelRow, Quality, TaskCard, label_rows, qualities, structures, task_cards
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import duration, for_people, in_words

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

LONGEST_SECONDS = 60.0
"""For an answer; the first one on a computer takes some seconds, because its speed is measured."""

_SHUT_DOWN_SECONDS = 5.0

SETTLE_SECONDS = 0.3
"""How long the options have to stay as they are before the estimates are asked for: it takes a worker's time."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the user has chosen.

    Attributes:
        volume: the scan.
        task: the family of packs; empty for the most useful one that fits the volume.
        options: how to segment; without a size, the one that the task recommends. Labels are in ``left_out``.
        output: the segmentation to put the result into; None makes a new one.
        left_out: names of the structures that are not wanted, of any task.
        surfaces: show the result in 3-D.
    """

    volume: vtkMRMLScalarVolumeNode | None = None
    task: str = ""
    options: RunOptions = field(default_factory=RunOptions)
    output: vtkMRMLSegmentationNode | None = None
    left_out: frozenset[str] = frozenset()
    surfaces: bool = False

    @classmethod
    def of(cls, parameters: Any) -> Inputs:
        """Return the choices in a ``KDSegmentatorParameterNode``."""
        chosen = parameters.options
        return cls(
            volume=parameters.inputVolume,
            task=parameters.task,
            options=RunOptions(
                size=chosen.size,
                engine=chosen.engine,
                precision=chosen.precision,
                threads=chosen.threads or None,
                mirroring=chosen.mirroring,
                entropy=chosen.entropy,
                check_input=chosen.check_input,
                region="given" if chosen.region_given else "",
            ),
            output=parameters.outputSegmentation,
            left_out=frozenset(parameters.leftOut),
            surfaces=parameters.surfaces,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asking:
    """A question at work: its job, when it began, and whether a process waited for it."""

    job: Job
    question: AdviseRequest
    begun: float
    warm: bool


class Selection:
    """The user's choices, and what the volume and the installed packs leave of them.

    Args:
        packs: the packs of this machine.
        jobs: find out what sizes take.
        background: where volumes are looked at.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        *,
        packs: Packs,
        jobs: Jobs,
        background: Background,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._packs = packs
        self._jobs = jobs
        self._background = background
        self._clock = clock
        self._inputs = Inputs()
        self._families: tuple[Family, ...] = ()
        self._volume_problem = ""
        self._failure = ""
        self._looked_at: object = None
        self._checked: CheckedVolume | None = None
        self._checking: Pending[CheckedVolume] | None = None
        self._due: float | None = None
        self._asked: AdviseRequest | None = None
        self._asking: _Asking | None = None
        self._start_seconds = PROGRAM_SECONDS
        self._kept: Request | None = None
        self._assessment: Assessment = {}
        self._own: Family | None = None

    @property
    def inputs(self) -> Inputs:
        """What the user has chosen."""
        return self._inputs

    @property
    def pending(self) -> bool:
        """Whether the volume is being looked at, or estimates are made: :meth:`poll` has to be called."""
        return self._checking is not None or self._due is not None or self._asking is not None

    @property
    def failure(self) -> str:
        """Why there are no estimates, if making them failed: volumes can be segmented all the same."""
        return self._failure

    @property
    def families(self) -> tuple[Family, ...]:
        """The installed families."""
        return self._families

    @property
    def family(self) -> Family | None:
        """The family that will be run: the chosen one, else the most useful that fits; None if none is installed."""
        for family in self._families:
            if family.task == self._inputs.task:
                return family
        return self._own or (self._families[0] if self._families else None)

    @property
    def size(self) -> str:
        """The size that will be run: the chosen one, else the one that the family recommends; empty without a pack."""
        family = self.family
        if family is None:
            return ""
        sizes = [pack.manifest.size for pack in family.packs]
        if self._inputs.options.size in sizes:
            return self._inputs.options.size
        return recommended(family.packs).manifest.size

    @property
    def settings(self) -> Request | None:
        """How volumes are segmented with these choices; None if no pack is installed."""
        return None if self.family is None else self.settings_of(self.family)

    @property
    def obstacle(self) -> str:
        """Why nothing can be segmented, whatever the volume; empty if it can."""
        family = self.family
        if family is None:
            damaged = [f"{pack.id}: {for_people(pack.error)}" for pack in self._packs.damaged()]
            return " ".join([_("No model is installed. Install one under Models."), *damaged])
        if not any(row.kept for row in label_rows(family, self._inputs.left_out)):
            return _("No structure is chosen. Choose at least one under Labels.")
        return ""

    @property
    def what(self) -> str:
        """What a run will do, one clause."""
        family = self.family
        if family is None:
            return ""
        found = structures(sum(row.kept for row in self.label_rows()))
        seconds = self.seconds([self.size])
        if seconds is None:
            return found
        return _("{structures}, about {time} on this computer").format(structures=found, time=duration(seconds))

    def seconds(self, sizes: Sequence[str]) -> float | None:
        """Return how long some sizes take together from now on, one after the other; None if that is not known of all.

        A process that waits need not be started, and one that ran the same before has its engines.
        """
        family = self.family
        known = {} if family is None else self._assessed(family).sizes
        expected = [known[size] for size in sizes if size in known]
        if family is None or len(expected) < len(sizes):
            return None
        total = sum(each.seconds - PROGRAM_SECONDS for each in expected)
        if not self._jobs.warm:
            return total + self._start_seconds
        if len(sizes) == 1 and self._kept == self._with_size(family, sizes[0]):
            total -= expected[0].loading_seconds
        return total

    def ran(self, request: Request, sizes: Sequence[str]) -> None:
        """Take over that a run is done: the process keeps its engines, and estimates are better now."""
        self._kept = self._with(request, sizes[0]) if len(sizes) == 1 else None
        if self._checked is not None:
            self._asked, self._due = None, self._clock()

    @property
    def problem(self) -> str:
        """Why this volume cannot be segmented; empty if it can."""
        family = self.family
        if family is None:
            return self.obstacle
        return self._volume_problem or self._assessed(family).problem or self.obstacle

    def refresh(self) -> None:
        """Look again which packs there are, and whether the volume is as it was."""
        self._families = tuple(by_usefulness(families(self._packs.packs())))
        self._own = self._most_useful()
        self.consider_volume()

    def update(self, inputs: Inputs) -> None:
        """Take over what the user has chosen."""
        before, self._inputs = self._inputs, inputs
        if inputs.volume is not before.volume:
            self.consider_volume()
        elif with_fields(inputs.options, size="") != with_fields(before.options, size=""):
            self._reassess(self._clock() + SETTLE_SECONDS)

    def consider_volume(self, *, anew: bool = False) -> None:
        """Check the volume, its voxels in the background.

        Args:
            anew: look at the voxels also if they, their place and the packs seem to be the same as before.
        """
        self._volume_problem = ""
        volume = self._inputs.volume
        if volume is None:
            self._forget_volume(_("Choose a volume."))
            return
        try:
            check_scan(volume)
            seen = (_state_of(volume), tuple(pack.manifest_sha256 for each in self._families for pack in each.packs))
            if seen == self._looked_at and not anew:
                self._reassess(self._clock())
                return
            self._forget_volume()
            scan = volume_from_node(volume)
        except KDSegmentatorError as error:
            self._forget_volume(for_people(error))
            return
        except MemoryError as error:  # a run may fit later, when other programs are closed
            self._failure = for_people(in_words(error, _("for estimates")))
            return
        self._looked_at = seen
        installed = self._families
        self._checking = self._background.submit(lambda: check(scan, installed))

    def forget_pending(self) -> None:
        """Do not wait for anything any more."""
        if self._checking is not None:
            self._checking.cancel()
            self._checking = self._looked_at = None
        self._forget_estimates()

    def shut_down(self) -> None:
        """End what is at work, because nobody will call :meth:`poll` any more."""
        self.forget_pending()
        self._background.close()
        if self._asking is not None:
            self._asking.job.cancel()
            self._asking.job.wait(_SHUT_DOWN_SECONDS)
            self._asking = None

    def poll(self) -> bool:
        """Take over what was found out; return whether there is something new to show."""
        changed = False
        try:
            if self._checking is not None and self._checking.done():
                checking, self._checking, changed = self._checking, None, True
                self._checked = checking.result()
                self._own = self._most_useful()
                self._reassess(self._clock())
            if self._asking is not None:
                changed = self._listen(self._asking) or changed
            if self._due is not None and self._asking is None and self._clock() >= self._due:
                self._due = None
                self._ask()
        except Exception as error:
            if self._checked is None:
                self._looked_at = None
            self._failure = for_people(in_words(error, _("for estimates")))
            return True
        return changed

    def _forget_volume(self, problem: str = "") -> None:
        self.forget_pending()
        self._looked_at = self._checked = None
        self._assessment = {}
        self._volume_problem = problem

    def _forget_estimates(self) -> None:
        """Drop the question that was asked, answered or not."""
        self._failure = ""
        self._due = self._asked = None  # an answer that comes is not taken: its worker waits for the next question

    def _reassess(self, due: float) -> None:
        """Say at once which tasks fit, and ask for the estimates when it is time, if it is another question."""
        if self._checked is None:
            return  # it is being looked at, and its options are asked for then
        assessment = assess(self._checked, self._families, check_input=self._inputs.options.check_input)
        question = self._question(assessment)
        if question is not None and question == self._asked:
            return
        self._forget_estimates()
        self._assessment = assessment
        if question is not None:
            self._due = due

    def _ask(self) -> None:
        self._asked = question = self._question(self._assessment)
        if question is not None:
            warm = self._jobs.warm
            self._asking = _Asking(job=self._jobs.advise(question), question=question, begun=self._clock(), warm=warm)

    def _listen(self, asking: _Asking) -> bool:
        """Take over what a job has found out; return whether there is something new to show."""
        for event in asking.job.poll():
            if isinstance(event, Started) and not asking.warm:
                self._start_seconds = self._clock() - asking.begun
            if not isinstance(event, (Advised, Failed, Cancelled)):
                continue
            self._asking = None
            if asking.question != self._asked:
                return False
            if isinstance(event, Advised):
                self._assessment = with_advice(self._assessment, event)
            elif isinstance(event, Failed):
                self._failure = for_people(event.error)
            return True
        if self._clock() - asking.begun > LONGEST_SECONDS:
            asking.job.cancel()
        return False

    def settings_of(self, family: Family) -> Request:
        """Return how volumes are segmented with a family."""
        rows = label_rows(family, self._inputs.left_out)
        kept = tuple(row.name for row in rows if row.kept)
        region = self._inputs.options.region if family.packs[0].manifest.region is not None else ""
        return Request(
            task=family.task,
            user_packs=str(self._packs.user_folder),
            shipped_packs=str(self._packs.shipped_folder),
            options=with_fields(
                self._inputs.options,
                size=self.size,
                labels=() if len(kept) == len(rows) else kept,
                region=region,
            ),
        )

    def task_cards(self) -> tuple[TaskCard, ...]:
        """Return the tasks to choose from."""
        return task_cards(self._families, self._assessment)

    def qualities(self) -> tuple[Quality, ...]:
        """Return the sizes to choose from."""
        family = self.family
        if family is None:
            return ()
        return qualities(family, self._assessment.get(family.task), lambda size: self.seconds([size]))

    def label_rows(self) -> tuple[LabelRow, ...]:
        """Return the structures to choose from."""
        return () if self.family is None else label_rows(self.family, self._inputs.left_out)

    def _question(self, assessment: Assessment) -> AdviseRequest | None:
        """Return what is to be estimated: the tasks that fit; None if none does."""
        tasks = tuple(task for task, each in assessment.items() if not each.problem)
        if self._checked is None or not tasks:
            return None
        return AdviseRequest(
            task=tasks[0],
            tasks=tasks,
            outline=self._checked.outline,
            user_packs=str(self._packs.user_folder),
            shipped_packs=str(self._packs.shipped_folder),
            options=with_fields(self._inputs.options, size="", labels=(), check_input=True),
        )

    def _with_size(self, family: Family, size: str) -> Request:
        return self._with(self.settings_of(family), size)

    @staticmethod
    def _with(request: Request, size: str) -> Request:
        return Request(
            task=request.task,
            user_packs=request.user_packs,
            shipped_packs=request.shipped_packs,
            options=with_fields(request.options, size=size),
        )

    def _most_useful(self) -> Family | None:
        """Return the first family that fits the volume, whatever the user switched off: it must not jump about."""
        if self._checked is None:
            before = next((each for each in self._families if self._own and each.task == self._own.task), None)
            return before or next(iter(self._families), None)
        assessment = assess(self._checked, self._families, check_input=True)
        fitting = (family for family in self._families if not assessment[family.task].problem)
        return next(fitting, next(iter(self._families), None))

    def _assessed(self, family: Family) -> TaskAdvice:
        return self._assessment.get(family.task, TaskAdvice())


def by_usefulness(installed: Sequence[Family]) -> list[Family]:
    """Return families with the most structures first, and last those that only find the region for others."""
    helpers = {pack.manifest.region.pack for each in installed for pack in each.packs if pack.manifest.region}
    return sorted(
        installed,
        key=lambda family: (
            any(pack.manifest.id in helpers for pack in family.packs),
            -len(family.packs[0].manifest.labels),
        ),
    )


def voxels_state(volume: vtkMRMLScalarVolumeNode) -> tuple[object, ...]:
    """Return what is another one as soon as the voxels are."""
    image = volume.GetImageData()
    return (None, 0) if image is None else (image.GetAddressAsString(""), image.GetMTime())


def _state_of(volume: vtkMRMLScalarVolumeNode) -> tuple[object, ...]:
    """Return what is another one as soon as the voxels or their place in the world are."""
    return volume.GetID(), volume.GetImageData().GetMTime(), world_to_lps(volume).tobytes()
