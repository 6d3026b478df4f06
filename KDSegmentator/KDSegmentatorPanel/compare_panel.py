"""The way through the Compare box: pairs of segmentations, their scores, and where they disagree."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from KDSegmentatorLib.analysis.comparison import Comparison, compare, write_comparison
from KDSegmentatorLib.analysis.disagreement import checkerboard, disagreement_map
from KDSegmentatorLib.errors import CancelledError, KDSegmentatorError
from KDSegmentatorLib.geometry import Vector, Volume
from KDSegmentatorLib.inference.progress import Progress
from KDSegmentatorLib.mrml.comparisons import LabelMaps, comparable_pairs, comparison_table_node
from KDSegmentatorLib.mrml.label_maps import reference_volume
from KDSegmentatorLib.mrml.nodes import ATTRIBUTE_PREFIX, place_beside
from KDSegmentatorPanel.ports import Background, Pending
from KDSegmentatorPanel.segment_view import Message, ProgressRow
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import for_people, in_words

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode, vtkMRMLTableNode


@dataclass(frozen=True, kw_only=True)
class CompareRow:
    """One structure.

    Attributes:
        cells: the texts of the table's columns.
        position: where the largest disagreement is, (L, P, S) in mm; None if there is none.
        disagreement_ml: its volume.
    """

    cells: tuple[str, ...]
    position: Vector | None
    disagreement_ml: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two segmentations that were compared.

    Attributes:
        first: segmentation A.
        second: segmentation B.
        comparison: their scores.
        disagreement: where they disagree.
        checkerboard: both by turns.
        names: of the structures, by label value.
    """

    first: vtkMRMLSegmentationNode
    second: vtkMRMLSegmentationNode
    comparison: Comparison
    disagreement: Volume
    checkerboard: Volume
    names: dict[int, str]

    @property
    def in_scene(self) -> bool:
        """Whether both were not removed."""
        return self.first.GetScene() is not None and self.second.GetScene() is not None

    @property
    def titles(self) -> tuple[str, str]:
        """What to call the two: their sizes if nothing else tells two runs apart, else the names of the nodes."""
        nodes = (self.first, self.second)
        sizes = [str(node.GetAttribute(f"{ATTRIBUTE_PREFIX}size") or "") for node in nodes]
        tasks = {node.GetAttribute(f"{ATTRIBUTE_PREFIX}task") for node in nodes}
        one_volume = reference_volume(self.first) is reference_volume(self.second)
        if one_volume and len(tasks) == 1 and all(sizes) and sizes[0] != sizes[1]:
            return sizes[0], sizes[1]
        return str(self.first.GetName()), str(self.second.GetName())


def suggested_pair(
    nodes: Sequence[vtkMRMLSegmentationNode], volume: vtkMRMLScalarVolumeNode | None
) -> tuple[vtkMRMLSegmentationNode, vtkMRMLSegmentationNode] | None:
    """Return the two segmentations of a volume that a user most likely wants to compare; None if there are not two.

    They are the two that came last; A is the one that was drawn by hand or loaded, else that of the larger size.

    Args:
        nodes: the segmentations of the scene, the last one last.
        volume: that they were made on.
    """
    made = [node for node in nodes if volume is not None and reference_volume(node) is volume]
    if len(made) < 2:
        return None

    def share(node: vtkMRMLSegmentationNode) -> float:
        """Return the size as a share of the teacher's; 2 for a segmentation that no pack made."""
        size = str(node.GetAttribute(f"{ATTRIBUTE_PREFIX}size") or "")
        divisor = size.partition("/")[2]
        return 2.0 if not size else 1 / float(divisor) if divisor.isdecimal() and int(divisor) else 1.0

    first, second = sorted(made[-2:], key=share, reverse=True)
    return first, second


@dataclass(frozen=True, kw_only=True)
class CompareView:
    """All of the Compare box.

    Attributes:
        enabled: whether the segmentations can be compared.
        reason: why not, or what the button does.
        columns: titles of the table.
        rows: the structures of the pair that is shown.
        marked: number of the row whose largest disagreement is looked at; -1 if none is.
        places: how many rows have one.
        place: which one it is, or how many there are, one sentence.
        summary: one line for each pair that was compared.
        progress: of the comparison at work; its text is empty if there is none.
        message: what went wrong.
        has_result: whether there is a pair to look at and to save.
    """

    enabled: bool
    reason: str
    columns: tuple[str, ...]
    rows: tuple[CompareRow, ...]
    marked: int
    places: int
    place: str
    summary: str
    progress: ProgressRow
    message: Message
    has_result: bool


class _Found(NamedTuple):
    """What was worked out of a pair; see :class:`Pair`."""

    comparison: Comparison
    disagreement: Volume
    checkerboard: Volume
    names: dict[int, str]


@dataclass(kw_only=True, eq=False)
class _Work:
    """A comparison at work, in another thread: it touches nothing of the scene."""

    nodes: list[tuple[vtkMRMLSegmentationNode, vtkMRMLSegmentationNode]]
    pending: Pending[list[_Found]]
    cancelled: threading.Event
    progress: list[ProgressRow]


class ComparePanel:
    """The state of the Compare box.

    Args:
        background: where the comparison is worked out.
    """

    def __init__(self, background: Background) -> None:
        self._background = background
        self._first: vtkMRMLSegmentationNode | None = None
        self._second: vtkMRMLSegmentationNode | None = None
        self._work: _Work | None = None
        self._pairs: tuple[Pair, ...] = ()
        self._marked = -1
        self._message = Message()

    @property
    def busy(self) -> bool:
        """Whether :meth:`poll` has to be called."""
        return self._work is not None

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """What was compared and is in the scene; the last one is shown."""
        self._pairs = tuple(pair for pair in self._pairs if pair.in_scene)
        return self._pairs

    def update(self, first: vtkMRMLSegmentationNode | None, second: vtkMRMLSegmentationNode | None) -> None:
        """Take over which segmentations the user has chosen."""
        self._first, self._second = first, second

    def mark(self, row: int) -> Vector | None:
        """Look at the largest disagreement of a row; return where it is, (L, P, S) in mm, None if there is none."""
        rows = self._rows()
        position = rows[row].position if 0 <= row < len(rows) else None
        self._marked = -1 if position is None else row
        return position

    def step(self, steps: int) -> Vector | None:
        """Look at a later or earlier disagreement, the largest first and round again; return where it is."""
        order = _by_size(self._rows())
        if not order:
            return None
        if self._marked in order:
            return self.mark(order[(order.index(self._marked) + steps) % len(order)])
        return self.mark(order[0 if steps > 0 else -1])

    def compare(self) -> None:
        """Start to compare the two that are chosen."""
        if self._first is not None and self._second is not None and not self._problem():
            self._start([(self._first, self._second)])

    def compare_all(self, nodes: Sequence[vtkMRMLSegmentationNode]) -> None:
        """Start to compare each of the others with the first one, for example all sizes with the teacher."""
        if len(nodes) > 1 and self._work is None:
            self._start([(nodes[0], other) for other in nodes[1:]])

    def cancel(self) -> None:
        """Stop; what was compared before stays."""
        if self._work is not None:
            self._work.cancelled.set()

    def close(self) -> None:
        """Stop and forget everything, because the scene or the module are being closed."""
        self.cancel()
        self._work = None
        self._pairs = ()
        self._marked = -1
        self._message = Message()

    def shut_down(self) -> None:
        """Stop and forget everything, and end the thread, because nobody will call :meth:`poll` any more."""
        self.close()
        self._background.close()

    def poll(self) -> bool:
        """Take over what happened in the background; return whether there is something new to show."""
        work = self._work
        if work is None:
            return False
        if not work.pending.done():
            return True  # the progress
        self._work = None
        try:
            found = work.pending.result()
            self._take(work, found)
        except CancelledError:
            self._message = Message(text=_("Cancelled."))
        except Exception as error:
            self.report(in_words(error, _("to compare the segmentations")))
        return True

    def save(self, path: Path) -> None:
        """Save the table of the pair that is shown as CSV."""
        if not self.pairs:
            return
        try:
            write_comparison(self.pairs[-1].comparison, path)
        except KDSegmentatorError as error:
            self.report(error)

    def report(self, error: KDSegmentatorError) -> None:
        """Show what went wrong."""
        self._message = Message(text=for_people(error), level="error")

    def view(self) -> CompareView:
        """Return what the box shows."""
        problem = self._problem()
        pair = self.pairs[-1] if self.pairs else None
        rows = self._rows()
        order = _by_size(rows)
        place = _("{count} structures differ").format(count=len(order))
        if self._marked in order:
            place = _("{number} of {count}: {structure}, {ml} ml").format(
                number=order.index(self._marked) + 1,
                count=len(order),
                structure=rows[self._marked].cells[0],
                ml=_number(rows[self._marked].disagreement_ml, 2),
            )
        progress = ProgressRow() if self._work is None else self._work.progress[-1]
        return CompareView(
            enabled=not problem,
            reason=problem or _("Compare the two segmentations, structure by structure."),
            columns=(
                _("Structure"),
                _("Dice"),
                _("Surface\nDice"),
                _("HD95\n(mm)"),
                _("A (ml)"),
                _("B (ml)"),
                _("B - A"),
            ),
            rows=rows,
            marked=self._marked if self._marked in order else -1,
            places=len(order),
            place=place,
            summary="\n".join(_summary(each) for each in self._pairs),
            progress=progress,
            message=self._message,
            has_result=pair is not None,
        )

    def _rows(self) -> tuple[CompareRow, ...]:
        return _rows(self.pairs[-1].comparison) if self.pairs else ()

    def _problem(self) -> str:
        if self._work is not None:
            return _("Wait until the comparison has ended, or cancel it.")
        if self._first is None or self._second is None:
            return _("Choose two segmentations.")
        if self._first is self._second:
            return _("Choose two different segmentations.")
        return ""

    def _start(self, nodes: list[tuple[vtkMRMLSegmentationNode, vtkMRMLSegmentationNode]]) -> None:
        self._message = Message()
        try:
            maps = comparable_pairs(nodes)  # a segmentation of several pairs once
        except (KDSegmentatorError, MemoryError) as error:
            self.report(in_words(error, _("to compare the segmentations")))
            return
        cancelled = threading.Event()
        progress = [ProgressRow(text=_("comparing"))]
        self._work = _Work(
            nodes=nodes,
            pending=self._background.submit(lambda: _compared(maps, cancelled.is_set, progress)),
            cancelled=cancelled,
            progress=progress,
        )

    def _take(self, work: _Work, found: list[_Found]) -> None:
        """Keep the results, and put their tables into the scene."""
        pairs = [
            Pair(first=first, second=second, **each._asdict())
            for (first, second), each in zip(work.nodes, found, strict=True)
        ]
        self._marked = -1
        self._pairs = tuple(pair for pair in pairs if pair.in_scene)  # not those removed while they were compared
        for pair in self._pairs:
            _add_table(pair)


def _compared(maps: list[LabelMaps], cancelled: Callable[[], bool], progress: list[ProgressRow]) -> list[_Found]:
    found = []
    for number, each in enumerate(maps):

        def report(step: Progress, number: int = number) -> None:
            total = step.total * len(maps)
            done = step.total * number + step.done
            text = _("structure {done} of {total}").format(done=done, total=total)
            progress.append(ProgressRow(done=done, total=total, text=text))

        comparison = compare(each.first, each.second, each.names, progress=report, cancel=cancelled)
        differing, by_turns = disagreement_map(each.first, each.second), checkerboard(each.first, each.second)
        found.append(_Found(comparison, differing, by_turns, each.names))
    return found


def _add_table(pair: Pair) -> vtkMRMLTableNode:
    name = f"{pair.first.GetName()} and {pair.second.GetName()}"
    table = comparison_table_node(pair.comparison, pair.first.GetScene(), name=name, titles=pair.titles)
    grid = reference_volume(pair.first)
    if grid is not None:
        place_beside(table, grid)
    return table


def _rows(comparison: Comparison) -> tuple[CompareRow, ...]:
    rows = []
    for label in comparison.labels:
        region = label.largest_disagreement
        cells = (
            label.name,
            _number(label.dice, 3),
            _number(label.nsd, 3),
            _number(label.hd95_mm, 2),
            _number(label.first_ml, 2),
            _number(label.second_ml, 2),
            "-" if math.isnan(label.difference_percent) else f"{label.difference_percent:+.0f} %",
        )
        rows.append(
            CompareRow(
                cells=cells,
                position=None if region is None else region.position,
                disagreement_ml=0.0 if region is None else region.volume_ml,
            )
        )
    return tuple(rows)


def _by_size(rows: Sequence[CompareRow]) -> list[int]:
    """Return the numbers of the rows that have a disagreement, the largest first."""
    found = [number for number, row in enumerate(rows) if row.position is not None]
    return sorted(found, key=lambda number: -rows[number].disagreement_ml)


def _summary(pair: Pair) -> str:
    mean = pair.comparison.mean
    text = _("B {second} against A {first}: Dice {dice}, surface Dice {nsd} ({tolerance} mm), HD95 {hd95} mm").format(
        first=pair.titles[0],
        second=pair.titles[1],
        dice=_number(mean.dice, 3),
        nsd=_number(mean.nsd, 3),
        tolerance=f"{pair.comparison.tolerance_mm:g}",
        hd95=_number(mean.hd95_mm, 2),
    )
    # not the whole time: of several sizes run one after the other, the first one pays for starting and loading
    seconds = [node.GetAttribute(f"{ATTRIBUTE_PREFIX}seconds.windows") for node in (pair.second, pair.first)]
    if None not in seconds:
        text += _("; the network alone took {second} s instead of {first} s").format(
            second=f"{float(seconds[0]):.2g}", first=f"{float(seconds[1]):.2g}"
        )
    return text


def _number(value: float, digits: int) -> str:
    """Return a number, ``-`` where there is none, ``∞`` where a structure is in one segmentation only."""
    if math.isnan(value):
        return "-"
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"
