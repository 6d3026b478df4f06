"""The steps of a recipe in their order: whether each is done, and how it is done.

What a step leaves says whether it is done: prepared data with the files that it was made from, a checkpoint with its
plans, tables with the hashes of the packs that they are about. There is no other record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from distillation.splits import SPLITS_NAME, saw_held_out
from distillation.students import Student, select_students
from KDSegmentatorLib.errors import InvalidSettingsError, TrainingError

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.export.network import Agreement, Storage
    from distillation.launch import Progress
    from distillation.stages import Stages
    from KDSegmentatorLib.packs.pack import StudentPack

Stage = Literal["prepare", "teacher", "teach", "students", "evaluate", "export", "report"]

STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a recipe is run.

    Attributes:
        device: where to train, ``cpu`` or ``cuda``.
        threads: CPU threads of the engines in evaluation; None leaves it to them.
        storage: number format of the weights in the packs.
        calibration_windows: windows that networks are quantised with; 0 for no int8.
        output: folder for the packs to be shipped.
        bundles: folder for MONAI bundles; None for none.
    """

    device: str = "cpu"
    threads: int | None = None
    storage: Storage = "float16"
    calibration_windows: int = 50
    output: Path
    bundles: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step.

    Attributes:
        stage: the stage that it belongs to.
        name: for people.
        progress: returns how far it is, by what it left.
        work: does it; finished parts are not done again.
        model_folder: returns the folder of the network that it trains; None in other steps.
        student: the student that it trains; None in other steps.
    """

    stage: Stage
    name: str
    progress: Callable[[], Progress]
    work: Callable[[], None]
    model_folder: Callable[[], Path] | None = None
    student: Student | None = None


def parse_stages(text: str | None) -> tuple[Stage, ...]:
    """Return the stages of ``evaluate``, or of ``students-evaluate``: from the first to the last; None is all.

    Raises:
        InvalidSettingsError: there is no such stage, or the last comes before the first.
    """
    if text is None:
        return STAGES
    names = text.split("-")
    if len(names) > 2 or not set(names) <= set(STAGES):
        raise InvalidSettingsError(
            f"--stage must be one of {', '.join(STAGES)}, or two of them as in students-evaluate, got {text!r}"
        )
    first, last = (next(n for n, stage in enumerate(STAGES) if stage == name) for name in (names[0], names[-1]))
    if last < first:
        raise InvalidSettingsError(f"--stage {text}: {names[-1]} comes before {names[0]}")
    return STAGES[first : last + 1]


def steps_of(
    stages: Stages,
    settings: RunSettings,
    say: Callable[[str], None],
    wanted: tuple[Stage, ...] = STAGES,
    students: Sequence[Student] | None = None,
) -> list[Step]:
    """Return the steps of some stages in their order.

    Args:
        stages: the recipe at work.
        settings: how it is run.
        say: called with lines for people.
        wanted: the stages.
        students: those to train; None for all of the recipe.
    """
    recipe, storage = stages.recipe, settings.storage
    trained = select_students(recipe) if students is None else students

    def say_agreement(name: str, agreement: Agreement) -> None:
        say(describe_agreement(name, agreement))

    def packs(method: str | None = None) -> list[StudentPack]:
        students = select_students(recipe, method=method)
        teacher = stages.exports.teacher_pack(storage, say_agreement)
        return [teacher, *(stages.exports.student_pack(each, storage, say_agreement) for each in students)]

    def prepare() -> None:
        prepared = stages.trainings.prepare()
        held_out = prepared.held_out_cases(recipe.dataset.fold)
        say(f"{len(prepared.raw.cases)} cases prepared in {prepared.folder}, {len(held_out)} of them held out")

    def check_given_teacher() -> None:
        from distillation.run.checks import load_given_teacher

        source = stages.trainings.teacher()
        _check_held_out(stages, source.folder, say)
        say(f"teacher: {source.folder}, sha256 {load_given_teacher(stages).sha256}")

    def evaluate() -> None:
        found = packs()
        result = stages.evaluations.evaluate(
            found,
            threads=settings.threads,
            calibration_windows=settings.calibration_windows,
            quantizing=lambda model: say(f"{model}: quantising to int8, which may take minutes"),
            progress=lambda model, done, total, left: say(f"{model}: {done}/{total} cases, {left:.0f} s left"),
        )
        stages.evaluations.measure_efficiency(found, threads=settings.threads)
        say(result.table)
        say(f"written to {stages.folder / 'evaluation'}")

    def export() -> None:
        from distillation.export.pack_folder import copy_pack

        for pack in packs(recipe.pack.method):
            copied = copy_pack(pack, settings.output)
            say(describe_pack(copied))
            if settings.bundles is not None:
                manifest = copied.manifest
                bundle = stages.exports.bundle(manifest.size, manifest.provenance.method, settings.bundles)
                say(f"MONAI bundle: {bundle}")

    def report() -> None:
        from distillation.report.write import write_report

        say(f"report: {write_report(stages)}")

    def train(student: Student) -> None:
        """Train a student, and beside it all others of its size that are not trained."""
        of_size = [each for each in trained if each.size == student.size and stages.trainings.training(each) != "done"]
        for each, folder in zip(of_size, stages.trainings.train_students(of_size, settings.device), strict=True):
            say(f"{each.title}: {folder}")

    def teach() -> None:
        def tell(done: int, total: int) -> None:
            if done % max(1, total // 20) == 0 or done == total:
                say(f"soft labels: {done}/{total} cases")

        say(f"soft labels: {stages.trainings.teach(settings.device, tell)}")

    def training(student: Student) -> Step:
        return Step(
            stage="students",
            name=f"student {student.title}",
            progress=lambda: stages.trainings.training(student),
            work=lambda: train(student),
            model_folder=lambda: stages.trainings.source(student.size, student.method).folder,
            student=student,
        )

    if stages.given_teacher is not None:
        teacher = Step(stage="teacher", name="teacher", progress=lambda: "new", work=check_given_teacher)
    else:
        teacher = Step(
            stage="teacher",
            name="teacher",
            progress=lambda: stages.trainings.training(None),
            work=lambda: say(f"teacher: {stages.trainings.train_teacher(settings.device).folder}"),
            model_folder=lambda: stages.trainings.teacher().folder,
        )
    taught = any(method.needs_soft_labels for method in recipe.methods.values())
    every = [
        Step(stage="prepare", name="prepare", progress=stages.trainings.preparation, work=prepare),
        teacher,
        *([Step(stage="teach", name="teach", progress=stages.trainings.teaching, work=teach)] if taught else []),
        *(training(student) for student in trained),
        Step(
            stage="evaluate",
            name="evaluate",
            progress=lambda: stages.evaluations.evaluation(storage, settings.calibration_windows),
            work=evaluate,
        ),
        Step(
            stage="export",
            name="export",
            progress=lambda: stages.exports.exported(storage, settings.output, settings.bundles),
            work=export,
        ),
        Step(stage="report", name="report", progress=lambda: stages.evaluations.reported(storage), work=report),
    ]
    return [step for step in every if step.stage in wanted]


def _check_held_out(stages: Stages, teacher: Path, say: Callable[[str], None]) -> None:
    """Refuse a given teacher that has seen the held-out cases, as far as its folder tells.

    Raises:
        TrainingError: it names cases.
    """
    fold = stages.recipe.dataset.fold
    seen = saw_held_out(teacher / f"fold_{fold}", stages.trainings.prepared().held_out_cases(fold))
    if seen is None:
        say(
            f"{teacher} does not tell which cases it has not seen (fold_{fold}/validation/summary.json): the "
            "evaluation is honest only if it was trained on this very split"
        )
    elif seen and not stages.recipe.teacher.accept_leakage:
        raise TrainingError(
            f"the teacher was not validated on {', '.join(seen[:5])}{' and others' if len(seen) > 5 else ''}, which "
            "this recipe holds out: it was probably trained on them, and the evaluation would flatter it. Put its own "
            f"{SPLITS_NAME} into {stages.trainings.prepared().folder}, or set the teacher's accept_leakage to true"
        )


def describe_agreement(name: str, agreement: Agreement) -> str:
    """Return for people how well an exported network agrees with torch's."""
    return (
        f"{name} exported: logits within {agreement.exported:.1e} of torch; weights in the file change logits by up to "
        f"{agreement.storage:.1e}, {agreement.equal_voxels:.4%} of voxels keep their label"
    )


def describe_pack(pack: StudentPack) -> str:
    """Return a line for people: where a pack lies, its size, how good it is, and its precisions."""
    manifest = pack.manifest
    size = sum(record.size for record in manifest.files.values())
    score = manifest.evaluation
    dice = "not evaluated" if score is None else f"mean Dice {score.mean_dice.mean:.4f} on {score.cases} cases"
    precisions = ["float32", *(each.precision for each in manifest.network.reduced_precisions)]
    return f"{pack.folder}: {size / 1e6:.1f} MB, {dice}, {', '.join(precisions)}"
