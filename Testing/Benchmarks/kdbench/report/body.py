"""The sections about the network alone: the machine's peak, where its time goes, and one brain round it."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.report.markdown import UNKNOWN, count, percent, ratio, seconds, table, times
from kdbench.report.targets import peak_shares
from kdbench.results import Operation, Outcome, Part

_SHOWN_OPERATIONS = 12


def arithmetic_section(part: Part) -> list[str]:
    """Return the section of the part ``arithmetic``."""
    copy = part.first(what="copy")
    speed = None if copy is None else copy.detail("bytes_per_second")
    shares = {finding.way: finding.value for finding in peak_shares(part)}
    rows = []
    for body in part.found(what="body"):
        product = part.first(what="product", precision=body.labels["precision"])
        peak = None if product is None else product.detail("flops_per_second")
        reached = ratio(body.detail("flops"), body.detail("seconds"))
        if reached is not None:
            rows.append(
                [
                    body.labels["precision"],
                    _giga(peak),
                    _giga(body.detail("flops")),
                    seconds(body.detail("seconds")),
                    _giga(reached),
                    percent(shares.get(body.labels["precision"])),
                ]
            )
    lines = [
        "## The x1/4 body against the machine's peak",
        "",
        "The peak is the fastest product of two square matrices that OpenVINO (in float32 also numpy's BLAS) makes on "
        f"this machine; memory is copied at {_giga(speed)} GB/s, read and written together. Operations are 2 x "
        "multiply-accumulate of the convolutions, the head not among them.",
        "",
        *table(
            ["Format", "Peak (GFLOP/s)", "A window (GFLOP)", "A window (s)", "Reached (GFLOP/s)", "Of the peak"], rows
        ),
    ]
    if any(profile.runs for profile in part.found(what="profile")):
        lines += [
            "",
            "Where the time goes, as OpenVINO's own counters tell, which take a little time themselves (means over the "
            "runs): operations that were fused into another one count there. GB/s are the arrays that operations read "
            "and write over their time; what comes close to the speed of copying is bound by memory.",
        ]
    for profile in part.found(what="profile"):
        operations = _mean_operations(profile)
        if operations:
            product = part.first(what="product", precision=profile.labels["precision"])
            peak = None if product is None else product.detail("flops_per_second")
            lines += ["", *_profile(profile.labels["precision"], operations, peak)]
    return lines


def brain_section(part: Part) -> list[str]:
    """Return the section of the part ``brain``."""
    rows = []
    for outcome in part.found(what="file to file"):
        body = part.first(what="body", precision=outcome.labels["precision"])
        alone = None if body is None else body.detail("seconds")
        if outcome.runs:
            rows.append(
                [
                    outcome.labels["precision"],
                    seconds(outcome.wall_seconds),
                    seconds(alone),
                    times(ratio(outcome.wall_seconds, alone)),
                    seconds(_started(outcome)),
                    seconds(outcome.detail("preprocess")),
                    seconds(outcome.detail("windows")),
                    seconds(outcome.detail("restore")),
                    count(outcome.detail("calls")),
                ]
            )
    return [
        "## One skull-stripped brain",
        "",
        "nilearn's whole MNI152 T1 template, the paper's x1/4 with all its outputs, OpenVINO. *The body alone* is one "
        "window in a process that has warmed up; *starting and files* is what is left of the wall time.",
        "",
        *table(
            [
                "Format",
                "File to file (s)",
                "The body alone (s)",
                "Ratio",
                "Starting and files (s)",
                "Preparing (s)",
                "Network (s)",
                "Restoring (s)",
                "Network calls",
            ],
            rows,
        ),
    ]


def _profile(precision: str, operations: Sequence[Operation], peak: float | None) -> list[str]:
    total = sum(operation.seconds for operation in operations)
    shown, others = operations[:_SHOWN_OPERATIONS], operations[_SHOWN_OPERATIONS:]
    rows = [
        [
            operation.kind,
            _resolution(operation.coarseness),
            seconds(operation.seconds),
            percent(operation.seconds / total),
            _giga(ratio(operation.flops or None, operation.seconds)),
            percent(ratio(ratio(operation.flops or None, operation.seconds), peak)),
            f"{operation.bytes / operation.seconds / 1e9:.1f}" if operation.seconds else UNKNOWN,
        ]
        for operation in shown
    ]
    rest = sum(operation.seconds for operation in others)
    if others:
        rows.append([f"{len(others)} others", "", seconds(rest), percent(rest / total), "", "", ""])
    return [
        f"### Where the time goes: {precision}",
        "",
        *table(["Operation", "Resolution", "Time (s)", "Share", "GFLOP/s", "Of the peak", "GB/s"], rows, texts=2),
    ]


def _mean_operations(outcome: Outcome) -> list[Operation]:
    """Return the operations with their mean time over the runs, the longest first."""
    found: dict[tuple[str, int], list[Operation]] = {}
    for run in outcome.runs:
        for operation in run.inside.operations:
            found.setdefault((operation.kind, operation.coarseness), []).append(operation)
    runs = len(outcome.runs)
    means = [
        Operation(
            kind=kind,
            coarseness=coarseness,
            seconds=sum(each.seconds for each in group) / runs,
            flops=group[0].flops,
            bytes=group[0].bytes,
        )
        for (kind, coarseness), group in found.items()
    ]
    return sorted(means, key=lambda each: -each.seconds)


def _started(outcome: Outcome) -> float | None:
    wall, total = outcome.wall_seconds, outcome.detail("total")
    return None if wall is None or total is None else wall - total


def _resolution(coarseness: int) -> str:
    return {0: UNKNOWN, 1: "full"}.get(coarseness, f"1/{coarseness}")


def _giga(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value / 1e9:,.1f}"
