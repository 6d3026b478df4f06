"""Soak of the inference node: many scans, three workers, and kills of workers and node at random moments.

Usage: PYTHONPATH=.:Testing/Python python -m support.node_soak [--jobs 1000] [--seconds-between-kills 15]

Everything runs on this machine. The pack is trivially fast, so that queue, files and processes are what is loaded. At
the end every scan must have been delivered once: one job, one note of its delivery, one complete folder of results.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import write_volume
from KDSegmentatorLib.node import history
from KDSegmentatorLib.node.deliveries import Deliveries
from KDSegmentatorLib.node.new_node import make_node
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.settings import SETTINGS_NAME
from KDSegmentatorLib.packs.store import PackStore
from support.generated_family import build_size
from support.node_processes import RunningNode

SETTINGS = """
[watch]
folder = "in"
settled_seconds = 0.5
poll_seconds = 1
[[target]]
name = "out"
kind = "folder"
folder = "out"
[[rule]]
name = "soak"
task = "generated"
outputs = ["labels", "statistics"]
targets = ["out"]
options = {{ engine = "onnxruntime", threads = 1 }}
[limits]
workers = {workers}
free_gb = 0.1
used_percent = 100
[page]
port = 0
"""
RESULTS = {"labels.nii.gz", "statistics.csv", "record.json"}


def soak(
    root: Path, jobs: int, workers: int, between_kills: float, most_seconds: float, seed: int
) -> dict[str, object]:
    """Run the soak; return what happened.

    Args:
        root: an empty folder.
        jobs: number of scans.
        workers: processes that segment.
        between_kills: mean seconds between two kills.
        most_seconds: after so long the soak has failed.
        seed: of the moments and victims.
    """
    chance = random.Random(seed)
    places = node_folder(root, jobs, workers)
    queue = Queue(places.queue)
    Deliveries(queue)
    kills: Counter[str] = Counter()
    begun = time.monotonic()
    node = RunningNode(places)
    node.__enter__()
    next_kill = time.monotonic() + between_kills
    try:
        while queue.counts()["delivered"] < jobs and time.monotonic() - begun < most_seconds:
            time.sleep(0.2)
            if time.monotonic() < next_kill:
                continue
            next_kill = time.monotonic() + chance.expovariate(1 / between_kills)
            found = node.workers()
            if found and chance.random() < 0.75:
                kills["worker"] += 1
                psutil.Process(chance.choice(found).pid).kill()
            else:
                kills["node"] += 1
                node.kill()
                node.__exit__()
                node = RunningNode(places)
                node.__enter__()
        seconds = time.monotonic() - begun
        node.stop()
    finally:
        node.__exit__()
    entries = list(history.entries(queue.connection))  # checks the chain
    delivered = Counter(entry["job"] for entry in entries if entry["event"] == "delivered to")
    folders = [path for path in (root / "out").glob("*/soak") if {each.name for each in path.iterdir()} == RESULTS]
    return {
        "scans": jobs,
        "workers": workers,
        "jobs": sum(queue.counts().values()),
        "states": {state: count for state, count in queue.counts().items() if count},
        "kills": dict(kills),
        "attempts": sum(entry["event"] == "segmenting" for entry in entries),
        "delivered once": sum(count == 1 for count in delivered.values()),
        "delivered more than once": sum(count > 1 for count in delivered.values()),
        "complete folders": len(folders),
        "left behind": len(list((root / "out").glob("**/.*"))),
        "audit entries": len(entries),
        "seconds": round(seconds, 1),
    }


def node_folder(root: Path, jobs: int, workers: int) -> Places:
    """Make a node with a small pack and scans that all differ."""
    root.mkdir(parents=True, exist_ok=True)
    (root / SETTINGS_NAME).write_text(SETTINGS.format(workers=workers), encoding="utf-8")
    make_node(root)
    PackStore(root / "packs").install(build_size(root / "built", "x1/4").folder)
    rng = np.random.default_rng(0)
    for number in range(jobs):
        voxels = rng.gamma(2, 100, size=(10, 12, 9)).astype(np.float32)
        grid = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        write_volume(Volume(voxels, (1.1, 0.9, 1.7), (0.0, 0.0, 0.0), grid), root / "in" / f"{number:04}.nii.gz")
    return Places(root)


def main() -> int:
    """Run the soak and print what happened; the exit code says whether each scan was delivered once."""
    parser = argparse.ArgumentParser(description="Soak of the inference node.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seconds-between-kills", type=float, default=15.0)
    parser.add_argument("--most-seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(
            Path(folder) / "node", arguments.jobs, arguments.workers, arguments.seconds_between_kills,
            arguments.most_seconds, arguments.seed,
        )  # fmt: skip
    print(json.dumps(found, indent=2))
    good = found["delivered once"] == found["complete folders"] == found["jobs"] == arguments.jobs
    return 0 if good and not found["left behind"] else 1


if __name__ == "__main__":
    sys.exit(main())
