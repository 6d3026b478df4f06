"""The Result box in Qt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.io.images import write_volume
from KDSegmentatorLib.mrml.label_maps import label_volume
from KDSegmentatorLib.mrml.nodes import dicom_item
from KDSegmentatorLib.mrml.results import STATISTICS_ROLE, write_table
from KDSegmentatorPanel.boxes.tooltips import Enabling
from KDSegmentatorPanel.provenance import provenance_text
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import for_people


class ResultBox:
    """Binds the widgets of the Result box: all that there is to see of one segmentation.

    Args:
        ui: the panel's widgets by name.
        report: shows the user what went wrong.
        export_dicom: opens Slicer's dialog for an item of the subject hierarchy.
    """

    def __init__(self, ui: Any, *, report: Callable[[str], None], export_dicom: Callable[[int], None]) -> None:
        self._ui = ui
        self._report = report
        self._export_dicom = export_dicom
        self._table = Enabling(ui.exportTableButton)
        self._labels = Enabling(ui.exportLabelsButton)
        self._dicom = Enabling(ui.exportDicomButton)
        ui.resultSelector.currentNodeChanged.connect(self.show)
        ui.exportTableButton.clicked.connect(self._onExportTable)
        ui.exportLabelsButton.clicked.connect(self._onExportLabels)
        ui.exportDicomButton.clicked.connect(self._onExportDicom)
        self.show()

    def open(self) -> None:
        """Unfold the box, when a run is done."""
        self._ui.resultBox.collapsed = False

    def show(self) -> None:
        """Show the selected segmentation anew, after its content was replaced."""
        node = self._ui.resultSelector.currentNode()
        table = self._statistics(node)
        self._ui.show3DButton.setSegmentationNode(None)  # does not see that the content was replaced
        self._ui.show3DButton.setSegmentationNode(node)
        self._ui.segmentsTable.setSegmentationNode(node)
        self._ui.statisticsTable.setMRMLTableNode(table)
        self._ui.statisticsTable.setVisible(table is not None)
        self._ui.provenanceLabel.setText(provenance_text(node))
        self._table.set(table is not None, _("This segmentation has no statistics of KDSegmentator."))
        self._labels.set(node is not None, _("Choose a segmentation first."))
        self._dicom.set(*self._dicom_state(node))

    @staticmethod
    def _dicom_state(node: Any) -> tuple[bool, str]:
        """Return whether the segmentation can be exported to DICOM, and why not."""
        if node is None:
            return False, _("Choose a segmentation first.")
        try:
            dicom_item(node)
        except KDSegmentatorError as error:
            return False, for_people(error)
        return True, ""

    @staticmethod
    def _statistics(node: Any) -> Any:
        return None if node is None else node.GetNodeReference(STATISTICS_ROLE)

    def _onExportTable(self) -> None:
        node = self._ui.resultSelector.currentNode()
        table = self._statistics(node)
        if table is None:
            return
        path = self._asked_path(_("Save statistics"), f"{table.GetName()}.csv", _("Tables (*.csv)"))
        if path:
            self._tried(lambda: write_table(table, path))

    def _onExportLabels(self) -> None:
        node = self._ui.resultSelector.currentNode()
        if node is None:
            return
        images = _("Images (*.nii.gz *.nii *.nrrd *.mha)")
        path = self._asked_path(_("Save label map"), f"{node.GetName()}.nii.gz", images)
        if path:
            self._tried(lambda: write_volume(label_volume(node), path))

    def _onExportDicom(self) -> None:
        node = self._ui.resultSelector.currentNode()
        if node is None:
            return
        try:
            item = dicom_item(node)
        except KDSegmentatorError as error:  # the volume was removed in the meantime
            self._report(for_people(error))
        else:
            self._export_dicom(item)

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
