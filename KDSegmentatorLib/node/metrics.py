"""The node's figures for Prometheus, in its text format 0.0.4."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from KDSegmentatorLib.node.deliveries import DELIVERY_STATES, Deliveries
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.settings import Settings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text(queue: Queue, deliveries: Deliveries, settings: Settings) -> str:
    """Return jobs by state, deliveries by target and state, age of the oldest job, times, disk, and whether it works.

    Args:
        queue: with the jobs.
        deliveries: of the queue.
        settings: with the targets.
    """
    now = queue.clock()
    oldest, count, seconds = queue.connection.execute(
        "SELECT MIN(CASE WHEN state IN ('received', 'segmenting') THEN received END), COUNT(written), "
        "TOTAL(written - started) FROM jobs"
    ).fetchone()
    disk = shutil.disk_usage(queue.path.parent)
    delivered = deliveries.counts()
    return "".join(
        [
            _family("kdseg_jobs", "gauge", "Jobs by state", _by("state", queue.counts().items())),
            _family(
                "kdseg_deliveries",
                "gauge",
                "Deliveries by target and state",
                [
                    (f'{{target="{target.name}",state="{state}"}}', delivered.get((target.name, state), 0))
                    for target in settings.target
                    for state in DELIVERY_STATES
                ],
            ),
            _family(
                "kdseg_oldest_job_seconds",
                "gauge",
                "Age of the oldest job that is not segmented",
                [("", now - oldest if oldest else 0)],
            ),
            _family("kdseg_segmented_total", "counter", "Jobs whose results were written", [("", count)]),
            _family(
                "kdseg_segmenting_seconds_total",
                "counter",
                "Seconds from their starts to their results",
                [("", seconds)],
            ),
            _family("kdseg_suspended", "gauge", "1 while no job is begun", [("", int(queue.suspension() is not None))]),
            _family("kdseg_disk_free_bytes", "gauge", "Free on the disk of the node's folder", [("", disk.free)]),
        ]
    )


def _family(name: str, kind: str, help_: str, samples: Iterable[tuple[str, float]]) -> str:
    lines = [
        f"# HELP {name} {help_}",
        f"# TYPE {name} {kind}",
        *(f"{name}{labels} {value}" for labels, value in samples),
    ]
    return "\n".join(lines) + "\n"


def _by(label: str, items: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(f'{{{label}="{key}"}}', value) for key, value in items]
