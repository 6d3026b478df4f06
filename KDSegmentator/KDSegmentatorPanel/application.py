"""The panels as they are in Slicer: on the packs of this machine, with workers in Slicer's Python."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import slicer

import KDSegmentatorLib
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.launcher import PythonLauncher
from KDSegmentatorLib.jobs.process import start_batch, start_segmentation
from KDSegmentatorLib.jobs.request import BatchRequest, SegmentRequest
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.assessment import assess
from KDSegmentatorPanel.background import BackgroundThread
from KDSegmentatorPanel.batch_panel import BatchPanel
from KDSegmentatorPanel.compare_panel import ComparePanel
from KDSegmentatorPanel.estimation import EstimateProcess
from KDSegmentatorPanel.interpreter import python_executable
from KDSegmentatorPanel.packs_panel import PacksPanel
from KDSegmentatorPanel.ports import Job
from KDSegmentatorPanel.segment_panel import SegmentPanel
from KDSegmentatorPanel.slice_layouts import Layouts
from KDSegmentatorPanel.slicer_packages import SlicerPackages

_REQUIREMENTS = Path(KDSegmentatorLib.__file__).parent / "slicer-requirements.txt"


def segment_panel() -> SegmentPanel:
    """Return a new panel."""
    return SegmentPanel(
        packs=PackStore(),
        start=_start_segmentation,
        assess=partial(assess, estimate=EstimateProcess(python_executable(), _temporary_folder())),
        background=BackgroundThread("KDSegmentator estimates"),
        packages=SlicerPackages(_REQUIREMENTS),
    )


def batch_panel() -> BatchPanel:
    """Return a new panel."""
    return BatchPanel(_start_batch)


def compare_panel() -> ComparePanel:
    """Return a new panel."""
    return ComparePanel(BackgroundThread("KDSegmentator comparison"))


def packs_panel() -> PacksPanel:
    """Return a new panel."""
    return PacksPanel(PackStore())


def layouts() -> Layouts | None:
    """Return the application's layouts; None without a main window."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return None
    return Layouts(
        current=lambda: manager.layout,
        change=manager.setLayout,
        side_by_side=slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView,
    )


def export_dicom(item: int) -> None:
    """Open Slicer's dialog to export an item of the subject hierarchy; blocks until it is closed."""
    dialog = slicer.qSlicerDICOMExportDialog(None)
    dialog.setMRMLScene(slicer.mrmlScene)
    dialog.execDialog(item)
    dialog.deleteLater()


def _start_segmentation(request: SegmentRequest, volume: Volume) -> Job:
    return start_segmentation(request, volume, launcher=_launcher(), temporary_folder=_temporary_folder())


def _start_batch(request: BatchRequest) -> Job:
    return start_batch(request, launcher=_launcher(), temporary_folder=_temporary_folder())


def _launcher() -> PythonLauncher:
    return PythonLauncher(python_executable())


def _temporary_folder() -> Path:
    return Path(slicer.app.temporaryPath)
