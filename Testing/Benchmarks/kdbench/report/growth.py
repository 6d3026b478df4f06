"""The sections that show how cost grows: with the volume, and with the number of classes."""

from __future__ import annotations

from kdbench.families import ABDOMEN_CT
from kdbench.parts.volumes import SIZE
from kdbench.report.markdown import count, gigabytes, ratio, seconds, shape, table, times
from kdbench.results import Part
from kdbench.setting import Scope


def volumes_section(part: Part) -> list[str]:
    """Return the section of the part ``volumes``."""
    rows = [
        [
            outcome.labels["scan_size"],
            outcome.labels["precision"],
            count(outcome.facts["voxels"] / 1e6),
            seconds(outcome.wall_seconds),
            seconds(outcome.detail("preprocess")),
            seconds(outcome.detail("windows")),
            seconds(outcome.detail("restore")),
            seconds(outcome.cpu_seconds),
            gigabytes(outcome.peak_bytes),
        ]
        for outcome in part.measured()
    ]
    return [
        "## Against the size of the volume",
        "",
        f"Generated CTs ({shape(Scope().ct_spacing)} mm), {ABDOMEN_CT.outputs} outputs, the paper's BTCV family at "
        f"{SIZE} with random weights ({count(ABDOMEN_CT.parameters[SIZE])} parameters, asserted; its spacing of "
        f"{shape(ABDOMEN_CT.spacing[::-1])} mm is assumed), OpenVINO, from file to file.",
        "",
        *table(
            [
                "Voxels",
                "Format",
                "Million",
                "Wall (s)",
                "Preparing (s)",
                "Network (s)",
                "Restoring (s)",
                "CPU (s)",
                "Memory (GB)",
            ],
            rows,
            texts=2,
        ),
    ]


def classes_section(part: Part) -> list[str]:
    """Return the section of the part ``classes``."""
    rows = []
    for outcome in part.measured():
        reference = part.first(classes="14", precision=outcome.labels["precision"])
        rows.append(
            [
                outcome.labels["classes"],
                outcome.labels["precision"],
                seconds(outcome.wall_seconds),
                times(ratio(outcome.wall_seconds, None if reference is None else reference.wall_seconds)),
                seconds(outcome.detail("windows")),
                seconds(outcome.detail("restore")),
                seconds(outcome.cpu_seconds),
                gigabytes(outcome.peak_bytes),
                times(ratio(outcome.peak_bytes, None if reference is None else reference.peak_bytes)),
            ]
        )
    return [
        "## Against the number of classes",
        "",
        "The paper's x1/4 body with heads of several sizes (background included) on the scan of the first table: one "
        "window, so that the head has the largest share. OpenVINO, from file to file.",
        "",
        *table(
            [
                "Classes",
                "Format",
                "Wall (s)",
                "Against 14",
                "Network (s)",
                "Restoring (s)",
                "CPU (s)",
                "Memory (GB)",
                "Against 14",
            ],
            rows,
            texts=2,
        ),
    ]
