"""What can be segmented with the user's choices: the packs that there are, the volume, and what they mean together."""

from __future__ import annotations

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.jobs.request import Settings
from KDSegmentatorLib.mrml.volumes import check_scan, volume_from_node
from KDSegmentatorLib.packs.catalogue import Family, families
from KDSegmentatorPanel.assessment import Assessment, TaskAssessment
from KDSegmentatorPanel.choices import Inputs
from KDSegmentatorPanel.estimation import Question
from KDSegmentatorPanel.outline import Outline
from KDSegmentatorPanel.ports import Assess, Background, Packs, Pending
from KDSegmentatorPanel.segment_view import LabelRow, SizeRow, TaskRow, label_rows, size_rows, task_rows
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import for_people


class Selection:
    """The user's choices, and what the volume and the installed packs leave of them.

    Args:
        packs: the packs of this machine.
        assess: tells what fits a volume; run in the background.
        background: where it runs.
    """

    def __init__(self, *, packs: Packs, assess: Assess, background: Background) -> None:
        self._packs = packs
        self._assess = assess
        self._background = background
        self._inputs = Inputs()
        self._families: tuple[Family, ...] = ()
        self._volume_problem = ""
        self._assessment: Assessment = {}
        self._pending: Pending[Assessment] | None = None

    @property
    def inputs(self) -> Inputs:
        """What the user has chosen."""
        return self._inputs

    @property
    def pending(self) -> bool:
        """Whether the volume is being assessed: :meth:`poll` has to be called."""
        return self._pending is not None

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
        return None if self.family is None else self.settings_of(self.family)

    @property
    def obstacle(self) -> str:
        """Why nothing can be segmented, whatever the volume; empty if it can."""
        family = self.family
        if family is None:
            damaged = [f"{pack.id}: {for_people(pack.error)}" for pack in self._packs.damaged()]
            return " ".join([_("No pack is installed. Install one under Packs."), *damaged])
        if not any(row.kept for row in label_rows(family, self._inputs.left_out)):
            return _("No structure is chosen. Choose at least one under Labels.")
        return ""

    @property
    def problem(self) -> str:
        """Why this volume cannot be segmented; empty if it can."""
        family = self.family
        if family is None:
            return self.obstacle
        return self._volume_problem or self._assessed(family).problem or self.obstacle

    def refresh(self) -> None:
        """Look again which packs there are."""
        self._families = tuple(families(self._packs.packs()))
        self.consider_volume()

    def update(self, inputs: Inputs) -> None:
        """Take over what the user has chosen."""
        before, self._inputs = self._inputs, inputs
        if _basis(inputs) != _basis(before):
            self.consider_volume()

    def consider_volume(self) -> None:
        """Check the volume, and have it assessed in the background."""
        self.forget_pending()
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
                check_input=inputs.check_input,
            )
        )

    def forget_pending(self) -> None:
        """Do not wait for the assessment any more."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    def poll(self) -> bool:
        """Take over the assessment; return whether there is something new to show.

        Raises:
            MemoryError: there is not enough memory for it.
        """
        pending = self._pending
        if pending is None or not pending.done():
            return False
        self._pending = None
        self._assessment = pending.result()
        return True

    def settings_of(self, family: Family) -> Settings:
        """Return how volumes are segmented with a family."""
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
            check_input=inputs.check_input,
        )

    def task_rows(self) -> tuple[TaskRow, ...]:
        """Return the tasks to choose from."""
        return task_rows(self._families, self._assessment)

    def size_rows(self) -> tuple[SizeRow, ...]:
        """Return the sizes to choose from."""
        family = self.family
        return () if family is None else size_rows(family, self._assessment.get(family.task))

    def label_rows(self) -> tuple[LabelRow, ...]:
        """Return the structures to choose from."""
        return () if self.family is None else label_rows(self.family, self._inputs.left_out)

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

    def _assessed(self, family: Family) -> TaskAssessment:
        return self._assessment.get(family.task, TaskAssessment(estimates={}))


def _basis(inputs: Inputs) -> tuple[object, ...]:
    """Return the choices that decide which tasks fit and how long a run takes."""
    engine = (inputs.engine, inputs.precision, inputs.threads)
    return inputs.volume, *engine, inputs.mirroring, inputs.entropy, inputs.check_input
