"""How far off estimates are after one run of a pack: beside what `kdseg segment` takes, time and peak memory.

Every run is a process of its own, from a file to a file. Time is honest only on a machine that does nothing else:
processor time is shown beside it. Without options the shipped packs segment generated scans of several sizes and
spacings, with both engines; --packs adds packs, for example those that bench.py generates.

    python Testing/Benchmarks/estimate_error.py [--packs FOLDER ...] [--rounds 3] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from KDSegmentatorLib import PackStore, Volume, read_volume, write_volume
from KDSegmentatorLib.advice import Estimate, estimate
from KDSegmentatorLib.cli.terminal import table
from KDSegmentatorLib.engines.candidates import find_candidates
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.locations import ENVIRONMENT_VARIABLE
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorLib.packs.pack import StudentPack, open_pack

ROOT = Path(__file__).resolve().parents[2]
TIME_AIM, MEMORY_AIM = 0.30, 0.20
_WAYS = (("openvino", "float32"), ("openvino", "bfloat16"), ("openvino", "int8"), ("onnxruntime", "float32"))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One pack on one scan, in one way.

    Attributes:
        pack: the student.
        scan: the file.
        request: engine, precision, device and threads.
        mirroring: whether windows are mirrored.
        entropy: whether the entropy is written.
    """

    pack: StudentPack
    scan: Path
    request: RunOptions
    mirroring: bool = False
    entropy: bool = False

    @property
    def title(self) -> str:
        """For people."""
        options = [name for name in ("mirroring", "entropy") if getattr(self, name)]
        return ", ".join([self.pack.manifest.id, self.scan.name, self.request.engine, self.request.precision, *options])


@dataclass(frozen=True, kw_only=True)
class AdvisorError:
    """What was estimated of a case, and what it took; medians over the rounds.

    Attributes:
        case: what was run.
        windows: network calls.
        estimated_seconds: wall time.
        measured_seconds: wall time of the process.
        cpu_seconds: its processor time.
        estimated_bytes: peak memory.
        measured_bytes: peak resident size; None where the system does not tell.
    """

    case: Case
    windows: int
    estimated_seconds: float
    measured_seconds: float
    cpu_seconds: float
    estimated_bytes: int
    measured_bytes: float | None

    @property
    def time_error(self) -> float:
        """Estimate over measurement, minus 1: positive if it was too much."""
        return self.estimated_seconds / self.measured_seconds - 1

    @property
    def memory_error(self) -> float | None:
        """Likewise; None where the memory is not known."""
        return None if self.measured_bytes is None else self.estimated_bytes / self.measured_bytes - 1


def estimate_errors(
    cases: Sequence[Case],
    *,
    rounds: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> list[AdvisorError]:
    """Return the estimates of every case, and what it takes.

    Args:
        cases: in any order; they take turns, round by round.
        rounds: runs of each case; before them, each pack is run once in each way, which the estimates know.
        say: takes a line for the user.

    Raises:
        KDSegmentatorError: a scan cannot be read, or does not fit the pack.
        subprocess.CalledProcessError: ``kdseg segment`` failed.
    """
    runs: list[list[_Run]] = [[] for _ in cases]
    with _installed({case.pack.manifest.id: case.pack for case in cases}.values()) as store:
        for case in {(case.pack.manifest.id, case.request): case for case in cases}.values():
            _run(case, store)
        estimates = [_estimate(case) for case in cases]
        for _ in range(rounds):
            for case, done in zip(cases, runs, strict=True):
                run = _run(case, store)
                say(f"{case.title}: {run.seconds:.2f} s")
                done.append(run)
    return [
        AdvisorError(
            case=case,
            windows=size.windows,
            estimated_seconds=size.seconds,
            measured_seconds=median(run.seconds for run in done),
            cpu_seconds=median(run.cpu_seconds for run in done),
            estimated_bytes=size.memory_bytes,
            measured_bytes=None if None in (run.peak_bytes for run in done) else median(_peaks(done)),
        )
        for case, size, done in zip(cases, estimates, runs, strict=True)
    ]


def report(errors: Sequence[AdvisorError]) -> str:
    """Return a table of the errors, and how many meet the aims."""
    head = ("Case", "Windows", "Estimate (s)", "Measured (s)", "Error", "CPU (s)", "Estimate (MB)", "Measured", "Error")
    rows = [head]
    for each in errors:
        memory = each.memory_error
        rows.append(
            (
                each.case.title,
                str(each.windows),
                f"{each.estimated_seconds:.1f}",
                f"{each.measured_seconds:.1f}",
                f"{each.time_error:+.0%}",
                f"{each.cpu_seconds:.1f}",
                f"{each.estimated_bytes / 1e6:.0f}",
                "-" if each.measured_bytes is None else f"{each.measured_bytes / 1e6:.0f}",
                "-" if memory is None else f"{memory:+.0%}",
            )
        )
    time_met = sum(abs(each.time_error) <= TIME_AIM for each in errors)
    memories = [each.memory_error for each in errors if each.memory_error is not None]
    memory_met = sum(abs(error) <= MEMORY_AIM for error in memories)
    return "\n".join(
        [
            table(rows, numbers=range(1, len(rows[0]))),
            f"Time within {TIME_AIM:.0%}: {time_met} of {len(errors)}; "
            f"memory within {MEMORY_AIM:.0%}: {memory_met} of {len(memories)}",
        ]
    )


def default_cases(packs: Sequence[StudentPack], folder: Path, threads: int | None = None) -> list[Case]:
    """Return every pack on scans of one window, of several, and of several at another spacing, in every possible way.

    Args:
        packs: the students.
        folder: for the scans, which are generated.
        threads: of the runs; None leaves them open.
    """
    cases = []
    for pack in packs:
        scans = [_scan(pack.manifest, folder, fraction, scale) for fraction, scale in ((1, 1), (1.4, 1), (1.6, 0.7))]
        for engine, precision in _WAYS:
            request = RunOptions(engine=engine, precision=precision, device="cpu", threads=threads)
            if find_candidates(pack.manifest, request).usable:
                cases += [Case(pack=pack, scan=scan, request=request) for scan in scans]
        request = RunOptions(engine="openvino", precision="float32", device="cpu", threads=threads)
        if find_candidates(pack.manifest, request).usable:
            cases.append(Case(pack=pack, scan=scans[1], request=request, entropy=True))
    return cases


def worker(arguments: Sequence[str]) -> None:
    """Run ``kdseg`` and print what the process took, as JSON."""
    from KDSegmentatorLib.cli.main import main as kdseg
    from KDSegmentatorLib.machine.hardware import peak_memory

    code = kdseg(arguments)
    if code:
        raise SystemExit(code)
    print(json.dumps({"cpu_seconds": time.process_time(), "peak_bytes": peak_memory()}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description="Compare estimates with what segmenting takes.")
    parser.add_argument("--packs", type=Path, nargs="*", default=[], metavar="FOLDER", help="folders of further packs")
    parser.add_argument("--only", metavar="TEXT", default="", help="only packs with this in their id")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        packs = PackStore(user_folder=Path(folder) / "none").packs()
        packs += [open_pack(path.parent) for parent in chosen.packs for path in sorted(parent.glob("*/manifest.json"))]
        packs = [pack for pack in packs if chosen.only in pack.manifest.id]
        cases = default_cases(packs, Path(folder), chosen.threads)
        errors = estimate_errors(cases, rounds=chosen.rounds, say=lambda line: print(line, file=sys.stderr, flush=True))
    print(report(errors))
    return 0


@dataclass(frozen=True, kw_only=True)
class _Run:
    seconds: float
    cpu_seconds: float
    peak_bytes: int | None


def _peaks(runs: Sequence[_Run]) -> list[int]:
    return [run.peak_bytes for run in runs if run.peak_bytes is not None]


def _estimate(case: Case) -> Estimate:
    options = msgspec.structs.replace(case.request, mirroring=case.mirroring, entropy=case.entropy)
    return estimate(case.pack, read_volume(case.scan), options)


@contextmanager
def _installed(packs: Any) -> Iterator[Path]:
    """Give a folder in which exactly these packs are installed."""
    with tempfile.TemporaryDirectory() as folder:
        store = PackStore(user_folder=folder)
        for pack in packs:
            store.install(pack.folder)
        yield Path(folder)


def _run(case: Case, store: Path) -> _Run:
    """Run ``kdseg segment`` once, in a process of its own."""
    manifest, request = case.pack.manifest, case.request
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__)), "--worker", "segment", str(case.scan)]
        command += [str(Path(folder) / "labels.nii.gz"), "--pack", manifest.task, "--size", manifest.size, "--quiet"]
        command += ["--engine", request.engine, "--precision", request.precision, "--device", request.device]
        command += ["--unchecked"]
        if request.threads is not None:
            command += ["--threads", str(request.threads)]
        if case.mirroring:
            command += ["--mirroring"]
        if case.entropy:
            command += ["--entropy", str(Path(folder) / "entropy.nii.gz")]
        environment = {**os.environ, ENVIRONMENT_VARIABLE: str(store), "PYTHONPATH": str(ROOT)}
        start = time.perf_counter()
        finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        seconds = time.perf_counter() - start
    content = json.loads(finished.stdout.splitlines()[-1])
    return _Run(seconds=seconds, cpu_seconds=content["cpu_seconds"], peak_bytes=content["peak_bytes"])


def _scan(manifest: Manifest, folder: Path, fraction: float, scale: float) -> Path:
    """Return a scan in int16 that is a number of windows long, at a multiple of the network's spacing."""
    preprocessing = manifest.preprocessing
    shape = [0, 0, 0]
    spacing = [0.0, 0.0, 0.0]
    for axis, source in enumerate(preprocessing.transpose_forward):
        shape[source] = max(1, round(fraction * manifest.windows.patch_size[axis] / scale))
        spacing[source] = scale * preprocessing.spacing[axis]
    path = folder / f"{'x'.join(map(str, shape))}-{'x'.join(f'{length:g}' for length in spacing)}.nii.gz"
    if not path.exists():
        random = np.random.default_rng(0)
        coarse = random.normal(size=[length // 8 + 2 for length in shape]).astype(np.float32)
        smooth = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)[: shape[0], : shape[1], : shape[2]]
        noise = random.standard_normal(size=shape, dtype=np.float32)
        voxels = np.clip(500 + 120 * smooth + 15 * noise, 1, None).astype(np.int16)
        k, j, i = spacing
        write_volume(Volume(voxels, (i, j, k)), path)
    return path


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2:])
        sys.exit(0)
    sys.exit(main())
