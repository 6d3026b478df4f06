"""The Segment box in Qt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import qt

from KDSegmentatorPanel.boxes.task_cards import TaskCards
from KDSegmentatorPanel.boxes.widgets import Enabling, show_message
from KDSegmentatorPanel.segment_panel import SegmentPanel
from KDSegmentatorPanel.segment_view import LabelRow, ProgressRow, Quality, State
from KDSegmentatorPanel.translation import tr as _

_COLOR_PIXELS = 12
_INDENT = 22
"""Of what is said below a radio button, so that it starts where the button's text does."""


class SegmentBox:
    """Binds the widgets of the Segment box.

    Args:
        ui: the panel's widgets by name.
        panel: its state.
        confirm: asks the user a question; returns whether the answer was yes.
        changed: called when the user did something that the panel has to show.
    """

    def __init__(
        self, ui: Any, panel: SegmentPanel, *, confirm: Callable[[str], bool], changed: Callable[[], None]
    ) -> None:
        self._ui = ui
        self._panel = panel
        self._confirm = confirm
        self._changed = changed
        self._parameters: Any = None
        self._shown: dict[str, object] = {}
        self._tasks = TaskCards(ui, self._onTaskChosen)
        self._qualities: tuple[Quality, ...] = ()
        self._quality_widgets: list[Any] = []
        self._quality_buttons: list[Any] = []
        self._quality_group = qt.QButtonGroup()
        self._label_items: list[Any] = []
        self._enabling = Enabling(
            ui.inputSelector, ui.tasksWidget, ui.taskSearchEdit, ui.qualityWidget, ui.outputSelector,
            ui.labelSearchEdit, ui.allLabelsButton, ui.noLabelsButton, ui.labelList, ui.engineComboBox,
            ui.precisionComboBox, ui.threadsSpinBox, ui.mirroringCheckBox, ui.entropyCheckBox, ui.surfacesCheckBox,
            ui.checkInputCheckBox, ui.regionGivenCheckBox,
        )  # fmt: skip
        self._segment, self._cancel = Enabling(ui.segmentButton), Enabling(ui.cancelButton)
        ui.labelList.itemChanged.connect(self._onLabelChanged)
        ui.labelSearchEdit.textChanged.connect(self._onLabelSearch)
        ui.allLabelsButton.clicked.connect(self._onAllLabels)
        ui.noLabelsButton.clicked.connect(self._onNoLabels)
        ui.segmentButton.clicked.connect(self._onSegment)
        ui.cancelButton.clicked.connect(self._onCancel)
        ui.smallerButton.clicked.connect(self._onSmaller)

    def setParameters(self, parameters: Any) -> None:
        """Take the choices from, and store them in, this node; None for none."""
        self._parameters = parameters

    def show(self) -> None:
        """Show the panel's state."""
        view = self._panel.view()
        self._showPart("volume", view.volume, lambda: self._showVolume(view.volume))
        self._showPart("tasks", (view.tasks, view.task), lambda: self._tasks.show(view.tasks, view.task))
        self._showPart("sizes", (view.qualities, view.size), lambda: self._showQualities(view.qualities, view.size))
        self._showPart("chained", view.chained, lambda: self._ui.regionGivenCheckBox.setVisible(view.chained))
        self._showPart("labels", view.labels, lambda: self._showLabels(view.labels))
        self._showPart("state", (view.state, view.what), lambda: self._showState(view.state, view.what))
        self._showPart("progress", view.progress, lambda: self._showProgress(view.progress))
        self._showPart("message", view.message, lambda: show_message(self._ui.messageLabel, view.message))
        self._showPart("smaller", view.smaller, lambda: self._showSmaller(view.smaller))
        self._showPart("log", self._panel.log, lambda: self._ui.logText.setPlainText(self._panel.log))

    def _showPart(self, name: str, part: object, show: Callable[[], None]) -> None:
        """Show a part if it is another one than is shown: building widgets anew would close what the user has open."""
        if name not in self._shown or self._shown[name] != part:
            self._shown[name] = part
            show()

    def _showQualities(self, qualities: tuple[Quality, ...], chosen: str) -> None:
        if qualities != self._qualities:  # else a click would take the keyboard's focus away from the button
            self._qualities = qualities
            self._buildQualities(qualities)
        for button, row in zip(self._quality_buttons, qualities, strict=True):
            button.setChecked(row.size == chosen)

    def _buildQualities(self, qualities: tuple[Quality, ...]) -> None:
        layout = self._ui.qualityWidget.layout()
        for button in self._quality_buttons:
            self._quality_group.removeButton(button)
        for each in self._quality_widgets:
            layout.removeWidget(each)
            each.hide()
            each.deleteLater()
        self._quality_widgets, self._quality_buttons = [], []
        about = _("Dice on cases that training had not seen; 1 is the most.")
        titles = ((_("Quality"), ""), (_("Time"), ""), (_("Memory"), ""), (_("Accuracy"), about)) if qualities else ()
        for column, (title, tooltip) in enumerate(titles):
            self._place(qt.QLabel(f"<b>{title}</b>"), 0, column, tooltip)
        for number, row in enumerate(qualities):
            button = qt.QRadioButton(row.name)
            button.setAccessibleName(", ".join((row.name, *row.cells, row.mark)))
            button.clicked.connect(partial(self._onQualityChosen, row.size))
            self._quality_group.addButton(button)
            self._quality_buttons.append(button)
            self._place(button, 2 * number + 1, 0, row.details)
            for column, text in enumerate(row.cells):
                self._place(qt.QLabel(text), 2 * number + 1, column + 1, row.details)
            if row.mark:
                mark = qt.QLabel(row.mark)
                mark.setIndent(_INDENT)
                self._place(mark, 2 * number + 2, 0, row.details, columns=4)

    def _place(self, widget: Any, row: int, column: int, tooltip: str, *, columns: int = 1) -> None:
        widget.setToolTip(tooltip)
        self._ui.qualityWidget.layout().addWidget(widget, row, column, 1, columns)
        self._quality_widgets.append(widget)

    def _showLabels(self, labels: tuple[LabelRow, ...]) -> None:
        kept = sum(row.kept for row in labels)
        self._ui.labelsBox.setTitle(_("Structures ({kept} of {count})").format(kept=kept, count=len(labels)))
        box = self._ui.labelList
        box.blockSignals(True)
        if [item.text() for item in self._label_items] != [row.name for row in labels]:
            box.clear()
            self._label_items = []
            for row in labels:
                pixmap = qt.QPixmap(_COLOR_PIXELS, _COLOR_PIXELS)
                pixmap.fill(qt.QColor(*row.color))
                item = qt.QListWidgetItem(row.name)
                item.setIcon(qt.QIcon(pixmap))
                box.addItem(item)
                self._label_items.append(item)
        for item, row in zip(self._label_items, labels, strict=True):
            item.setCheckState(qt.Qt.Checked if row.kept else qt.Qt.Unchecked)
        box.blockSignals(False)
        self._onLabelSearch()

    def _showState(self, state: State, what: str) -> None:
        self._enabling.set(not state.at_work, _("Wait until the run has ended, or cancel it."))
        self._segment.set(
            not state.at_work and state is not State.NO_VOLUME, _("The run is at work.") if state.at_work else what
        )
        self._cancel.set(state is State.RUNNING, _("There is no run to stop."))
        self._ui.whatLabel.setText(what)
        self._ui.whatLabel.setVisible(not state.at_work)
        self._ui.progressBar.setVisible(state.at_work)

    def _showProgress(self, progress: ProgressRow) -> None:
        self._ui.progressBar.setRange(0, progress.total)  # both 0: busy
        self._ui.progressBar.setValue(progress.done)
        self._ui.progressBar.setFormat(progress.text)
        self._ui.progressBar.setToolTip(progress.text)

    def _showSmaller(self, smaller: Quality | None) -> None:
        self._ui.smallerButton.setVisible(smaller is not None)
        if smaller is not None:
            self._ui.smallerButton.setText(_("Segment with the quality {name} instead").format(name=smaller.name))

    def _showVolume(self, text: str) -> None:
        self._ui.volumeLabel.setText(text)
        self._ui.volumeLabel.setVisible(bool(text))
        self._ui.emptyWidget.setVisible(not text)

    def _onTaskChosen(self, task: str) -> None:
        if self._parameters is not None:
            self._parameters.options.size = ""  # another family, other sizes
            self._parameters.task = task

    def _onQualityChosen(self, size: str, _checked: bool = True) -> None:
        if self._parameters is not None:
            self._parameters.options.size = size

    def _onLabelChanged(self) -> None:
        if self._parameters is not None:
            unchecked = [each.text() for each in self._label_items if each.checkState() == qt.Qt.Unchecked]
            shown = {each.text() for each in self._label_items}
            # names of other tasks stay: they may be wanted again
            self._parameters.leftOut = [*(name for name in self._parameters.leftOut if name not in shown), *unchecked]

    def _onLabelSearch(self) -> None:
        wanted = self._ui.labelSearchEdit.text.casefold()
        for item in self._label_items:
            item.setHidden(wanted not in item.text().casefold())

    def _onAllLabels(self) -> None:
        self._checkShownLabels(qt.Qt.Checked)

    def _onNoLabels(self) -> None:
        self._checkShownLabels(qt.Qt.Unchecked)

    def _checkShownLabels(self, check: Any) -> None:
        self._ui.labelList.blockSignals(True)
        for item in self._label_items:
            if not item.isHidden():
                item.setCheckState(check)
        self._ui.labelList.blockSignals(False)
        self._onLabelChanged()

    def _onSegment(self) -> None:
        self._start()
        self._changed()

    def _onCancel(self) -> None:
        self._panel.cancel()
        self._changed()

    def _onSmaller(self) -> None:
        smaller = self._panel.view().smaller
        if self._parameters is not None and smaller is not None:
            self._parameters.options.size = smaller.size
            self._start()
            self._changed()

    def _start(self) -> None:
        name = self._panel.overwritten()
        question = _("“{name}” has segments already. Replace them with the new result?").format(name=name)
        if not name or self._confirm(question):
            self._panel.segment()
