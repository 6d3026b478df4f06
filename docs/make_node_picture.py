"""Draws docs/images/node-status.png: the status page of a node at work, in headless Chromium.

Usage: python docs/make_node_picture.py [--chromium PATH]

The jobs are put into a queue by hand, so that every state can be seen; the page is the real one.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from KDSegmentatorLib.node.deliveries import Deliveries, Delivery
from KDSegmentatorLib.node.job import Job
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.settings import DicomTarget, FolderTarget, Rule, Settings
from KDSegmentatorLib.node.status_page import StatusPage

PICTURE = Path(__file__).parent / "images" / "node-status.png"
SETTINGS = Settings(
    rule=(
        Rule(name="brain", task="brain-t1", targets=("research", "pacs")),
        Rule(name="hippocampus", task="hippocampus", targets=("pacs",)),
    ),
    target=(
        FolderTarget(name="research", folder="out"),
        DicomTarget(name="pacs", host="127.0.0.1", port=104, aet="PACS", commitment=True),
    ),
)
PACKS = {"brain": ("brain-t1-x1_4 1.1.0", "a" * 64), "hippocampus": ("hippocampus-x1_4 1.0.0", "b" * 64)}


class Clock:
    """Time as the jobs have it: it goes on by itself while the page is looked at."""

    def __init__(self) -> None:
        self.now = 1_796_112_000.0

    def __call__(self) -> float:
        """Return the seconds since 1970."""
        return self.now


def begun(queue: Queue, seconds: float = 60) -> Job:
    """Take the next job, which has to be there."""
    job = queue.claim(seconds)
    if job is None:
        raise RuntimeError("there is no job")
    return job


def fill(queue: Queue, deliveries: Deliveries, clock: Clock) -> None:
    """Put jobs of all kinds into a queue."""

    def add(rule: str, refusal: str = "") -> None:
        number = len(queue.jobs()) + 1
        rules = {rule: 0} if rule else {}
        queue.admit(content=str(number), series=str(number), source="{}", rules=rules, refusal=refusal)

    def written(rule: str, seconds: float) -> None:
        job = begun(queue)
        queue.note_pack(job, *PACKS[rule])
        clock.now += seconds
        targets = next(each.targets for each in SETTINGS.rule if each.name == rule)
        deliveries.written(job, targets, {})

    def each(target: str, do: Callable[[Delivery], None]) -> None:
        while (due := deliveries.due(target)) is not None and deliveries.begin(due):
            do(due)

    for rule, seconds in (("brain", 17), ("hippocampus", 2), ("brain", 19), ("brain", 16)):
        add(rule)
        clock.now += 40
        written(rule, seconds)
        each("research", lambda due: deliveries.succeed(due, commitment=False, stored=[]))
        each("pacs", lambda due: deliveries.succeed(due, commitment=True, stored=[]))
        clock.now += 95
    for asked in deliveries.unconfirmed("pacs")[:3]:
        deliveries.confirm(asked)
    add("hippocampus")
    job = begun(queue)
    reason = "slice 84 is missing: 5.0 mm lie between its neighbours instead of 2.5 mm; send the series again"
    queue.end_attempt(job, "refused", reason)
    add("", "no rule fits (brain: it has 3 images; hippocampus: it has 3 images)")
    add("brain")
    clock.now += 70
    written("brain", 18)
    each("research", lambda due: deliveries.succeed(due, commitment=False, stored=[]))
    each("pacs", lambda due: deliveries.postpone(due, "127.0.0.1:104 does not answer; look whether it runs", 120))
    clock.now += 30
    add("brain")
    job = begun(queue, 3600)
    queue.note_pack(job, *PACKS["brain"])
    clock.now += 9
    queue.renew(job, 3600, 0.62)
    add("hippocampus")
    clock.now += 4


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description="Draw docs/images/node-status.png.")
    parser.add_argument("--chromium", default="chromium", metavar="PATH", help="the browser (default: chromium)")
    parser.add_argument("--output", type=Path, default=PICTURE, metavar="FILE.png")
    parser.add_argument("--suspended", action="store_true", help="show the banner of a suspended queue")
    parser.add_argument("--dark", action="store_true", help="as at night")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        queue = Queue(Path(folder) / "queue.sqlite", clock=clock)
        deliveries = Deliveries(queue)
        fill(queue, deliveries, clock)
        if arguments.suspended:
            queue.suspend("disk", "the disk of the node's folder has 3.1 GB left, less than [limits] free_gb = 5")
        with StatusPage(0, queue, deliveries, SETTINGS) as page:
            subprocess.run(  # noqa: S603 - the browser that was named
                [
                    arguments.chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                    "--force-device-scale-factor=1.5", "--window-size=1240,1010", "--virtual-time-budget=4000",
                    *(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if arguments.dark else []),
                    f"--user-data-dir={folder}/browser", f"--screenshot={arguments.output.resolve()}",
                    f"http://127.0.0.1:{page.port}/",
                ],
                check=True, capture_output=True, timeout=120,
            )  # fmt: skip


if __name__ == "__main__":
    main()
