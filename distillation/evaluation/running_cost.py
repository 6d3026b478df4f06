"""What a pack costs where it is used: wall time and peak memory of one case, in a process of its own.

``python -m distillation.evaluation.running_cost PACK IMAGE ROUNDS THREADS`` is that process; it has loaded nothing that
a clinical machine would not load, so that its peak memory is that of the product.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import ExportError, KDSegmentatorError
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.machine.hardware import peak_memory
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.pack import StudentPack, open_pack

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class RunningCost:
    """One case through one pack in float32.

    Attributes:
        seconds: median wall time, from the image in memory to the segmentation; the first run is not counted.
        peak_bytes: largest memory that the process had, with Python and its libraries; None where the operating system
            does not tell.
        rounds: runs that were counted.
        engine: name of the inference engine.
        threads: CPU threads asked for; None leaves it to the engine.
    """

    seconds: float
    peak_bytes: int | None
    rounds: int
    engine: str
    threads: int | None


def running_cost(pack: StudentPack, image: Path, *, threads: int | None = None, rounds: int = ROUNDS) -> RunningCost:
    """Run a pack on an image in a process of its own and return what that took.

    Raises:
        ExportError: the process failed; the message holds its last words.
    """
    arguments = [str(pack.folder.resolve()), str(image.resolve()), str(rounds), str(threads or 0)]
    done = subprocess.run(  # noqa: S603 - this file, with this Python
        [sys.executable, "-m", __name__, *arguments], capture_output=True, text=True, check=False
    )
    try:
        return RunningCost(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError) as error:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ExportError(f"the run of {pack.manifest.id} on {image} could not be measured: {words}") from error


def main(arguments: Sequence[str]) -> None:
    """Measure, and print one line of JSON."""
    folder, image, rounds, threads = arguments
    pack = open_pack(Path(folder))
    asked = int(threads) or None
    engine = choose_engine(pack, RunOptions(precision="float32", threads=asked)).engine
    volume = read_volume(Path(image))
    seconds = [
        segment(volume, pack, engine, RunOptions(region="given")).record.seconds["total"]
        for _ in range(1 + int(rounds))
    ]
    found = {
        "seconds": round(median(seconds[1:]), 4),
        "peak_bytes": peak_memory(),
        "rounds": int(rounds),
        "engine": engine.name,
        "threads": asked,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KDSegmentatorError as error:
        sys.exit(str(error))
