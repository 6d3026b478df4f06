"""What the figures of the paper's family mean for a large number of scans."""

from __future__ import annotations

from kdbench.report.markdown import UNKNOWN, count, gigabytes, table
from kdbench.results import Outcome, Part
from KDSegmentatorLib.packs.names import divisor

SCANS = 100_000
NODE_CORES = 16
_HOUR_SECONDS = 3600
_DAY_HOURS = 24


def scale_section(part: Part) -> list[str]:
    """Return the section, from the outcomes of the part ``paper``."""
    cores = part.machine.logical_cores
    beside = max(1, NODE_CORES // cores)
    measured = [outcome for outcome in part.measured() if outcome.labels["software"] != "comparison"]
    rows = [_row(outcome, beside) for outcome in sorted(measured, key=lambda each: divisor(each.labels["size"]))]
    return [
        f"## What follows for {SCANS:,} scans",
        "",
        f"Computed from the medians above, for scans like that one. A node of {NODE_CORES} cores is taken to be "
        f"{NODE_CORES} of this machine's logical cores, kept busy by {beside} scans side by side on {cores} cores "
        "each: its time for a scan is the CPU time over the number of cores. This assumes that memory bandwidth grows "
        "with the cores; where it does not, every row gets slower.",
        "",
        *table(
            [
                "Size",
                "With",
                f"CPU-hours for {SCANS:,}",
                "Days on one node",
                "Scans an hour on one node",
                f"Memory of a scan (GB), {beside} at a time",
            ],
            rows,
            texts=2,
        ),
    ]


def _row(outcome: Outcome, beside: int) -> list[str]:
    cpu = outcome.cpu_seconds or 0.0
    hours = cpu * SCANS / _HOUR_SECONDS
    memory = outcome.peak_bytes
    return [
        outcome.labels["size"],
        f"{outcome.labels['software']}, {outcome.labels['engine']} {outcome.labels['precision']}",
        count(hours),
        f"{hours / NODE_CORES / _DAY_HOURS:,.1f}",
        count(NODE_CORES * _HOUR_SECONDS / cpu) if cpu else UNKNOWN,
        UNKNOWN if memory is None else f"{gigabytes(memory)}, {gigabytes(memory * beside)}",
    ]
