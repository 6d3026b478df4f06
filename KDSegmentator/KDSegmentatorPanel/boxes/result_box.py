"""The Result box in Qt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.io.images import write_volume
from KDSegmentatorLib.mrml.label_maps import label_volume
from KDSegmentatorLib.mrml.nodes import source_instances
from KDSegmentatorLib.mrml.results import write_table
from KDSegmentatorLib.mrml.surfaces import is_shown_in_3d, show_in_3d
from KDSegmentatorPanel.boxes.widgets import Enabling, show_warnings
from KDSegmentatorPanel.result_view import ResultView, StructureRow, export_surfaces, result_view, statistics_of
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import for_people

_SEARCHED_ROWS = 8
"""With more structures than this there is a search field."""

_MOST_ROWS = 12
"""That the table shows without a scroll bar of its own."""

_COLOR_PIXELS = 12
_NAME = 0


class ResultBox:
    """Binds the widgets of the Result box: all that there is to see of one segmentation.

    Args:
        ui: the panel's widgets by name.
        report: shows the user what went wrong.
        application: what else of Slicer is opened (:mod:`KDSegmentatorPanel.application`).
        make_surfaces: begins to make those of a segmentation; :meth:`show` is called when they are there.
    """

    def __init__(
        self, ui: Any, *, report: Callable[[str], None], application: Any, make_surfaces: Callable[[Any], None]
    ) -> None:
        self._ui = ui
        self._report = report
        self._application = application
        self._make_surfaces = make_surfaces
        self._view = ResultView()
        self._items: list[Any] = []
        self._needing = Enabling(ui.show3DButton, ui.editButton, ui.exportButton)
        menu = qt.QMenu(ui.exportButton)
        self._labels = self._action(menu, _("Label map…"), self._onExportLabels)
        self._table = self._action(menu, _("Table (CSV)…"), self._onExportTable)
        self._stl = self._action(menu, _("Surfaces as STL…"), self._onExportStl)
        self._obj = self._action(menu, _("Surfaces as OBJ…"), self._onExportObj)
        self._dicom = self._action(menu, _("DICOM…"), self._onExportDicom)
        menu.toolTipsVisible = True
        ui.exportButton.setMenu(menu)
        self._menu = menu
        ui.resultSelector.currentNodeChanged.connect(self.show)
        ui.structureSearchEdit.textChanged.connect(self._onSearch)
        ui.structuresTable.itemChanged.connect(self._onItemChanged)
        ui.structuresTable.cellClicked.connect(self._onClicked)
        ui.show3DButton.toggled.connect(self._onShow3D)
        ui.editButton.clicked.connect(self._onEdit)
        ui.detailsButton.toggled.connect(self._onDetails)
        self.show()

    def open(self) -> None:
        """Unfold the box, when a run is done."""
        self._ui.resultBox.collapsed = False

    def show(self) -> None:
        """Show the selected segmentation anew, after its content was replaced."""
        node = self._node()
        view = self._view = result_view(node)
        self._ui.show3DButton.blockSignals(True)
        self._ui.show3DButton.setChecked(node is not None and is_shown_in_3d(node))
        self._ui.show3DButton.blockSignals(False)
        self._needing.set(node is not None, _("Choose a segmentation first."))
        self._table.setEnabled(statistics_of(node) is not None)
        problem = _dicom_problem(node)
        self._dicom.setEnabled(not problem)
        about = _("Segmentation, structure set and report of volumes, for the patient and study of the volume.")
        self._dicom.setToolTip(problem or about)
        show_warnings(self._ui.warningsLabel, view.warnings)
        self._ui.provenanceLabel.setText(view.origin)
        self._ui.provenanceLabel.setVisible(bool(view.origin))
        self._ui.detailsButton.setVisible(bool(view.details))
        self._ui.detailsLabel.setText(view.details)
        self._onDetails()
        self._showRows(view)

    def _onShow3D(self, shown: bool = False) -> None:
        node = self._node()
        if node is not None and show_in_3d(node, shown):
            self._make_surfaces(node)

    def _showRows(self, view: ResultView) -> None:
        table = self._ui.structuresTable
        table.blockSignals(True)
        table.setRowCount(len(view.rows))
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([_("Structure"), "ml", view.mean_title])
        self._items = []
        for number, row in enumerate(view.rows):
            table.setItem(number, _NAME, self._name_item(row))
            for column, text in enumerate((row.volume, row.mean), start=1):
                item = qt.QTableWidgetItem(text)
                item.setTextAlignment(int(qt.Qt.AlignRight | qt.Qt.AlignVCenter))
                table.setItem(number, column, item)
        table.blockSignals(False)
        header = table.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(_NAME, qt.QHeaderView.Stretch)
        table.verticalHeader().setVisible(False)
        table.resizeRowsToContents()
        table.setVisible(bool(view.rows))
        self._ui.structureSearchEdit.setVisible(len(view.rows) > _SEARCHED_ROWS)
        self._onSearch()

    def _name_item(self, row: StructureRow) -> Any:
        pixmap = qt.QPixmap(_COLOR_PIXELS, _COLOR_PIXELS)
        pixmap.fill(qt.QColor(*row.color))
        item = qt.QTableWidgetItem(row.name)
        item.setIcon(qt.QIcon(pixmap))
        item.setCheckState(qt.Qt.Checked if row.visible else qt.Qt.Unchecked)
        item.setToolTip(_("{name}: ticked structures are shown. Click to go there.").format(name=row.name))
        self._items.append(item)
        return item

    def _fit(self) -> None:
        """Make the table as high as the rows that it shows, up to a limit."""
        table = self._ui.structuresTable
        shown = [number for number in range(table.rowCount) if not table.isRowHidden(number)]
        heights = [table.rowHeight(number) for number in shown[:_MOST_ROWS]]
        frame = 2 * table.frameWidth
        table.setFixedHeight(table.horizontalHeader().sizeHint.height() + sum(heights) + frame)

    def _onSearch(self) -> None:
        wanted = self._ui.structureSearchEdit.text.casefold()
        for number, row in enumerate(self._view.rows):
            self._ui.structuresTable.setRowHidden(number, wanted not in row.name.casefold())
        self._fit()

    def _onItemChanged(self) -> None:
        """Show the structures that are ticked, and hide the others."""
        node = self._node()
        display = None if node is None else node.GetDisplayNode()
        if display is None:
            return
        for row, item in zip(self._view.rows, self._items, strict=True):
            visible = item.checkState() == qt.Qt.Checked
            if visible != bool(display.GetSegmentVisibility(row.segment_id)):
                display.SetSegmentVisibility(row.segment_id, visible)

    def _onClicked(self, number: int) -> None:
        node = self._node()
        if node is not None and 0 <= number < len(self._view.rows):
            self._application.show_segment(node, self._view.rows[number].segment_id)

    def _onEdit(self) -> None:
        if self._node() is not None:
            self._application.edit(self._node())

    def _onDetails(self) -> None:
        self._ui.detailsLabel.setVisible(bool(self._view.details) and bool(self._ui.detailsButton.checked))

    def _onExportTable(self) -> None:
        table = statistics_of(self._node())
        if table is None:
            return
        path = self._asked_path(_("Save statistics"), f"{table.GetName()}.csv", _("Tables (*.csv)"))
        if path:
            self._tried(lambda: write_table(table, path))

    def _onExportLabels(self) -> None:
        node = self._node()
        if node is None:
            return
        images = _("Images (*.nii.gz *.nii *.nrrd *.mha)")
        path = self._asked_path(_("Save label map"), f"{node.GetName()}.nii.gz", images)
        if path:
            self._tried(lambda: write_volume(label_volume(node), path))

    def _onExportStl(self) -> None:
        self._export_surfaces("STL")

    def _onExportObj(self) -> None:
        self._export_surfaces("OBJ")

    def _export_surfaces(self, kind: str) -> None:
        node = self._node()
        folder = qt.QFileDialog.getExistingDirectory(self._ui.resultBox, _("Folder for the surfaces")) if node else ""
        if folder:
            self._tried(lambda: export_surfaces(node, Path(folder), kind))

    def _onExportDicom(self) -> None:
        node = self._node()
        folder = (
            qt.QFileDialog.getExistingDirectory(self._ui.resultBox, _("Folder for the DICOM files")) if node else ""
        )
        if folder:
            self._tried(lambda: _export_dicom(node, self._application.dicom_file, Path(folder)))

    def _node(self) -> Any:
        return self._ui.resultSelector.currentNode()

    def _asked_path(self, title: str, name: str, kinds: str) -> Path | None:
        """Return the file that the user chose; the dialog asks before it overwrites one."""
        safe = "".join("_" if character in '<>:"/\\|?*' else character for character in name)
        path = qt.QFileDialog.getSaveFileName(self._ui.resultBox, title, safe, kinds)
        path = path[0] if isinstance(path, (tuple, list)) else path
        return Path(path) if path else None

    def _tried(self, write: Callable[[], None]) -> None:
        try:
            write()
        except KDSegmentatorError as error:
            self._report(for_people(error))

    @staticmethod
    def _action(menu: Any, text: str, call: Callable[[], None]) -> Any:
        action = menu.addAction(text)
        action.triggered.connect(call)
        return action


def _dicom_problem(node: Any) -> str:
    """Return why a segmentation cannot be exported to DICOM; empty if it can."""
    if node is None:
        return _("Choose a segmentation first.")
    try:
        source_instances(node)
    except KDSegmentatorError as error:
        return for_people(error)
    return ""


def _export_dicom(node: Any, file_of_instance: Callable[[str], str], folder: Path) -> None:
    from KDSegmentatorLib.mrml.dicom_export import export_dicom  # takes a second, and needs highdicom

    export_dicom(node, file_of_instance, folder)
