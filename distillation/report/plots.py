"""Plots of a report and the files that they are: accuracy against size, structures, differences, training curves."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from distillation.evaluation.paired_statistics import METRIC_TITLES, METRICS, paired_differences
from distillation.evaluation.tables import unit
from distillation.report.task_results import TEACHER
from KDSegmentatorLib.errors import ExportError

if TYPE_CHECKING:
    from typing import Any

    from distillation.report.task_results import TaskResults
    from distillation.training_log import TrainingCurves
    from KDSegmentatorLib.packs.manifest import Interval


FORMATS = {"png": "image/png", "svg": "image/svg+xml"}

# Okabe and Ito: distinguishable with every kind of colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure.

    Attributes:
        name: of its file, without suffix.
        caption: what it shows.
        suffix: ``png`` or ``svg``.
        content: of the file.
    """

    name: str
    caption: str
    suffix: Literal["png", "svg"]
    content: bytes

    def html(self) -> str:
        """Return it as HTML that needs no other file."""
        data = base64.b64encode(self.content).decode()
        return (
            f'<figure><img alt="{escape(self.caption)}" src="data:{FORMATS[self.suffix]};base64,{data}">'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>\n"
        )

    def markdown(self, folder: str) -> str:
        """Return it as Markdown that shows the file in a folder beside it."""
        return f"![{self.caption}]({folder}/{self.name}.{self.suffix})\n\n{self.caption}\n"


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of a size in inches, without pyplot's global state.

    Raises:
        ExportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExportError(
            "plots need matplotlib; install it: pip install matplotlib, or the extra 'distill'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, name: str, caption: str, suffix: Literal["png", "svg"] = "svg") -> Picture:
    """Return a matplotlib figure as a file; the same figure gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        metadata = {"Date": None} if suffix == "svg" else {}
        figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata, facecolor=figure.get_facecolor())
    return Picture(name=name, caption=caption, suffix=suffix, content=buffer.getvalue())


_LINES = ("-", "--", ":", "-.")
"""Of the sizes in training curves."""

_MOST_LABELS = 60
"""Structures that a plot can show one below the other."""


def method_colors(models: Sequence[str]) -> dict[str, str]:
    """Return a colour for every method; that of the teacher is black."""
    methods = dict.fromkeys(model.partition(" ")[2] for model in models if model != TEACHER)
    colors = {method: COLORS[n % (len(COLORS) - 1)] for n, method in enumerate(methods)}
    return {**colors, "teacher": COLORS[-1]}


def accuracy_plot(results: TaskResults) -> Picture | None:
    """Return all metrics against the number of parameters; None if the parameters are not known."""
    parameters = {each.model: each.parameters for each in results.efficiency}
    joined = {model: result for model, result in results.joined().items() if model in parameters}
    if not joined:
        return None
    colors = method_colors(results.models)
    figure = new_figure(10.5, 3.6)
    for axes, metric in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        if TEACHER in joined:
            axes.axhline(joined[TEACHER].mean(metric), color=COLORS[-1], linewidth=0.8, linestyle=":")
        for place, method in enumerate(colors):
            found = sorted((parameters[model], model) for model in joined if model.partition(" ")[2] == method)
            if not found:
                continue
            shift = 1.03 ** (place - len(colors) / 2)  # so that the intervals do not hide each other
            _with_intervals(
                axes,
                [count * shift for count, _ in found],
                [joined[model].metrics[metric].mean for _, model in found],
                color=colors[method],
                label=method,
            )
        axes.set_xscale("log")
        counts = sorted({parameters[model] for model in joined})
        axes.set_xticks(counts, [f"{count / 1e6:.3g} M" for count in counts])
        axes.minorticks_off()
        axes.set_xlabel("parameters")
        axes.set_title(METRIC_TITLES[metric] + (", lower is better" if metric == "hd95_mm" else ""), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    over = unit(joined.values())
    caption = f"Accuracy against size: means over {over} with 95 % intervals; dotted: the teacher."
    unknown = [model for model in results.models if model not in parameters]
    if unknown:
        caption += f" Left out, their size was not measured: {', '.join(unknown)}."
    return save(figure, "accuracy", caption)


def label_plot(results: TaskResults) -> Picture | None:
    """Return the Dice of every structure by network; None with more structures than can be shown."""
    if len(results.labels) > _MOST_LABELS:
        return None
    joined = results.joined()
    colors = method_colors(results.models)
    figure = new_figure(8, 1.2 + 0.25 * len(results.labels) * max(2, len(joined) / 2))
    axes = figure.subplots()
    step = 0.8 / len(joined)
    for n, (model, result) in enumerate(joined.items()):
        size, _, method = model.partition(" ")
        found = [
            (row + (n + 0.5) * step - 0.4, result.metrics["dice"].labels[value])
            for row, value in enumerate(results.labels)
            if value in result.metrics["dice"].labels
        ]
        if not found:
            continue
        _with_intervals(
            axes,
            [place for place, _ in found],
            [interval for _, interval in found],
            color=colors[method],
            label=model,
            marker=_marker(size, results),
            horizontal=True,
        )
    axes.set_yticks(range(len(results.labels)), list(results.labels.values()))
    axes.invert_yaxis()
    axes.set_xlabel("Dice")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(4, len(joined)), frameon=False)
    caption = f"Dice by structure: means over {unit(joined.values())} with 95 % intervals."
    return save(figure, "structures", caption)


def difference_plot(results: TaskResults) -> Picture | None:
    """Return the paired differences of the subjects, distilled - plain; None if there is no such pair."""
    joined = results.joined()
    pairs = list(dict.fromkeys((each.better, each.baseline) for each in results.comparisons()))
    if not pairs:
        return None
    colors = method_colors(results.models)
    figure = new_figure(10.5, 1.4 + 0.5 * len(pairs))
    for axes, metric in zip(figure.subplots(1, len(METRICS), sharey=True), METRICS, strict=True):
        for row, (better, baseline) in enumerate(pairs):
            values = list(paired_differences(joined[better], joined[baseline], metric).values())
            places = [row + 0.3 * _spread(n, len(values)) for n in range(len(values))]
            axes.scatter(values, places, s=9, alpha=0.55, color=colors[better.partition(" ")[2]], linewidths=0)
            axes.plot([sum(values) / len(values)] * 2, [row - 0.35, row + 0.35], color=COLORS[-1], linewidth=1.4)
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set_title(
            METRIC_TITLES[metric] + (", left is better" if metric == "hd95_mm" else ", right is better"), fontsize=10
        )
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks(range(len(pairs)), [better for better, _ in pairs])
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    dot = unit(joined.values()).removesuffix("s")
    caption = f"Distilled - plain of the same size: one dot a {dot}, the line is the mean."
    return save(figure, "differences", caption)


def training_plot(logs: Mapping[str, TrainingCurves]) -> Picture | None:
    """Return the training curves: all parts of the loss, and nnU-Net's pseudo Dice where it is known."""
    curves = list(dict.fromkeys(name for log in logs.values() for name in log.curves))
    if not curves:
        return None
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = new_figure(3.5 * columns, 0.6 + 2.5 * rows)
    colors = method_colors(list(logs))
    sizes = list(dict.fromkeys(model.partition(" ")[0] for model in logs))
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    handles: dict[str, Any] = {}
    for axes, curve in zip(grid, curves, strict=False):
        for model, log in logs.items():
            size, _, method = model.partition(" ")
            style = {"color": colors[method], "linestyle": _LINES[sizes.index(size) % len(_LINES)], "linewidth": 1.2}
            if curve in log.curves:
                epochs = [epoch + 1 for epoch in log.epochs]
                (handles[model],) = axes.plot(epochs, log.curves[curve], **style)
        axes.set_title(curve.replace("_", " "), fontsize=10)
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(curves) :]:
        axes.set_axis_off()
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)), frameon=False
    )
    caption = (
        "Training curves, epoch by epoch. A student with a warm-up starts from its weights. The losses of different "
        "methods have different terms and are not to be compared with each other."
    )
    return save(figure, "training", caption)


def _with_intervals(
    axes: Any,
    places: Sequence[float],
    intervals: Sequence[Interval],
    *,
    color: str,
    label: str,
    marker: str = "o",
    horizontal: bool = False,
) -> None:
    means = [interval.mean for interval in intervals]
    errors = [
        [max(0.0, interval.mean - interval.low) for interval in intervals],
        [max(0.0, interval.high - interval.mean) for interval in intervals],
    ]
    style = {"color": color, "marker": marker, "markersize": 4.5, "capsize": 2, "linewidth": 1, "label": label}
    if horizontal:
        axes.errorbar(means, places, xerr=errors, linestyle="none", **style)
    else:
        axes.errorbar(places, means, yerr=errors, linestyle="-", **style)


def _marker(size: str, results: TaskResults) -> str:
    sizes = list(dict.fromkeys(model.partition(" ")[0] for model in results.models))
    return "osD^v"[sizes.index(size) % 5]


def _spread(n: int, count: int) -> float:
    """Return a place from -1 to 1 that neighbours do not share."""
    return 0.0 if count == 1 else 2 * ((n * 0.618034) % 1) - 1
