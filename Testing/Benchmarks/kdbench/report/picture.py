"""The picture: bars of the paper's family, curves against the volume and the number of classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.parts.paper import STOCK
from kdbench.report.markdown import gigabytes, seconds
from kdbench.results import Outcome, Part, Results
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.packs.names import divisor

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_SERIES: tuple[tuple[str, str, str, str], ...] = (
    (STOCK, "torch", "float32", "#666666"),
    ("kdseg", "onnxruntime", "float32", "#e69f00"),
    ("kdseg", "openvino", "float32", "#0072b2"),
    ("kdseg", "openvino", "bfloat16", "#56b4e9"),
    ("kdseg", "openvino", "int8", "#009e73"),
)
"""Software, engine, number format and colour (Okabe and Ito's palette)."""

_LINES = {"float32": "o-", "bfloat16": "s--", "int8": "^:"}
"""Markers and strokes, which tell the number formats apart without colour."""

_WIDTH, _ROW_HEIGHT = 11.0, 3.9
_BAR_HEIGHT = 0.8
_DOTS_PER_INCH = 110

Value = Callable[[Outcome], float | None]


def draw(results: Results, path: Path) -> bool:
    """Write the picture of what was measured, as a whole or not at all.

    Returns:
        Whether there was anything to draw.

    Raises:
        ImageWriteError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    rows = [(name, row) for name, row in _ROWS.items() if name in results.parts and results.parts[name].measured()]
    if not rows:
        return False
    figure = Figure(figsize=(_WIDTH, _ROW_HEIGHT * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for (name, row), (left, right) in zip(rows, axes, strict=True):
        row(results.parts[name], left, right)
        for each in (left, right):
            each.spines[["top", "right"]].set_visible(False)
    with atomic_output(path) as unfinished:
        figure.savefig(unfinished, dpi=_DOTS_PER_INCH, format="png")
    return True


def _draw_paper(part: Part, left: Axes, right: Axes) -> None:
    outcomes = [outcome for outcome in part.measured() if outcome.labels["software"] != "comparison"]
    left.set(xlabel="seconds, file to file (logarithmic)", title="The paper's family, 111 outputs: time", xscale="log")
    _bars(left, outcomes, _wall, seconds)
    left.xaxis.set_major_formatter("{x:g}")
    _bars(right, outcomes, _memory, lambda value: gigabytes(None if value is None else value * 1e9))
    right.set(xlabel="GB", title="The paper's family, 111 outputs: peak memory")
    handles, names = _in_order(right)
    right.legend(
        handles,
        names,
        frameon=False,
        fontsize=7.5,
        labelspacing=0.25,
        loc="center right",
        bbox_to_anchor=(1.0, 0.44),  # beside the short bars of x1/2, below nnU-Net's
    )


def _draw_volumes(part: Part, left: Axes, right: Axes) -> None:
    def voxels(outcome: Outcome) -> float:
        return outcome.facts["voxels"] / 1e6

    for axes, value, unit in ((left, _wall, "seconds"), (right, _memory, "GB")):
        _curves(axes, part.measured(), voxels, value)
        axes.set(xlabel="million voxels", ylabel=unit)
    left.set_title("CT, 14 classes: time by volume")
    right.set_title("CT, 14 classes: peak memory by volume")


def _draw_classes(part: Part, left: Axes, right: Axes) -> None:
    def classes(outcome: Outcome) -> float:
        return outcome.facts["classes"]

    for axes, value, unit in ((left, _wall, "seconds"), (right, _memory, "GB")):
        _curves(axes, part.measured(), classes, value)
        axes.set(xlabel="classes, background included", ylabel=unit)
    left.set_title("x1/4 on one window: time by classes")
    right.set_title("x1/4 on one window: peak memory by classes")


def _bars(axes: Axes, outcomes: Sequence[Outcome], value: Value, shown: Callable[[float | None], str]) -> None:
    """Draw a group of horizontal bars for every size, the largest on top."""
    sizes = sorted({outcome.labels["size"] for outcome in outcomes}, key=divisor)
    height = _BAR_HEIGHT / len(_SERIES)
    lengths: list[float] = []
    for place, (software, engine, precision, colour) in enumerate(_SERIES):
        title = software if software == STOCK else f"{engine} {precision}"
        for number, size in enumerate(sizes):
            labels = {"software": software, "engine": engine, "precision": precision, "size": size}
            found = next((outcome for outcome in outcomes if outcome.is_a(**labels)), None)
            length = None if found is None else value(found)
            if length is None:
                continue
            at = number + (place - (len(_SERIES) - 1) / 2) * height
            known = axes.get_legend_handles_labels()[1]
            axes.barh(at, length, height=0.9 * height, color=colour, label=None if title in known else title)
            axes.annotate(shown(length), (length, at), (3, 0), textcoords="offset points", va="center", fontsize=7)
            lengths.append(length)
    axes.set_yticks(range(len(sizes)), sizes)
    axes.invert_yaxis()
    if lengths and axes.get_xscale() == "log":  # equal ratios are equal lengths, wherever the bars start
        axes.set_xlim(10 ** math.floor(math.log10(min(lengths))), 2 * max(lengths))
    elif lengths:
        axes.set_xlim(0, 1.15 * max(lengths))


def _curves(axes: Axes, outcomes: Sequence[Outcome], place: Callable[[Outcome], float], value: Value) -> None:
    """Draw a curve for every number format, from zero."""
    for _, engine, precision, colour in _SERIES[2:]:
        points = [
            (place(outcome), height)
            for outcome in outcomes
            if outcome.is_a(engine=engine, precision=precision) and (height := value(outcome)) is not None
        ]
        if points:
            x, y = zip(*sorted(points), strict=True)
            axes.plot(x, y, _LINES[precision], color=colour, label=f"{engine} {precision}")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _in_order(axes: Axes) -> tuple[list[Artist], list[str]]:
    """Return the legend's entries in the order of the series, whichever size came first."""
    handles, labels = axes.get_legend_handles_labels()
    order = [software if software == STOCK else f"{engine} {precision}" for software, engine, precision, _ in _SERIES]
    pairs = sorted(zip(handles, labels, strict=True), key=lambda pair: order.index(pair[1]))
    return [handle for handle, _ in pairs], [label for _, label in pairs]


def _wall(outcome: Outcome) -> float | None:
    return outcome.wall_seconds


def _memory(outcome: Outcome) -> float | None:
    peak = outcome.peak_bytes
    return None if peak is None else peak / 1e9


_ROWS: dict[str, Callable[[Part, Axes, Axes], None]] = {
    "paper": _draw_paper,
    "volumes": _draw_volumes,
    "classes": _draw_classes,
}
