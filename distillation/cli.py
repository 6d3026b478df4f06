"""The ``kdseg-distill`` command: from a dataset to a family of evaluated packs, one stage at a time."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from distillation.evaluations import CALIBRATION_WINDOWS
from distillation.launch import Workspace
from distillation.parser import PROGRAM, build_parser
from distillation.recipe_file import read_recipe
from distillation.run.runner import describe_steps, run
from distillation.run.steps import RunSettings, describe_agreement, describe_pack, parse_stages, steps_of
from distillation.stages import Stages
from distillation.students import TEACHER_SIZE, Student, TeacherSource, select_students
from KDSegmentatorLib.errors import CancelledError, InvalidSettingsError, KDSegmentatorError
from KDSegmentatorLib.packs.names import pack_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillation.export.network import Agreement
    from distillation.run.steps import Stage

BAD_INPUT = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for an error, 130 after Ctrl-C."""
    options = build_parser().parse_args(arguments)
    try:
        _set_workers()
        if options.command == "validation":
            _validation(options)
        elif options.command == "compare":
            _compare(options)
        elif options.command == "mix":
            _mix(options)
        elif options.command == "synthesize":
            _synthesize(options)
        elif options.command == "import":
            _import(options)
        else:
            _STAGES[options.command](_stages(options), options)
    except KDSegmentatorError as error:
        print(f"{PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)  # torch's own are many lines
        return BAD_INPUT
    except OSError as error:
        print(f"{PROGRAM}: error: {error}; check disk space and permissions, then start again", file=sys.stderr)
        return BAD_INPUT
    except (KeyboardInterrupt, CancelledError):
        return _say_interrupted()
    except RuntimeError as error:
        if not _is_interruption(error):
            raise
        return _say_interrupted()
    return 0


def _is_interruption(error: BaseException | None) -> bool:
    """Return whether Ctrl-C was the cause; some of torch's contexts fail on their way out of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _say_interrupted() -> int:
    print(f"{PROGRAM}: interrupted; start again to go on", file=sys.stderr)
    return INTERRUPTED


def _stages(options: argparse.Namespace) -> Stages:
    recipe = read_recipe(options.recipe)
    folder = options.teacher or recipe.teacher.folder
    if folder is None:
        given = None
    else:
        given = TeacherSource(folder=Path(folder), checkpoint=recipe.teacher.checkpoint)
        if not given.path(recipe.dataset.fold).is_file():
            raise InvalidSettingsError(
                f"{given.path(recipe.dataset.fold)} is missing: {folder} is not the teacher's folder, "
                "or it was not trained on the recipe's fold"
            )
    workspace = Workspace.below(options.workspace, options.raw)
    return Stages(recipe=recipe, workspace=workspace, folder=options.workspace, given_teacher=given)


def _mix(options: argparse.Namespace) -> None:
    from distillation.mixture import write_mixture

    recipe = read_recipe(options.recipe)
    if not recipe.mixture:
        raise InvalidSettingsError(f"the recipe {options.recipe} has no section 'mixture', which names the datasets")
    labels = {label.name: label.value for label in recipe.pack.labels}
    print(f"made: {write_mixture(recipe.mixture, options.raw, recipe.dataset.name, labels)}")


def _synthesize(options: argparse.Namespace) -> None:
    from distillation.synthesis.synthesize import synthesize

    recipe = read_recipe(options.recipe)
    started, before = time.monotonic(), None

    def report(done: int, total: int) -> None:
        nonlocal before
        before = done if before is None else before
        if done == before:
            print(f"{done}/{total} images are there", flush=True)
            return
        left = (time.monotonic() - started) / (done - before) * (total - done)
        print(f"{done}/{total} images, {left:.0f} s left", flush=True)

    print(f"made: {synthesize(recipe, options.label_maps, options.raw, options.count, report)}")


def _import(options: argparse.Namespace) -> None:
    from distillation.public_model import Description, import_model

    description = {name: getattr(options, name) for name in Description.__annotations__}
    result = import_model(
        options.source,
        options.output,
        model=options.model,
        fold=options.fold,
        checkpoint=options.checkpoint,
        description=Description(**description),
        images=options.image,
        storage=options.storage,
    )
    pack = result.exported.pack
    for warning in result.warnings:
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
    print(describe_agreement(pack.manifest.id, result.exported.agreement))
    print(describe_pack(pack))
    if options.archive:
        _write_archive(pack.folder)


def _prepare(stages: Stages, options: argparse.Namespace) -> None:
    _run_stages(stages, options, "prepare")


def _train_teacher(stages: Stages, options: argparse.Namespace) -> None:
    _run_stages(stages, options, "teacher")


def _teach(stages: Stages, options: argparse.Namespace) -> None:
    _run_stages(stages, options, "teach")


def _distil(stages: Stages, options: argparse.Namespace) -> None:
    given: tuple[Stage, ...] = ("teacher",) if stages.given_teacher is not None else ()  # it is checked first
    _run_stages(stages, options, *given, "teach", "students", students=_students(stages, options))


def _evaluate(stages: Stages, options: argparse.Namespace) -> None:
    if options.whole and options.test is None:
        raise InvalidSettingsError("--whole is about the images of --test FOLDER")
    if not (options.packs or options.mirroring or options.student or options.method or options.test):
        _run_stages(stages, options, "evaluate")
        return
    if options.packs is not None:
        packs = stages.exports.packs_in(options.packs)
    else:
        packs = [stages.exports.teacher_pack(options.storage, _print_agreement)]
        for student in _students(stages, options):
            packs.append(stages.exports.student_pack(student, options.storage, _print_agreement))
    if options.test is not None:
        tested = stages.evaluations.evaluate_outside(
            packs,
            options.test,
            whole=options.whole,
            mirroring=options.mirroring,
            threads=options.threads,
            progress=_print_progress,
        )
        print(tested.table)
        print(f"written to {stages.evaluations.test_folder(options.test, whole=options.whole)}")
        return
    result = stages.evaluations.evaluate(
        packs,
        mirroring=options.mirroring,
        threads=options.threads,
        calibration_windows=options.calibration_windows if options.packs is None else None,
        quantizing=_print_quantizing,
        progress=_print_progress,
    )
    print(result.table)
    if not options.mirroring and options.packs is None:  # what a network costs is stated the way it is run by default
        stages.evaluations.measure_efficiency(packs, threads=options.threads)
    print(f"written to {stages.folder / 'evaluation'}")


def _export(stages: Stages, options: argparse.Namespace) -> None:
    if options.student is None and options.method in (None, stages.recipe.pack.method):
        _run_stages(stages, options, "export")
        sizes = [
            TEACHER_SIZE,
            *(each.size for each in select_students(stages.recipe, method=stages.recipe.pack.method)),
        ]
        folders = [options.output / pack_id(stages.recipe.pack.task, size) for size in sizes]
    else:
        folders = _export_some(stages, options)
    for folder in folders if options.archive else ():
        _write_archive(folder)


def _write_archive(folder: Path) -> None:
    from KDSegmentatorLib.packs.pack_archive import SUFFIX, write_archive

    archive = folder.with_name(f"{folder.name}{SUFFIX}")
    write_archive(folder, archive)
    print(f"{archive}: for 'kdseg packs install'")


def _export_some(stages: Stages, options: argparse.Namespace) -> list[Path]:
    """Write the packs of one size or of another method than the recipe's, and return their folders."""
    from distillation.export.pack_folder import copy_pack

    packs = []
    if options.student in (None, TEACHER_SIZE):
        packs.append(stages.exports.teacher_pack(options.storage, _print_agreement))
    if options.student != TEACHER_SIZE:
        method = options.method or stages.recipe.pack.method
        for student in select_students(stages.recipe, options.student, method):
            packs.append(stages.exports.student_pack(student, options.storage, _print_agreement))
    folders = []
    for pack in packs:
        copied = copy_pack(pack, options.output)
        print(describe_pack(copied))
        folders.append(copied.folder)
        if options.bundles:
            made_by = copied.manifest.provenance.method
            print(f"{stages.exports.bundle(copied.manifest.size, made_by, options.bundles)}: MONAI bundle")
    return folders


def _run(stages: Stages, options: argparse.Namespace) -> None:
    steps = steps_of(stages, _run_settings(options), _say, parse_stages(options.stage))
    if options.dry_run:
        describe_steps(steps, stages, _say)
    else:
        run(steps, stages, device=options.device, say=_say)


def _run_stages(
    stages: Stages, options: argparse.Namespace, *names: Stage, students: Sequence[Student] | None = None
) -> None:
    """Run stages as ``run`` would; of the students only these."""
    settings = _run_settings(options)
    run(steps_of(stages, settings, _say, names, students), stages, device=settings.device, say=_say)


def _run_settings(options: argparse.Namespace) -> RunSettings:
    """Return how to run a recipe; a command that lacks an option leaves it as ``run`` has it by default."""
    given = vars(options)
    return RunSettings(
        device=given.get("device", "cpu"),
        threads=given.get("threads"),
        storage=given.get("storage", "float16"),
        calibration_windows=given.get("calibration_windows", CALIBRATION_WINDOWS),
        output=given.get("output") or options.workspace / "family",
        bundles=given.get("bundles"),
    )


def _report(stages: Stages, options: argparse.Namespace) -> None:
    _run_stages(stages, options, "report")


def _validation(options: argparse.Namespace) -> None:
    from distillation.report.validation import write_validation

    write_validation(options.sources, options.output)
    print(f"written to {options.output}")


def _compare(options: argparse.Namespace) -> None:
    from distillation.report.arms import (
        arm_verdicts,
        arms_of,
        difference_table,
        read_arms,
        seed_table,
        structure_table,
        write_arms,
    )
    from distillation.report.task_results import join_seeds, read_results

    if options.sources[0].suffix == ".json":
        if len(options.sources) > 1:
            raise InvalidSettingsError("give one file of scores, which holds all seeds, or workspaces")
        arms = read_arms(options.sources[0])
    else:
        if options.size is None:
            raise InvalidSettingsError("--size says which students of the workspaces are compared, for example x1/8")
        tests = [None if options.test is None else folder / "tests" / options.test for folder in options.sources]
        joined = join_seeds([read_results(*each) for each in zip(options.sources, tests, strict=True)])
        if len(joined) > 1:
            raise InvalidSettingsError(f"the workspaces are of {len(joined)} tasks; give those of one")
        arms = arms_of(joined[0], options.size)
    for sentence in arm_verdicts(arms):
        print(f"- {sentence}")
    for table in (seed_table(arms), difference_table(arms), structure_table(arms)):
        print(f"\n{table.markdown()}", end="")
    if options.json is not None:
        from distillation.evaluation.tables import write_text

        write_text(options.json, write_arms(arms))
        print(f"\nwritten to {options.json}")


def _say(text: str) -> None:
    print(text, flush=True)


def _students(stages: Stages, options: argparse.Namespace) -> tuple[Student, ...]:
    return select_students(stages.recipe, options.student, options.method)


def _print_agreement(name: str, agreement: Agreement) -> None:
    print(describe_agreement(name, agreement))


def _print_quantizing(model: str) -> None:
    print(f"{model}: quantising to int8, which may take minutes", flush=True)


def _print_progress(model: str, done: int, total: int, seconds_left: float) -> None:
    print(f"{model}: {done}/{total} cases, {seconds_left:.0f} s left", flush=True)


def _set_workers() -> None:
    """Leave the cores to the network: on a small machine augmentation runs in the training process itself.

    That also makes a resumed training see the very batches that an uninterrupted one sees. nnU-Net's own default is
    twelve processes.
    """
    cores = os.cpu_count() or 1
    os.environ.setdefault("nnUNet_n_proc_DA", str(min(12, cores // 2) if cores > 4 else 0))


_STAGES = {
    "prepare": _prepare,
    "train-teacher": _train_teacher,
    "teach": _teach,
    "distil": _distil,
    "evaluate": _evaluate,
    "export": _export,
    "run": _run,
    "report": _report,
}


if __name__ == "__main__":
    sys.exit(main())
