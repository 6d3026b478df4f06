"""The ``kdseg-distill`` command: from a dataset to a family of evaluated packs, one stage at a time."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from distillation.launch import Workspace
from distillation.recipe import read_recipe, shipped_recipes
from distillation.run.runner import describe_steps, run
from distillation.run.steps import STAGES, RunSettings, describe_agreement, describe_pack, parse_stages, steps_of
from distillation.stages import CALIBRATION_WINDOWS, Stages
from distillation.students import TEACHER_SIZE, Student, TeacherSource, select_students
from KDSegmentatorLib.errors import CancelledError, InvalidSettingsError, KDSegmentatorError
from KDSegmentatorLib.packs.rules import pack_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillation.export.network import Agreement
    from distillation.run.steps import Stage

PROGRAM = "kdseg-distill"
BAD_INPUT = 2
INTERRUPTED = 130

_DESCRIPTION = """\
Distil a trained nnU-Net into small students and export them as packs.

In one go:
  kdseg-distill run           RECIPE --workspace WORK --raw DATA

Or one stage at a time:
  kdseg-distill prepare       RECIPE --workspace WORK --raw DATA
  kdseg-distill train-teacher RECIPE --workspace WORK --raw DATA     (not needed with --teacher)
  kdseg-distill distil        RECIPE --workspace WORK --raw DATA
  kdseg-distill evaluate      RECIPE --workspace WORK --raw DATA
  kdseg-distill export        RECIPE --workspace WORK --raw DATA --output PACKS
  kdseg-distill report        RECIPE --workspace WORK --raw DATA

A model that somebody else trained becomes a pack without any training:
  kdseg-distill import        FOLDER|ZIP --output PACKS

A recipe with a section 'synthesis' trains on images made from label maps. They come first:
  kdseg-distill synthesize    RECIPE --label-maps MAPS --raw DATA --count N

Every stage can be broken off and started again: finished work is skipped, and training goes on after the last
finished epoch.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for an error, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        _set_workers()
        if options.command == "validation":
            _validation(options)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="STAGE")
    common = _common_options()
    students = _student_options()
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default: cpu)")
    packs = argparse.ArgumentParser(add_help=False)
    packs.add_argument(
        "--storage",
        choices=("float16", "float32"),
        default="float16",
        help="number format of the weights in the files; computations are in float32 (default: float16)",
    )
    synthesize = commands.add_parser("synthesize", parents=[_recipe_option()], help="make images from label maps")
    synthesize.add_argument(
        "--label-maps", type=Path, required=True, help="folder of label maps of whole heads, with their labels.json"
    )
    synthesize.add_argument("--raw", type=Path, required=True, help="folder for DatasetXXX_Name")
    synthesize.add_argument("--count", type=_count, required=True, metavar="N", help="number of images")
    _add_import(commands.add_parser("import", parents=[packs], help="make a pack of any trained nnU-Net v2 model"))
    commands.add_parser("prepare", parents=[common], help="check, fingerprint, plan and preprocess the dataset")
    commands.add_parser("train-teacher", parents=[common, device], help="train the teacher")
    commands.add_parser("distil", parents=[common, students, device], help="train the students, plain and distilled")
    evaluate = commands.add_parser(
        "evaluate",
        parents=[common, students, packs],
        help="run teacher and students on the held-out cases; fills the packs' evaluation and reduced precisions",
    )
    evaluate.add_argument("--mirroring", action="store_true", help="average over mirrored windows (8 times the work)")
    evaluate.add_argument("--threads", type=int, help="CPU threads (default: one a physical core)")
    evaluate.add_argument(
        "--calibration-windows",
        type=_count,
        default=CALIBRATION_WINDOWS,
        metavar="N",
        help=f"windows of training cases to quantise to int8 with; 0 for no int8 (default: {CALIBRATION_WINDOWS})",
    )
    evaluate.add_argument(
        "--packs",
        type=Path,
        metavar="FOLDER",
        help="evaluate the packs in this folder, in place and with their own networks, instead of exporting the "
        "workspace's: checkpoints are not needed, so that a machine with instructions for bfloat16 can add it later",
    )
    evaluate.add_argument(
        "--test",
        type=Path,
        metavar="FOLDER",
        help="evaluate on cases from outside instead of the held-out ones: imagesTs and labelsTs in nnU-Net's raw "
        "layout; tables go to WORKSPACE/tests, packs stay as they are",
    )
    whole = commands.add_parser(
        "run", parents=[common, packs, device], help="all stages in their order; goes on where it was broken off"
    )
    whole.add_argument(
        "--stage", metavar="S", help=f"one of {', '.join(STAGES)}, or a range as in students-evaluate (default: all)"
    )
    whole.add_argument("--dry-run", action="store_true", help="print what is done and what the rest will take")
    whole.add_argument("--output", type=Path, help="folder for the packs (default: WORKSPACE/family)")
    whole.add_argument("--bundles", type=Path, metavar="DIR", help="write MONAI bundles too")
    whole.add_argument("--threads", type=int, help="CPU threads of the engines (default: one a physical core)")
    whole.add_argument(
        "--calibration-windows", type=_count, default=CALIBRATION_WINDOWS, metavar="N", help="0 for no int8"
    )
    validation = commands.add_parser(
        "validation",
        help="write the tables of evaluated workspaces (tasks, seeds) to a Markdown page; its other tasks stay",
    )
    validation.add_argument("workspaces", nargs="+", type=Path, metavar="WORKSPACE", help="evaluated workspaces")
    validation.add_argument("--output", type=Path, required=True, help="the page, for example docs/validation.md")
    commands.add_parser("report", parents=[common], help="write the report of what was evaluated, HTML and Markdown")
    export = commands.add_parser("export", parents=[common, students, packs], help="write the packs to be shipped")
    export.add_argument("--output", type=Path, required=True, help="folder for the packs, one folder each")
    export.add_argument(
        "--bundles", type=Path, metavar="DIR", help="write each network also as a MONAI bundle, one folder each"
    )
    export.add_argument(
        "--archive", action="store_true", help="write each pack also as one file, ID.kdpack, for 'kdseg packs install'"
    )
    return parser


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, metavar="FOLDER|ZIP", help="model folder, or a zip file of nnUNetv2_export_model_to_zip"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the pack's folder")
    parser.add_argument(
        "--model", metavar="NAME", help="which model, by its folder or configuration, if there are several"
    )
    parser.add_argument("--fold", metavar="N", help="0 to 4, or all (default: all if it is there, else the first)")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth", help="file in the fold (default: %(default)s)")
    parser.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="an image such as the "
        "model was trained on: its axis order is taken, and networks are compared on it; repeatable",
    )
    parser.add_argument("--axes", metavar="CODES", help="axis order of the training images, like LPS")
    parser.add_argument("--task", help="first part of the pack's id (default: from the dataset's name)")
    parser.add_argument("--title", help="one line for people (default: the dataset's name)")
    parser.add_argument("--modality", choices=("CT", "MR"), help="default: from the channel's name")
    parser.add_argument("--body-part", metavar="PART", help="DICOM Body Part Examined (default: WHOLEBODY)")
    parser.add_argument("--license", metavar="SPDX", help="licence of the weights")
    parser.add_argument("--credit", metavar="TEXT", help="whom to credit for the weights")
    parser.add_argument("--archive", action="store_true", help="write the pack also as one file, ID.kdpack")


def _recipe_option() -> argparse.ArgumentParser:
    option = argparse.ArgumentParser(add_help=False)
    option.add_argument("recipe", help=f"name of a recipe ({', '.join(shipped_recipes())}) or a .yaml file")
    return option


def _common_options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, parents=[_recipe_option()])
    common.add_argument("--workspace", type=Path, required=True, help="folder for everything that is computed")
    common.add_argument("--raw", type=Path, help="folder that holds DatasetXXX_Name (default: WORKSPACE/raw)")
    common.add_argument(
        "--teacher", type=Path, help="existing nnU-Net model folder to use instead of training a teacher"
    )
    return common


def _student_options() -> argparse.ArgumentParser:
    students = argparse.ArgumentParser(add_help=False)
    students.add_argument(
        "--student",
        metavar="SIZE",
        help="only this size, for example x1/4; for export also x1, the teacher (default: all)",
    )
    students.add_argument("--method", help="only this method of the recipe, or plain (default: all)")
    return students


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


def _distil(stages: Stages, options: argparse.Namespace) -> None:
    given: tuple[Stage, ...] = ("teacher",) if stages.given_teacher is not None else ()  # it is checked first
    _run_stages(stages, options, *given, "students", students=_students(stages, options))


def _evaluate(stages: Stages, options: argparse.Namespace) -> None:
    if not (options.packs or options.mirroring or options.student or options.method or options.test):
        _run_stages(stages, options, "evaluate")
        return
    if options.packs is not None:
        packs = stages.packs_in(options.packs)
    else:
        packs = [stages.teacher_pack(options.storage, _print_agreement)]
        for student in _students(stages, options):
            packs.append(stages.student_pack(student, options.storage, _print_agreement))
    if options.test is not None:
        tested = stages.evaluate_outside(
            packs, options.test, mirroring=options.mirroring, threads=options.threads, progress=_print_progress
        )
        print(tested.table)
        print(f"written to {stages.tests_folder / options.test.resolve().name}")
        return
    result = stages.evaluate(
        packs,
        mirroring=options.mirroring,
        threads=options.threads,
        calibration_windows=options.calibration_windows if options.packs is None else None,
        quantizing=_print_quantizing,
        progress=_print_progress,
    )
    print(result.table)
    if not options.mirroring and options.packs is None:  # what a network costs is stated the way it is run by default
        stages.measure_efficiency(packs, threads=options.threads)
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
    from KDSegmentatorLib.packs.archive import SUFFIX, write_archive

    archive = folder.with_name(f"{folder.name}{SUFFIX}")
    write_archive(folder, archive)
    print(f"{archive}: for 'kdseg packs install'")


def _export_some(stages: Stages, options: argparse.Namespace) -> list[Path]:
    """Write the packs of one size or of another method than the recipe's, and return their folders."""
    from distillation.export.pack import copy_pack

    packs = []
    if options.student in (None, TEACHER_SIZE):
        packs.append(stages.teacher_pack(options.storage, _print_agreement))
    if options.student != TEACHER_SIZE:
        method = options.method or stages.recipe.pack.method
        for student in select_students(stages.recipe, options.student, method):
            packs.append(stages.student_pack(student, options.storage, _print_agreement))
    folders = []
    for pack in packs:
        copied = copy_pack(pack, options.output)
        print(describe_pack(copied))
        folders.append(copied.folder)
        if options.bundles:
            made_by = copied.manifest.provenance.method
            print(f"{stages.bundle(copied.manifest.size, made_by, options.bundles)}: MONAI bundle")
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
    steps = steps_of(stages, settings, _say, names)
    wanted = [step for step in steps if students is None or step.student in (None, *students)]
    run(wanted, stages, device=settings.device, say=_say)


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

    write_validation(options.workspaces, options.output)
    print(f"written to {options.output}")


def _say(text: str) -> None:
    print(text, flush=True)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text!r}")
    return int(text)


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
    "distil": _distil,
    "evaluate": _evaluate,
    "export": _export,
    "run": _run,
    "report": _report,
}


if __name__ == "__main__":
    sys.exit(main())
