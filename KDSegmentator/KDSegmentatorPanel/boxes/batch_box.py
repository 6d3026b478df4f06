"""The Batch box in Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

from KDSegmentatorPanel.batch_panel import BatchPanel, FileRow
from KDSegmentatorPanel.boxes.table import show_table
from KDSegmentatorPanel.boxes.widgets import Enabling, show_message
from KDSegmentatorPanel.translation import tr as _


class BatchBox:
    """Binds the widgets of the Batch box.

    Args:
        ui: the panel's widgets by name.
        panel: its state.
        changed: called when the user did something that the panel has to show.
    """

    def __init__(self, ui: Any, panel: BatchPanel, *, changed: Callable[[], None]) -> None:
        self._ui = ui
        self._panel = panel
        self._changed = changed
        self._parameters: Any = None
        self._rows: tuple[FileRow, ...] | None = None
        self._inputs = Enabling(ui.batchInputEdit, ui.batchOutputEdit, ui.batchPatternEdit, ui.batchResumeCheckBox)
        ui.batchInputEdit.currentPathChanged.connect(self._onInputFolder)
        ui.batchOutputEdit.currentPathChanged.connect(self._onOutputFolder)
        ui.batchButton.clicked.connect(self._onStart)
        ui.batchOpenButton.clicked.connect(self._onOpen)

    def setParameters(self, parameters: Any) -> None:
        """Take the choices from, and store them in, this node; None for none."""
        self._parameters = None  # what the edits say below is not the user's choice
        if parameters is not None:
            self._ui.batchInputEdit.currentPath = parameters.batchInputFolder
            self._ui.batchOutputEdit.currentPath = parameters.batchOutputFolder
        self._parameters = parameters

    def show(self) -> None:
        """Show the panel's state."""
        view = self._panel.view()
        self._inputs.set(not view.running, _("Wait until the batch has ended, or cancel it."))
        self._ui.batchWhatLabel.setText(view.what)
        self._ui.batchButton.setText(_("Cancel") if view.running else _("Start"))
        self._ui.batchButton.setEnabled(view.enabled)
        self._ui.batchButton.setToolTip(view.reason)
        self._ui.batchProgressBar.setVisible(view.running)
        self._ui.batchProgressBar.setRange(0, view.progress.total)
        self._ui.batchProgressBar.setValue(view.progress.done)
        self._ui.batchProgressBar.setFormat(view.progress.text)
        self._ui.batchOpenButton.setVisible(bool(view.table))
        show_message(self._ui.batchMessageLabel, view.message)
        self._ui.batchDetailsLabel.setText("\n".join(view.details))
        self._ui.batchDetailsLabel.setVisible(bool(view.details))
        if view.rows != self._rows:
            self._rows = view.rows
            self._showRows(view.rows, view.current)

    def _showRows(self, rows: tuple[FileRow, ...], current: int) -> None:
        table = self._ui.batchTable
        cells = [(row.name, row.state) for row in rows]
        show_table(table, [_("File"), _("State")], cells, tooltip=lambda number: rows[number].message, numbers=0)
        table.setVisible(bool(rows))
        if current >= 0:
            table.selectRow(current)

    def _onInputFolder(self, path: str = "") -> None:
        if self._parameters is not None:
            self._parameters.batchInputFolder = path.strip()

    def _onOutputFolder(self, path: str = "") -> None:
        if self._parameters is not None:
            self._parameters.batchOutputFolder = path.strip()

    def _onStart(self) -> None:
        if self._panel.view().running:
            self._panel.cancel()
        else:
            self._panel.start()
        self._changed()

    def _onOpen(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._panel.view().table))
