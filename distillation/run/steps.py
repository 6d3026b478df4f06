"""The steps of a recipe in their order: what each depends on, what it leaves, and how it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, get_args

from distillation.dataset import find_dataset
from distillation.recipe import TrainingRecipe
from distillation.run.hashes import FileHashes, settings_hash, text_hash
from distillation.splits import SPLITS_NAME, read_splits, saw_held_out
from distillation.students import TEACHER_SIZE, Student, select_students
from KDSegmentatorLib.errors import InvalidSettingsError, TrainingError

if TYPE_CHECKING:
    from pathlib import Path

    from distillation.export.agreement import Agreement
    from distillation.export.body import Storage
    from distillation.launch import Progress
    from distillation.stages import Stages
    from KDSegmentatorLib.packs.manifest import Method
    from KDSegmentatorLib.packs.pack import StudentPack

Stage = Literal["prepare", "teacher", "students", "evaluate", "export", "report"]

STAGES: tuple[Stage, ...] = get_args(Stage)


_MISSING = text_hash("missing")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
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
        name: for people and for its record.
        inputs: returns a hash by name of everything that the result depends on; what is not there yet is ``missing``.
        outputs: returns the files and folders that it leaves.
        work: does it; finished parts are not done again.
        found: returns how far it is by what it left, made with the recipe's settings, where no record tells.
        trained: folder of the model that it trains; such work is never thrown away.
        student: the student that it trains; None in other steps.
    """

    stage: Stage
    name: str
    inputs: Callable[[], dict[str, str]]
    outputs: Callable[[], list[Path]]
    work: Callable[[], None]
    found: Callable[[], Progress] = lambda: "new"
    trained: Callable[[], Path] | None = None
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


class Steps:
    """Makes the steps of a recipe.

    Args:
        stages: the recipe at work.
        options: how it is run.
        messages: called with a line for people.
    """

    def __init__(self, stages: Stages, options: RunOptions, messages: Callable[[str], None]) -> None:
        self._stages = stages
        self._options = options
        self._say = messages
        self._fold = stages.recipe.dataset.fold
        self.hashes = FileHashes(stages.folder / "run" / "hashes.json")

    def all(self) -> list[Step]:
        """Return the steps in their order."""
        students = [self._student(student) for student in select_students(self._stages.recipe)]
        return [self._prepare(), self._teacher(), *students, self._evaluate(), self._export(), self._report()]

    def of(self, *wanted: Stage) -> list[Step]:
        """Return the steps of some stages in their order."""
        return [step for step in self.all() if step.stage in wanted]

    def _prepare(self) -> Step:
        def inputs() -> dict[str, str]:
            given = self._stages.given_teacher
            plans = {} if given is None else {"teacher's plans": self.hashes.of(given.folder / "plans.json")}
            return {**self._dataset_inputs(), **plans, "nnunetv2": _feature_version("nnunetv2")}

        return Step(
            stage="prepare",
            name="prepare",
            inputs=inputs,
            outputs=lambda: [self._stages.prepared().folder / "splits_final.json"],
            work=self._run_preparation,
            found=self._stages.preparation,
        )

    def _teacher(self) -> Step:
        recipe = self._stages.recipe
        given = self._stages.given_teacher
        if given is not None:
            return Step(
                stage="teacher",
                name="teacher",
                inputs=self._teaching_inputs,
                outputs=lambda: [given.path(fold) for fold in recipe.teacher_folds()],
                work=self._check_teacher,
            )
        return Step(
            stage="teacher",
            name="teacher",
            inputs=lambda: {
                **self._training_inputs(warmed_up=False),
                "recipe's teacher": settings_hash(recipe.teacher.epochs),
            },
            outputs=lambda: [self._stages.teacher().path(self._fold)],
            work=lambda: self._say(f"teacher: {self._stages.train_teacher(self._options.device).folder}"),
            found=lambda: self._stages.training(None),
            trained=lambda: self._stages.teacher().folder,
        )

    def _student(self, student: Student) -> Step:
        recipe = self._stages.recipe

        def inputs() -> dict[str, str]:
            own = {"recipe's student": settings_hash(replace(recipe.student(student.size), methods=("plain",)))}
            if student.method != "plain":
                own["recipe's method"] = settings_hash(_part(recipe.methods, student.method))
                own |= self._teaching_inputs()
            warmed_up = recipe.student(student.size).warm_up_epochs > 0
            return {**self._training_inputs(warmed_up=warmed_up), **own}

        return Step(
            stage="students",
            name=f"student {student.title}",
            inputs=inputs,
            outputs=lambda: [self._stages.source(student.size, student.method).path(self._fold)],
            work=lambda: self._say(f"{student.title}: {self._stages.train_student(student, self._options.device)}"),
            found=lambda: self._stages.training(student),
            trained=lambda: self._stages.source(student.size, student.method).folder,
            student=student,
        )

    def _evaluate(self) -> Step:
        recipe, folder = self._stages.recipe, self._stages.folder / "evaluation"

        def inputs() -> dict[str, str]:
            options = self._options.storage, self._options.calibration_windows
            return {
                **self._dataset_inputs(),
                **self._split_input(),
                **self._checkpoint_inputs(),
                "recipe's title": settings_hash(recipe.dataset.title),
                "recipe's evaluation": settings_hash(recipe.evaluation),
                "recipe's pack": settings_hash(recipe.pack),
                **self._folds_input(),
                "options": settings_hash(options),
            }

        return Step(
            stage="evaluate",
            name="evaluate",
            inputs=inputs,
            outputs=lambda: [folder / name for name in ("scores.csv", "evaluation.json", "efficiency.json")],
            work=self._run_evaluation,
        )

    def _export(self) -> Step:
        options = self._options

        def inputs() -> dict[str, str]:
            return {
                **self._checkpoint_inputs(),
                "evaluation": self._hash(self._stages.folder / "evaluation" / "evaluation.json"),
                "recipe's pack": settings_hash(self._stages.recipe.pack),
                "options": settings_hash([str(options.output), str(options.bundles), options.storage]),
            }

        return Step(
            stage="export",
            name="export",
            inputs=inputs,
            outputs=lambda: [self._options.output / pack.manifest.id for pack in self._shipped()],
            work=self._ship,
        )

    def _report(self) -> Step:
        folder = self._stages.folder / "evaluation"

        def inputs() -> dict[str, str]:
            names = ("scores.csv", "evaluation.json", "efficiency.json")
            return {name: self._hash(folder / name) for name in names} | self._checkpoint_inputs()

        return Step(
            stage="report",
            name="report",
            inputs=inputs,
            outputs=lambda: [self._stages.folder / "report" / name for name in ("report.html", "report.md")],
            work=self._write_report,
        )

    def _dataset_inputs(self) -> dict[str, str]:
        raw = find_dataset(self._stages.workspace.raw, self._stages.recipe.dataset.name)
        files = [raw.folder / "dataset.json", *(path for case in raw.cases for path in (case.image, case.label))]
        return {
            "dataset": self.hashes.of_all(files, raw.folder),
            "recipe's dataset": settings_hash(replace(self._stages.recipe.dataset, title="")),
        }

    def _split_input(self) -> dict[str, str]:
        """Return the hash of who trains and who is held out; the file may be somebody's own."""
        path = self._stages.workspace.preprocessed / self._stages.recipe.dataset.name / SPLITS_NAME
        return {"split": settings_hash(read_splits(path)[self._fold : self._fold + 1]) if path.is_file() else _MISSING}

    def _training_inputs(self, *, warmed_up: bool) -> dict[str, str]:
        training = self._stages.recipe.training
        if not warmed_up:  # which never sees this setting
            training = replace(training, continued_learning_rate=TrainingRecipe.continued_learning_rate)
        return {**self._dataset_inputs(), **self._split_input(), "recipe's training": settings_hash(training)}

    def _folds_input(self) -> dict[str, str]:
        """Return the hash of which folds teach, where they are several."""
        teacher = self._stages.recipe.teacher
        if len(self._stages.recipe.teacher_folds()) == 1:
            return {}
        return {"recipe's folds": settings_hash([list(self._stages.recipe.teacher_folds()), teacher.accept_leakage])}

    def _teaching_inputs(self) -> dict[str, str]:
        """Return the hashes of every network that teaches."""
        found = {"teacher's checkpoint": self._checkpoint(TEACHER_SIZE, "teacher"), **self._folds_input()}
        for fold in self._stages.recipe.teacher_folds():
            if fold != self._fold:
                found[f"teacher's checkpoint of fold {fold}"] = self._hash(self._stages.teacher().path(fold))
        return found

    def _checkpoint_inputs(self) -> dict[str, str]:
        found = {"teacher": self._checkpoint(TEACHER_SIZE, "teacher")}
        for student in select_students(self._stages.recipe):
            found[student.title] = self._checkpoint(student.size, student.method)
        return found

    def _checkpoint(self, size: str, method: Method) -> str:
        """Return the hash of a network's checkpoint, or what stands for one that is not there yet."""
        try:
            return self._hash(self._stages.source(size, method).path(self._fold))
        except TrainingError:  # not prepared yet, so that nobody knows where it will be
            return _MISSING

    def _hash(self, path: Path) -> str:
        return self.hashes.of(path) if path.is_file() else _MISSING

    def _run_preparation(self) -> None:
        prepared = self._stages.prepare()
        held_out = prepared.held_out_cases(self._fold)
        self._say(f"{len(prepared.raw.cases)} cases prepared in {prepared.folder}, {len(held_out)} of them held out")

    def _check_teacher(self) -> None:
        from distillation.run.preflight import load_given_teacher

        source = self._stages.teacher()
        self._check_split(source.folder)
        model = load_given_teacher(self._stages)
        self._say(f"teacher: {source.folder}, sha256 {model.sha256}")

    def _check_split(self, teacher: Path) -> None:
        """Refuse a given teacher that has seen the held-out cases, as far as its folder tells.

        Raises:
            TrainingError: it names cases.
        """
        held_out = self._stages.prepared().held_out_cases(self._fold)
        seen = saw_held_out(teacher / f"fold_{self._fold}", held_out)
        if seen is None:
            self._say(
                f"{teacher} does not tell which cases it has not seen (fold_{self._fold}/validation/summary.json): "
                "the evaluation is honest only if it was trained on this very split"
            )
        elif seen and not self._stages.recipe.teacher.accept_leakage:
            raise TrainingError(
                f"the teacher was not validated on {', '.join(seen[:5])}{' and others' if len(seen) > 5 else ''}, "
                "which this recipe holds out: it was probably trained on them, and the evaluation would flatter it. "
                f"Put its own {SPLITS_NAME} into {self._stages.prepared().folder}, or set the teacher's "
                "accept_leakage to true"
            )

    def _packs(self) -> list[StudentPack]:
        return self._exported(select_students(self._stages.recipe))

    def _exported(self, students: Sequence[Student]) -> list[StudentPack]:
        storage = self._options.storage
        packs = [self._stages.teacher_pack(storage, self._say_agreement)]
        return packs + [self._stages.student_pack(each, storage, self._say_agreement) for each in students]

    def _say_agreement(self, name: str, agreement: Agreement) -> None:
        self._say(describe_agreement(name, agreement))

    def _run_evaluation(self) -> None:
        packs = self._packs()
        result = self._stages.evaluate(
            packs,
            threads=self._options.threads,
            calibration_windows=self._options.calibration_windows,
            quantizing=lambda model: self._say(f"{model}: quantising to int8, which may take minutes"),
            progress=lambda model, done, total, left: self._say(f"{model}: {done}/{total} cases, {left:.0f} s left"),
        )
        self._stages.measure_efficiency(packs, threads=self._options.threads)
        self._say(result.table)
        self._say(f"written to {self._stages.folder / 'evaluation'}")

    def _shipped(self) -> list[StudentPack]:
        recipe = self._stages.recipe
        return self._exported(select_students(recipe, method=recipe.pack.method))

    def _ship(self) -> None:
        from distillation.export.folder import copy_pack

        for pack in self._shipped():
            copied = copy_pack(pack, self._options.output)
            self._say(describe_pack(copied))
            if self._options.bundles is not None:
                manifest = copied.manifest
                bundle = self._stages.bundle(manifest.size, manifest.provenance.method, self._options.bundles)
                self._say(f"MONAI bundle: {bundle}")

    def _write_report(self) -> None:
        from distillation.report.write import write_report

        self._say(f"report: {write_report(self._stages)}")


def _feature_version(package: str) -> str:
    """Return major.minor of a package: a patch does not prepare a dataset in another way."""
    return ".".join(metadata.version(package).split(".")[:2])


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


def _part(methods: Any, name: str) -> Any:
    """Return a method of a recipe, whether its methods are a dataclass or a mapping."""
    return asdict(methods).get(name) if hasattr(methods, "__dataclass_fields__") else methods[name]
