"""The sections that compare: the paper's family with stock nnU-Net, and the shipped packs with each other."""

from __future__ import annotations

from kdbench.families import BRAIN_MR
from kdbench.parts.paper import STOCK
from kdbench.report.markdown import count, gigabytes, percent, ratio, seconds, shape, table, times
from kdbench.results import Outcome, Part
from kdbench.setting import Scope
from KDSegmentatorLib.packs.names import divisor


def paper_section(part: Part) -> list[str]:
    """Return the section of the part ``paper``."""
    rows = []
    for outcome in sorted(part.measured(), key=_by_size):
        if outcome.labels["software"] == "comparison":
            continue
        stock = part.first(software=STOCK, size=outcome.labels["size"])
        teacher = part.first(software=STOCK, size="x1")
        same = part.first(
            software="comparison",
            size=outcome.labels["size"],
            engine=outcome.labels["engine"],
            precision=outcome.labels["precision"],
        )
        rows.append(
            [
                outcome.labels["size"],
                _software(outcome),
                seconds(outcome.wall_seconds),
                times(ratio(None if stock is None else stock.wall_seconds, outcome.wall_seconds)),
                times(ratio(None if teacher is None else teacher.wall_seconds, outcome.wall_seconds)),
                percent(ratio(outcome.detail("windows"), outcome.wall_seconds)),
                seconds(outcome.cpu_seconds),
                gigabytes(outcome.peak_bytes),
                percent(None if same is None else same.detail("equal"), 2),
                str(len(outcome.runs)),
            ]
        )
    parameters = {
        outcome.labels["size"]: outcome.facts["parameters"]
        for outcome in part.outcomes.values()
        if "parameters" in outcome.facts
    }
    counts = ", ".join(f"{size} {count(parameters[size])}" for size in sorted(parameters, key=divisor))
    return [
        "## The paper's family, end to end",
        "",
        f"One {shape(Scope().brain_scan)} scan, {BRAIN_MR.outputs} outputs, from file to file. The networks are the "
        f"paper's ({counts} parameters, asserted), with random weights. *nnU-Net* is "
        "`nnUNetv2_predict_from_modelfolder -device cpu --disable_tta`, its other settings as they come. bfloat16 and "
        "int8 are used in shipped packs only where accuracy was measured to hold; random weights have none, so that "
        "these packs name both without a check. *Same labels* is the share of the foreground that gets stock nnU-Net's "
        "label: nnU-Net adds logits up in float16, packs store kernels in float16, and with random weights many voxels "
        "lie close to a border, so that rounding shows more than in trained networks.",
        "",
        *table(
            [
                "Size",
                "With",
                "Wall (s)",
                "Against nnU-Net, same size",
                "Against nnU-Net, x1",
                "Network's share",
                "CPU (s)",
                "Memory (GB)",
                "Same labels",
                "Runs",
            ],
            rows,
            texts=2,
        ),
    ]


def shipped_section(part: Part) -> list[str]:
    """Return the section of the part ``shipped``."""
    lines = [
        "## Shipped packs on real volumes",
        "",
        "Pieces of nilearn's MNI152 T1 template (1 mm). The larger one is for cost alone: the students were trained on "
        "crops round one hippocampus, and its labels mean nothing.",
    ]
    for scan in dict.fromkeys(outcome.labels["scan_name"] for outcome in part.outcomes.values()):
        outcomes = [outcome for outcome in part.measured() if outcome.labels["scan_name"] == scan]
        if not outcomes:
            continue
        calls = outcomes[0].detail("calls")
        first = {outcome.labels["task"]: outcome for outcome in reversed(outcomes)}
        rows = [
            [
                outcome.labels["task"],
                outcome.labels["size"],
                _software(outcome),
                seconds(outcome.wall_seconds),
                times(ratio(first[outcome.labels["task"]].wall_seconds, outcome.wall_seconds)),
                seconds(outcome.detail("total")),
                seconds(outcome.detail("windows")),
                seconds(outcome.cpu_seconds),
                gigabytes(outcome.peak_bytes),
            ]
            for outcome in outcomes
        ]
        lines += [
            "",
            f"### {scan.capitalize()}: {outcomes[0].labels['scan_size']} voxels, network calls: {count(calls)}",
            "",
            *table(
                [
                    "Task",
                    "Size",
                    "With",
                    "Wall (s)",
                    "Against the first row",
                    "Segmenting (s)",
                    "Network (s)",
                    "CPU (s)",
                    "Memory (GB)",
                ],
                rows,
                texts=3,
            ),
        ]
    return lines


def _by_size(outcome: Outcome) -> int:
    return divisor(outcome.labels["size"])


def _software(outcome: Outcome) -> str:
    """Return for example ``nnU-Net`` or ``openvino bfloat16``."""
    labels = outcome.labels
    return STOCK if labels["software"] == STOCK else f"{labels['engine']} {labels['precision']}"
