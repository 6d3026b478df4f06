"""Compare the sizes of a family in one run: wall time, CPU time and peak memory, as ratios to the teacher.

Every measurement is a process of its own, started anew, so that imports count and peak memory is its own. Sizes are
interleaved round by round, so that whatever else the machine does hits all of them alike; the table holds medians and,
beside them, ratios of medians. Only shipped packs take part. The inputs are pieces of nilearn's MNI152 T1 template, one
as small as the hippocampus students were trained on (one window) and one that needs many windows. The second is for
cost alone, which depends on the number of voxels; its labels mean nothing.

    python Testing/Benchmarks/bench.py [--task hippocampus] [--rounds 5] [--output docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median

from KDSegmentatorLib import PackStore, Segmenter, Volume, __version__, read_volume, write_volume
from KDSegmentatorLib.advisor.peak_memory import peak_memory
from KDSegmentatorLib.packs.catalogue import families
from KDSegmentatorLib.packs.pack import StudentPack

ROOT = Path(__file__).resolve().parents[2]
INPUTS_VOXELS = {"one window": (36, 50, 36), "many windows": (80, 112, 80)}
"""Boxes (i, j, k) round the middle of the template."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one process measured: seconds, CPU seconds of all threads, bytes."""

    process_seconds: float
    segment_seconds: float
    cpu_seconds: float
    peak_bytes: int
    windows: int


def worker(scan: str, task: str, size: str) -> None:
    """Segment one scan and print what it cost, as JSON; runs in a process of its own."""
    result = Segmenter(task, size)(read_volume(scan))
    measured = {
        "segment_seconds": result.record.seconds["total"],
        "cpu_seconds": time.process_time(),
        "peak_bytes": peak_memory(),
        "windows": result.record.windows,
    }
    print(json.dumps(measured))


def measure(scan: Path, task: str, size: str) -> Run:
    """Segment one scan in a new process."""
    command = [sys.executable, str(Path(__file__)), "--worker", str(scan), "--task", task, "--size", size]
    start = time.perf_counter()
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return Run(process_seconds=time.perf_counter() - start, **json.loads(finished.stdout))


def middle_of_template(voxels: tuple[int, int, int]) -> Volume:
    """Return a box of the MNI152 T1 template (1 mm)."""
    sys.path.insert(0, str(ROOT))
    from demo.hippocampus import crop, load_template

    template: Volume = load_template()
    low = -voxels[0] / 2, -20 - voxels[1] / 2, -voxels[2] / 2
    box: Volume = crop(template, low, (low[0] + voxels[0], low[1] + voxels[1], low[2] + voxels[2]))
    return box


def measure_all(packs: Sequence[StudentPack], rounds: int, folder: Path) -> dict[str, dict[str, list[Run]]]:
    """Return the runs by input and size, measured round by round."""
    runs: dict[str, dict[str, list[Run]]] = {}
    for name, voxels in INPUTS_VOXELS.items():
        scan = folder / f"{name.replace(' ', '-')}.nii.gz"
        write_volume(middle_of_template(voxels), scan)
        runs[name] = {pack.manifest.size: [] for pack in packs}
        for number in range(rounds):
            for pack in packs:
                run = measure(scan, pack.manifest.task, pack.manifest.size)
                runs[name][pack.manifest.size].append(run)
                print(f"{name}, round {number + 1}, {pack.manifest.size}: {run.process_seconds:.2f} s", flush=True)
    return runs


def report(packs: Sequence[StudentPack], runs: dict[str, dict[str, list[Run]]], rounds: int, load: str) -> str:
    """Return the report as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "<!-- Written by `make bench`; do not edit by hand. -->",
        "",
        f"`{packs[0].manifest.task}`, kdsegmentator {__version__}, onnxruntime {version('onnxruntime')}, "
        f"Python {platform.python_version()}, {datetime.now(timezone.utc).date()}.",
        f"{processor()}, {usable_cpus()} logical CPUs, {platform.system()}; {load}.",
        "",
        f"Medians of {rounds} rounds. *Process* is a new Python process from start to end, imports included; "
        "*segment* is `segment()` alone; CPU time is that of the whole process over all threads; memory is its peak "
        "resident size. The sizes took turns within every round: with other work on the machine (see the load "
        "average) the seconds are too long, and the ratios, each to the first row, are what to compare.",
    ]
    for name, by_size in runs.items():
        box = " x ".join(str(length) for length in INPUTS_VOXELS[name])
        windows = next(iter(by_size.values()))[0].windows
        lines += [
            "",
            f"## {name.capitalize()}: {box} voxels, {windows} network call{'s' if windows > 1 else ''}",
            "",
            "| Size | Parameters | Process (s) | Segment (s) | Ratio | CPU (s) | Ratio | Peak memory (MB) | Ratio |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        first = next(iter(by_size.values()))
        for pack in packs:
            mine = by_size[pack.manifest.size]
            cells = [pack.manifest.size, f"{pack.manifest.network.parameters:,}"]
            cells += [f"{median(run.process_seconds for run in mine):.2f}"]
            for field, divisor, digits in (("segment_seconds", 1, 2), ("cpu_seconds", 1, 2), ("peak_bytes", 1e6, 0)):
                value = median(getattr(run, field) for run in mine)
                reference = median(getattr(run, field) for run in first)
                cells += [f"{value / divisor:.{digits}f}", f"{value / reference:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def processor() -> str:
    """Return the processor's name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cpus() -> int:
    """Return how many logical CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_now() -> str:
    """Say how busy the machine is with other work."""
    if not hasattr(os, "getloadavg"):
        return "load of the machine unknown"
    return f"load average {os.getloadavg()[0]:.1f} before the start"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, or one measurement of it, and return the exit code."""
    parser = argparse.ArgumentParser(description="Compare the sizes of a family of packs.")
    parser.add_argument("--task", default="hippocampus")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--worker", metavar="SCAN", help=argparse.SUPPRESS)
    parser.add_argument("--size", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.worker:
        worker(chosen.worker, chosen.task, chosen.size)
        return 0
    load = load_now()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KDSEGMENTATOR_PACKS"] = folder  # also for the processes that are started: no pack of the user
        family = next((family for family in families(PackStore().packs()) if family.task == chosen.task), None)
        if family is None:
            print(f"bench: no pack for the task {chosen.task!r} is shipped", file=sys.stderr)
            return 1
        runs = measure_all(family.packs, chosen.rounds, Path(folder))
    chosen.output.write_text(report(family.packs, runs, chosen.rounds, load), encoding="utf-8")
    print(f"Wrote {chosen.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
