"""The arguments of ``kdseg-distill``."""

from __future__ import annotations

import argparse
from pathlib import Path

from distillation.evaluations import CALIBRATION_WINDOWS
from distillation.recipe_file import shipped_recipes
from distillation.run.steps import STAGES

PROGRAM = "kdseg-distill"

_DESCRIPTION = """\
Distil a trained nnU-Net into small students and export them as packs.

In one go:
  kdseg-distill run           RECIPE --workspace WORK --raw DATA

Or one stage at a time:
  kdseg-distill prepare       RECIPE --workspace WORK --raw DATA
  kdseg-distill train-teacher RECIPE --workspace WORK --raw DATA     (not needed with --teacher)
  kdseg-distill teach         RECIPE --workspace WORK --raw DATA     (for methods with soft_labels)
  kdseg-distill distil        RECIPE --workspace WORK --raw DATA
  kdseg-distill evaluate      RECIPE --workspace WORK --raw DATA
  kdseg-distill export        RECIPE --workspace WORK --raw DATA --output PACKS
  kdseg-distill report        RECIPE --workspace WORK --raw DATA

Several ways of training one size, or several seeds, are compared case by case:
  kdseg-distill compare       WORK1 WORK2 ... --size x1/8

A model that somebody else trained becomes a pack without any training:
  kdseg-distill import        FOLDER|ZIP --output PACKS

A recipe with a section 'mixture' trains on cases of several datasets. They are put together first:
  kdseg-distill mix           RECIPE --raw DATA

A recipe with a section 'synthesis' trains on images made from label maps. They come first:
  kdseg-distill synthesize    RECIPE --label-maps MAPS --raw DATA --count N

Every stage can be broken off and started again: finished work is skipped, and training goes on after the last
finished epoch.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all stages."""
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
    mix = commands.add_parser("mix", parents=[_recipe_option()], help="make one dataset out of several")
    mix.add_argument("--raw", type=Path, required=True, help="folder of the datasets, and for the new one")
    synthesize = commands.add_parser("synthesize", parents=[_recipe_option()], help="make images from label maps")
    synthesize.add_argument(
        "--label-maps", type=Path, required=True, help="folder of label maps of whole heads, with their labels.json"
    )
    synthesize.add_argument("--raw", type=Path, required=True, help="folder for DatasetXXX_Name")
    synthesize.add_argument("--count", type=_count, required=True, metavar="N", help="number of images")
    _add_import(commands.add_parser("import", parents=[packs], help="make a pack of any trained nnU-Net v2 model"))
    commands.add_parser("prepare", parents=[common], help="check, fingerprint, plan and preprocess the dataset")
    commands.add_parser("train-teacher", parents=[common, device], help="train the teacher")
    commands.add_parser("teach", parents=[common, device], help="write what teachers say of the training cases")
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
    evaluate.add_argument(
        "--whole",
        action="store_true",
        help="the images of --test are whole scans: run the installed pack that finds the region first, as for a user",
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
        help="write the tables of evaluated workspaces (tasks, seeds) to a Markdown page; its other sections stay",
    )
    validation.add_argument(
        "sources", nargs="+", type=Path, metavar="SOURCE", help="evaluated workspaces, and files of scores (.json)"
    )
    validation.add_argument("--output", type=Path, required=True, help="the page, for example docs/validation.md")
    compare = commands.add_parser(
        "compare", help="compare ways of training one size, paired by seed and case, with tests and intervals"
    )
    compare.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="SOURCE",
        help="evaluated workspaces (seeds), or one file of scores (.json)",
    )
    compare.add_argument("--size", metavar="S", help="which students of the workspaces, for example x1/8")
    compare.add_argument(
        "--test", metavar="NAME", help="on the cases from outside that 'evaluate --test' left in WORKSPACE/tests/NAME"
    )
    compare.add_argument("--json", type=Path, metavar="FILE", help="keep the scores of every seed and case as a file")
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
    parser.add_argument(
        "--fold",
        metavar="N",
        help="0 to 4, or all, or several as 0,1,2: the mean of their logits, several times as slow "
        "(default: all if it is there, else the first)",
    )
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


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text!r}")
    return int(text)
