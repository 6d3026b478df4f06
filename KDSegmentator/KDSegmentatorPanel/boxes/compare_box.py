"""The Compare box in Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.geometry import Vector
from KDSegmentatorPanel.boxes.table import show_table
from KDSegmentatorPanel.boxes.widgets import Enabling, show_message
from KDSegmentatorPanel.compare_panel import ComparePanel, CompareRow, suggested_pair
from KDSegmentatorPanel.segment_panel import SegmentPanel
from KDSegmentatorPanel.segment_view import State
from KDSegmentatorPanel.slice_layouts import SliceLayouts, legend
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import in_words

_LAYOUT_MILLISECONDS = 100
"""Until the slice views have their sizes after a change of the layout."""


class CompareBox:
    """Binds the widgets of the Compare box.

    Args:
        ui: the panel's widgets by name.
        panel: its state.
        segment: of the Segment box, which runs all sizes.
        layouts: shows pairs in the slice views.
        segmentations: returns those of the scene, the last one last.
        jump: centres the slice views on a point, (L, P, S) in mm, and marks it.
        changed: called when the user did something that the panel has to show.
    """

    def __init__(
        self,
        ui: Any,
        panel: ComparePanel,
        segment: SegmentPanel,
        layouts: SliceLayouts,
        *,
        segmentations: Callable[[], Sequence[Any]],
        jump: Callable[[Vector], None],
        changed: Callable[[], None],
    ) -> None:
        self._ui = ui
        self._panel = panel
        self._segment = segment
        self._layouts = layouts
        self._segmentations = segmentations
        self._jump = jump
        self._changed = changed
        self._parameters: Any = None
        self._known: list[str] = []
        self._rows: tuple[CompareRow, ...] | None = None
        self._compare = Enabling(ui.compareButton)
        self._all = Enabling(ui.compareAllButton)
        self._result = Enabling(ui.showPairButton, ui.saveComparisonButton, ui.pairViewComboBox)
        self._steps = Enabling(ui.previousPlaceButton, ui.nextPlaceButton)
        ui.compareButton.clicked.connect(self._onCompare)
        ui.compareAllButton.clicked.connect(self._onCompareAll)
        ui.showPairButton.toggled.connect(self._onShowPair)
        ui.pairViewComboBox.currentIndexChanged.connect(self._onPairView)
        ui.saveComparisonButton.clicked.connect(self._onSave)
        ui.comparisonTable.cellClicked.connect(self._onRow)
        ui.previousPlaceButton.clicked.connect(self._onPrevious)
        ui.nextPlaceButton.clicked.connect(self._onNext)

    def setParameters(self, parameters: Any) -> None:
        """Take the choices from this node; None for none."""
        self._parameters = parameters

    def show(self) -> None:
        """Show the panel's state."""
        if self._layouts.pair is not None and self._layouts.pair not in self._panel.pairs:
            self.hidePair()  # it was removed, or another one was compared
        self._suggest()
        view = self._panel.view()
        busy = self._panel.busy
        self._compare.set(view.enabled or busy, view.reason)
        self._ui.compareButton.setText(_("Cancel") if busy else _("Compare"))
        problem = self._all_problem()
        self._all.set(not problem, problem)
        self._result.set(view.has_result, _("Compare two segmentations first."))
        self._ui.compareProgressBar.setVisible(busy)
        self._ui.compareProgressBar.setRange(0, view.progress.total)
        self._ui.compareProgressBar.setValue(view.progress.done)
        self._ui.compareProgressBar.setFormat(view.progress.text)
        self._ui.summaryLabel.setText(view.summary)
        self._ui.summaryLabel.setVisible(bool(view.summary))
        show_message(self._ui.compareMessageLabel, view.message)
        self._steps.set(view.places > 0, _("The two segmentations agree everywhere.") if view.rows else "")
        self._ui.placeLabel.setText(view.place)
        self._ui.comparisonResultWidget.setVisible(view.has_result)
        self._showLegend()
        if view.rows != self._rows:
            self._rows = view.rows
            self._showRows(view.columns, view.rows)
        if view.marked >= 0:
            self._ui.comparisonTable.selectRow(view.marked)
        else:
            self._ui.comparisonTable.clearSelection()

    def hidePair(self) -> None:
        """Bring the old views back, because something else is shown now."""
        self._ui.showPairButton.setChecked(False)

    def compareAll(self, segmentations: Sequence[Any]) -> None:
        """Start to compare each of the other segmentations with the first one."""
        self.hidePair()
        self._panel.compare_all(segmentations)

    def _suggest(self) -> None:
        """Choose A and B when a segmentation came and none are chosen; what the user has chosen stays."""
        nodes = self._segmentations()
        ids = [node.GetID() for node in nodes]
        if self._parameters is None or ids == self._known:
            return
        self._known = ids
        pair = suggested_pair(nodes, self._parameters.inputVolume)
        if pair is not None and None in (self._parameters.firstSegmentation, self._parameters.secondSegmentation):
            self._parameters.firstSegmentation, self._parameters.secondSegmentation = pair

    def _showLegend(self) -> None:
        pair = self._layouts.pair
        text = "" if pair is None or self._parameters is None else legend(pair, self._parameters.pairView)
        self._ui.legendLabel.setText(text)
        self._ui.legendLabel.setVisible(bool(text))

    def _showRows(self, columns: tuple[str, ...], rows: tuple[CompareRow, ...]) -> None:
        def tooltip(number: int) -> str:
            row = rows[number]
            return (
                ""
                if row.position is None
                else _("{name}: click to go to the largest disagreement.").format(name=row.cells[0])
            )

        cells = [row.cells for row in rows]
        show_table(self._ui.comparisonTable, columns, cells, tooltip=tooltip, numbers=len(columns) - 1)

    def _all_problem(self) -> str:
        family = self._segment.family
        if self._panel.busy:
            return _("Wait until the comparison has ended, or cancel it.")
        if self._segment.state.at_work:
            return _("Wait until the run has ended, or cancel it.")
        if self._segment.state is State.NO_VOLUME:
            return self._segment.view().what
        if family is None or len(family.packs) < 2:
            return _("Only one size of this task is installed.")
        return ""

    def _onCompare(self) -> None:
        if self._panel.busy:
            self._panel.cancel()
        else:
            self.hidePair()
            self._panel.compare()
        self._changed()

    def _onCompareAll(self) -> None:
        family = self._segment.family
        if family is not None and not self._all_problem():
            self._segment.segment([pack.manifest.size for pack in family.packs])
            self._changed()

    def _onShowPair(self, shown: bool = False) -> None:
        pair = self._panel.pairs[-1] if self._panel.pairs else None
        if not shown or pair is None or self._parameters is None:
            self._layouts.restore()
            self._showLegend()
            return
        try:
            self._layouts.show(pair, self._parameters.pairView)
            self._showLegend()
            qt.QTimer.singleShot(_LAYOUT_MILLISECONDS, self._layouts.align)
        except (KDSegmentatorError, MemoryError) as error:
            self._panel.report(in_words(error, _("to show the pair")))
            self.hidePair()
            self.show()

    def _onPairView(self) -> None:
        # the parameter node has the choice by now, or will have it
        if self._ui.showPairButton.checked:
            qt.QTimer.singleShot(0, lambda: self._onShowPair(True))

    def _onRow(self, row: int) -> None:
        self._go(self._panel.mark(row))

    def _onPrevious(self) -> None:
        self._go(self._panel.step(-1))

    def _onNext(self) -> None:
        self._go(self._panel.step(1))

    def _go(self, position: Vector | None) -> None:
        if position is not None:
            self._jump(position)
        self.show()

    def _onSave(self) -> None:
        if not self._panel.pairs:
            return
        path = qt.QFileDialog.getSaveFileName(
            self._ui.compareBox, _("Save comparison"), "comparison.csv", _("Tables (*.csv)")
        )
        path = path[0] if isinstance(path, (tuple, list)) else path
        if path:
            self._panel.save(Path(path))
            self.show()
