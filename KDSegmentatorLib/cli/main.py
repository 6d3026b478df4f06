"""The ``kdseg`` command: arguments, exit codes, and errors as one clear line.

Commands are imported when they are run, so that ``kdseg --help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO, cast

from KDSegmentatorLib.cli.terminal import OptionalStream
from KDSegmentatorLib.errors import (
    CancelledError,
    GeometryError,
    ImageReadError,
    InvalidSettingsError,
    KDSegmentatorError,
    ManifestError,
    PackError,
    UnsuitableVolumeError,
)
from KDSegmentatorLib.options import AUTOMATIC, DEVICES, ENGINES, PRECISIONS, REGIONS
from KDSegmentatorLib.version import __version__

SUCCESS = 0
FAILURE = 1
BAD_INPUT = 2
INTERRUPTED = 130

# What the library has: named here because importing it would take longer than all of --help.
FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")
WHEEL_PLATFORMS = ("linux", "windows", "macos-arm64", "macos-x86_64")

BAD_INPUT_ERRORS = (
    GeometryError,
    ImageReadError,
    InvalidSettingsError,
    ManifestError,
    PackError,
    UnsuitableVolumeError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``kdseg``.

    Args:
        arguments: the command line without the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 2 for bad input or usage, 130 after Ctrl-C, 1 for any other failure.
    """
    started = time.perf_counter()
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # a console that has no glyph for a label's name shows "?" instead of failing
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # progress and warnings that nobody can read must not end a run
    with contextlib.redirect_stderr(cast("TextIO", OptionalStream(sys.stderr))):
        return _run(arguments, started)


def _run(arguments: Sequence[str] | None, started: float) -> int:
    try:
        chosen = _parser().parse_args(arguments)
        chosen.started = started
        if chosen.command == "segment":
            from KDSegmentatorLib.cli import segment

            segment.run(chosen)
        elif chosen.command == "batch":
            from KDSegmentatorLib.cli import batch

            batch.run(chosen)
        elif chosen.command == "compare":
            from KDSegmentatorLib.cli import compare

            compare.run(chosen)
        elif chosen.command == "wheelhouse":
            from KDSegmentatorLib.cli import wheelhouse

            wheelhouse.run(chosen)
        else:
            from KDSegmentatorLib.cli import packs

            packs.run(chosen)
        if sys.stdout is not None:  # it may be closed
            sys.stdout.flush()
    except (CancelledError, KeyboardInterrupt):
        return _failed("cancelled; nothing was written", INTERRUPTED)
    except KDSegmentatorError as error:
        return _failed(str(error), BAD_INPUT if isinstance(error, BAD_INPUT_ERRORS) else FAILURE)
    except MemoryError:
        return _failed("there is not enough memory for this volume; take a smaller size, or crop the volume", FAILURE)
    except ImportError as error:  # a library that does not fit below `ulimit -v`, or a damaged installation
        return _failed(
            f"a part of the installation cannot be loaded ({error}). If memory is limited here (ulimit -v), allow "
            "more; otherwise install KDSegmentator again",
            FAILURE,
        )
    except OSError as error:
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has gone, as in `kdseg packs list | head -1`
            return FAILURE
        return _failed(
            f"{error.strerror or error}, so that not all could be printed: look where the output of this command goes. "
            "The files that were asked for are there, whole, or none of them is",
            FAILURE,
        )
    return SUCCESS


def _open_closed_streams() -> None:
    """Let what is printed go nowhere where a standard stream is closed; no file that is opened takes its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - as long as the process


def _failed(message: str, code: int) -> int:
    print(f"kdseg: {' '.join(message.split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdseg",
        description="Segment medical images with distilled students, on this computer's own CPU.",
        epilog="Exit code: 0 done, 2 bad input or usage, 130 cancelled with Ctrl-C, 1 any other failure.",
    )
    parser.add_argument("--version", action="version", version=f"kdseg {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_segment(
        commands.add_parser(
            "segment",
            help="segment a volume",
            description="Segment a volume; all outputs are written at the end, together or not at all.",
            usage="kdseg segment INPUT OUTPUT --pack NAME [--size SIZE] [options]",
        )
    )
    _add_batch(
        commands.add_parser(
            "batch",
            help="segment the scans of a folder into one table",
            description="Segment all scans of a folder (image files, or one folder a DICOM series) with one size: "
            "a label map and a record for each, and one table with a row for every scan and structure. What is "
            "finished is skipped the next time; a scan that fails does not stop the others, and makes the exit code 1.",
            usage="kdseg batch IN OUT --pack NAME [--size SIZE] [--pattern PATTERN] [options]",
        )
    )
    _add_compare(
        commands.add_parser(
            "compare",
            help="compare two segmentations",
            description="Compare two label maps on the same grid, structure by structure; nothing is resampled.",
        )
    )
    _add_packs(commands.add_parser("packs", help="list, show, install, remove, verify or roll back student packs"))
    _add_wheelhouse(
        commands.add_parser(
            "wheelhouse",
            help="download the engines for a 3D Slicer without internet",
            description="Download the wheels of the engines, and of what they need, into a folder, for the "
            "KDSegmentator module of a 3D Slicer on a computer without internet. Nothing is installed here.",
        )
    )
    return parser


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        type=named_path,
        metavar="INPUT",
        help="the scan: .nii.gz, .nii, .nrrd, .nhdr, .mha, .mhd, .mgz or .mgh; or DICOM: a folder, a .zip or a file",
    )
    parser.add_argument(
        "output",
        type=named_path,
        metavar="OUTPUT",
        help="the label map to write: .nii.gz, .nii, .nrrd or .mha; .seg.nrrd is 3D Slicer's, with names and colours; "
        ".dcm a DICOM segmentation of the series",
    )
    parser.add_argument(
        "--series", metavar="SERIES", help="which of several DICOM series: its number, UID or description"
    )
    parser.add_argument("--frame", type=int, metavar="N", help="which volume of a 4-D scan, from 0")
    _add_options(parser)
    parser.add_argument(
        "--statistics",
        type=named_path,
        metavar="FILE",
        help="write volume and intensity of each label as a table (.csv) or for programs (.json)",
    )
    parser.add_argument(
        "--split", type=named_path, metavar="FOLDER", help="also write one file for every structure there is"
    )
    parser.add_argument(
        "--overlay", type=named_path, metavar="FILE.png", help="write a picture of the labels on the scan"
    )
    parser.add_argument(
        "--dicom",
        nargs=2,
        metavar=("FORMS", "FOLDER"),
        help="also write DICOM objects of the series: seg, labelmap (one segmentation, which many viewers do not read "
        "yet), rtstruct, sr (volumes) and capture (picture), separated by commas",
    )
    parser.add_argument(
        "--record", type=named_path, metavar="FILE.json", help="write pack, engine, times and labels, to repeat the run"
    )
    parser.add_argument(
        "--entropy", type=named_path, metavar="FILE", help="write how unsure the network is of each voxel, in bits"
    )
    parser.add_argument(
        "--probability",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FILE"),
        help="write the probability of one structure; may be given several times",
    )


def _add_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        type=named_path,
        metavar="IN",
        help="the folder with the scans: image files, folders of one DICOM series each, or a BIDS data set",
    )
    parser.add_argument(
        "output", type=named_path, metavar="OUT", help="the folder for the results, made if it is not there"
    )
    parser.add_argument(
        "--pattern",
        help="which files, or folders of one DICOM series, for example '*_t1.nii.gz' or '**/*' (default: *, and the "
        "T1w images of a BIDS data set)",
    )
    parser.add_argument(
        "--layout",
        choices=("auto", "scans", "bids"),
        default="auto",
        help="name the results as the scans, or as a BIDS derivative (default: bids if IN is a BIDS data set)",
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the label maps (default: .nii.gz)")
    parser.add_argument("--again", action="store_true", help="also segment what has its result already")
    parser.add_argument("--entropy", action="store_true", help="write how unsure the network is of each voxel, in bits")
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pack", required=True, metavar="NAME", help="a task, for example hippocampus; see 'kdseg packs list'"
    )
    parser.add_argument(
        "--size",
        default="",
        help="x1 (the teacher), x1/2, x1/4, ... (default: the one that the task recommends), or auto: by this "
        "computer's cores, memory and speed",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="structures to keep, by name or value (default: all)",
    )
    parser.add_argument(
        "--mirroring", action="store_true", help="average over mirrored windows: a little better, up to 8 times slower"
    )
    parser.add_argument(
        "--engine",
        choices=(AUTOMATIC, *ENGINES),
        default="auto",
        help="what runs the network (default: the fastest here)",
    )
    parser.add_argument(
        "--precision",
        choices=(AUTOMATIC, *PRECISIONS),
        default="auto",
        help="number format (default: the fastest that the pack was accepted in and this machine gets right)",
    )
    parser.add_argument("--device", choices=(AUTOMATIC, *DEVICES), default="auto", help="what the engine computes on")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all that may be used)")
    parser.add_argument(
        "--unchecked",
        action="store_true",
        help="do not refuse a volume that looks like another modality, or with another field of view than the pack's",
    )
    parser.add_argument(
        "--region",
        choices=[region for region in REGIONS if region],
        default="",
        help="given: the scan shows nothing but the region already, with 0 round it, for example a skull-stripped "
        "brain; what is run before the pack (brain extraction) is left out",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors and warnings")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "first", type=named_path, metavar="A", help="a label map, or the reference: .nii.gz, .nii, .nrrd, .mha"
    )
    parser.add_argument("second", type=named_path, metavar="B", help="the label map to compare with it")
    parser.add_argument(
        "--labels",
        metavar="PACK|FILE.csv",
        help="what to compare and its names: a task, a pack's id, or a table with the columns label_value and "
        "label_name (default: all values in A or B)",
    )
    parser.add_argument(
        "--tolerance", type=float, default=1.0, metavar="MM", help="of NSD, the surface Dice, in mm (default: 1)"
    )
    parser.add_argument(
        "--subvoxel", action="store_true", help="NSD by the area of the surface between voxels, not by surface voxels"
    )
    parser.add_argument("--csv", type=named_path, metavar="FILE.csv", help="write the table")
    parser.add_argument(
        "--disagreement", type=named_path, metavar="FILE", help="write where A and B disagree, as a label map"
    )


def _add_packs(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the packs on this computer")
    listing.add_argument("--json", action="store_true", help="print JSON")
    show = actions.add_parser("show", help="show all that a pack says about itself")
    show.add_argument("id", metavar="ID")
    show.add_argument("--json", action="store_true", help="print JSON")
    install = actions.add_parser("install", help="install or update a pack from a .kdpack file or a folder")
    install.add_argument("path", type=named_path, metavar="PATH")
    for name, what in (
        ("remove", "remove an installed pack"),
        ("verify", "check a pack's files against their hashes"),
        ("roll-back", "go back to the version before the last update"),
    ):
        actions.add_parser(name, help=what).add_argument("id", metavar="ID")


def _add_wheelhouse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=named_path, metavar="FOLDER", help="where to put the wheels; may hold others already"
    )
    parser.add_argument("--platform", required=True, choices=WHEEL_PLATFORMS, help="of the computer without internet")
    parser.add_argument(
        "--python", type=_python_version, default="3.12", metavar="X.Y", help="of its 3D Slicer (default: 3.12)"
    )


def _python_version(text: str) -> str:
    major, _, minor = text.partition(".")
    if major != "3" or not minor.isascii() or not minor.isdigit():
        raise argparse.ArgumentTypeError(f"must be a version such as 3.12, got {text!r}")
    return text


def named_path(text: str) -> Path:
    """Return a path, for argparse; an empty text, which a shell's unset variable gives, is not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; give one (a variable of the shell may not be set)")
    return Path(text)


def positive(text: str) -> int:
    """Return a whole number of at least 1, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
