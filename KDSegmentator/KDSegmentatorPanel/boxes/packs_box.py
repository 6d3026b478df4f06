"""The Packs box in Qt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt

from KDSegmentatorPanel.boxes.widgets import Enabling, show_message
from KDSegmentatorPanel.packs_panel import PacksPanel, PacksView
from KDSegmentatorPanel.translation import tr as _


class PacksBox:
    """Binds the widgets of the Packs box.

    Args:
        ui: the panel's widgets by name.
        panel: its state.
        confirm: asks the user a question; returns whether the answer was yes.
        changed: called when the user did something that the panel has to show.
    """

    def __init__(
        self, ui: Any, panel: PacksPanel, *, confirm: Callable[[str], bool], changed: Callable[[], None]
    ) -> None:
        self._ui = ui
        self._panel = panel
        self._confirm = confirm
        self._changed = changed
        self._shown: PacksView | None = None
        self._idle = Enabling(ui.installPackButton, ui.verifyPackButton)
        self._remove = Enabling(ui.removePackButton)
        self._roll_back = Enabling(ui.rollBackPackButton)
        ui.packComboBox.currentIndexChanged.connect(self._onChosen)
        ui.installPackButton.clicked.connect(self._onInstall)
        ui.verifyPackButton.clicked.connect(self._onVerify)
        ui.removePackButton.clicked.connect(self._onRemove)
        ui.rollBackPackButton.clicked.connect(self._onRollBack)

    def show(self) -> None:
        """Show the packs that there are now."""
        view = self._panel.view()
        if self._shown is None or view.rows != self._shown.rows or view.chosen != self._shown.chosen:
            box = self._ui.packComboBox
            box.blockSignals(True)
            box.clear()
            for index, row in enumerate(view.rows):
                box.addItem(row.text, row.id)
                if row.id == view.chosen:
                    box.setCurrentIndex(index)
            box.blockSignals(False)
        if self._shown is None or view.card != self._shown.card:  # else it would scroll to its top
            self._ui.packCard.setHtml(view.card)
        self._idle.set(not view.busy_reason, view.busy_reason)
        self._remove.set(not view.remove_reason, view.remove_reason)
        self._roll_back.set(not view.roll_back_reason, view.roll_back_reason)
        show_message(self._ui.packMessageLabel, view.message)
        self._shown = view

    def follow(self, task: str) -> None:
        """Show a pack of the chosen task, when another one is chosen."""
        if self._panel.follow(task):
            self.show()

    def _onChosen(self) -> None:
        index = self._ui.packComboBox.currentIndex
        if index >= 0:
            self._panel.choose(self._ui.packComboBox.itemData(index))
            self.show()

    def _onInstall(self) -> None:
        kinds = _("Packs (*.kdpack)")
        path = qt.QFileDialog.getOpenFileName(self._ui.packsBox, _("Install a pack"), "", kinds)
        path = path[0] if isinstance(path, (tuple, list)) else path
        if path:
            self._panel.install(Path(path))
            self._begun()

    def _onVerify(self) -> None:
        self._panel.verify()
        self._begun()

    def _onRemove(self) -> None:
        chosen = self._panel.view().chosen
        if self._confirm(_("Remove {id} and its previous version from this computer?").format(id=chosen)):
            self._panel.remove()
            self._begun()

    def _onRollBack(self) -> None:
        self._panel.roll_back()
        self._begun()

    def _begun(self) -> None:
        self.show()
        self._changed()
