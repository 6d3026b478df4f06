"""Measure what segmenting costs, and write docs/benchmarks.md with its picture.

    python Testing/Benchmarks/bench.py [--quick] [--only paper classes ...] [--rounds 5] [--stock-rounds 1]
                                       [--sizes x1/4 ...]

Parts: ``paper`` (the paper's family, ours against stock nnU-Net), ``shipped`` (shipped packs on a real volume),
``volumes`` and ``classes`` (how cost grows), ``arithmetic`` (share of the machine's peak), ``brain`` (one brain from
file to file), ``start`` (command and import), ``advisor`` (errors of its estimates), ``surface`` (HD95 and NSD, ours
against MONAI), ``loss`` (Dice and cross-entropy with its gradient, ours against nnU-Net). What is measured is kept in
docs/benchmarks.json after every single run, so that a long benchmark can be made in pieces and be broken off; the page
and the picture are written from there. Networks, packs and scans are made once and kept in a cache folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdbench.cache import open_cache
from kdbench.machine import describe_machine, package_versions
from kdbench.parts.registry import PARTS
from kdbench.report.page import PICTURE, page
from kdbench.report.picture import draw
from kdbench.results import Outcome, Results, read_results, write_results
from kdbench.runner import ROOT, MeasurementError, interleaved
from kdbench.setting import Setting
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.packs.locations import default_cache_folder

RESULTS, PAGE = "benchmarks.json", "benchmarks.md"
ROUNDS, QUICK_ROUNDS = 5, 3
INTERRUPTED = 130


def measure(part: str, setting: Setting, file: Path) -> None:
    """Measure one part; its outcomes join the file of results after every run.

    Args:
        part: its name.
        setting: rounds, sizes, cache.
        file: of the results.

    Raises:
        MeasurementError: something that the part needs could not be made.
        KDSegmentatorError: the file of results is damaged, or cannot be written.
    """
    machine, versions = describe_machine(), package_versions()
    results = read_results(file)
    outcomes: dict[str, Outcome] = {}
    for stage in PARTS[part](setting):
        for name, outcome in interleaved(stage, versions, say=setting.say):
            outcomes[name] = outcome
            write_results(results.having(part, machine, outcomes), file)


def write_report(results: Results, folder: Path) -> None:
    """Write the page and its picture.

    Raises:
        ImageWriteError: one of them cannot be written.
    """
    picture = folder / PICTURE
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(results, picture)
    with atomic_output(folder / PAGE) as unfinished:
        unfinished.write_text(page(results), encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    chosen = _parser().parse_args(arguments)
    file = chosen.output / RESULTS
    setting = Setting(
        cache=open_cache(chosen.cache),
        rounds=chosen.rounds or (QUICK_ROUNDS if chosen.quick else ROUNDS),
        long_rounds=1 if chosen.quick else chosen.rounds or ROUNDS,
        stock_rounds=chosen.stock_rounds,
        sizes=tuple(chosen.sizes),
    )
    failed = []
    code = 0
    try:
        for part in [] if chosen.page else chosen.only:
            print(f"== {part}", flush=True)
            try:
                measure(part, setting, file)
            except MeasurementError as error:
                failed.append(f"{part}: {error}")
    except KDSegmentatorError as error:
        failed.append(str(error))
    except KeyboardInterrupt:
        code = INTERRUPTED  # what was measured is kept, and shown
    try:
        write_report(read_results(file), chosen.output)
        print(f"Wrote {chosen.output / PAGE}")
    except KDSegmentatorError as error:
        failed.append(str(error))
    for problem in failed:
        print(f"bench: {problem}", file=sys.stderr)
    return code or int(bool(failed))


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure what segmenting costs.")
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help=f"parts: {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"everything in about half an hour: {QUICK_ROUNDS} rounds, and one of the large volumes and the advisor",
    )
    parser.add_argument(
        "--rounds",
        type=_at_least_one,
        help=f"runs of each of our subjects (default: {ROUNDS}, {QUICK_ROUNDS} if quick)",
    )
    parser.add_argument(
        "--stock-rounds",
        type=int,
        help="runs of stock nnU-Net, 0 for none (default: 1 with the teacher, 3 with students)",
    )
    parser.add_argument(
        "--sizes", nargs="+", choices=["x1", "x1/2", "x1/4"], default=["x1", "x1/2", "x1/4"], help="of the part paper"
    )
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page from what is there")
    parser.add_argument(
        "--cache",
        type=Path,
        default=default_cache_folder() / "benchmark",
        help="folder for networks, packs and scans (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder of the page (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
