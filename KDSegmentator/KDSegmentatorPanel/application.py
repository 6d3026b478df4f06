"""The panels as they are in Slicer: on the packs of this machine, with workers in Slicer's Python."""

from __future__ import annotations

import functools
from pathlib import Path

import slicer
from slicer import vtkMRMLSegmentationNode

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.launcher import PythonLauncher
from KDSegmentatorLib.jobs.messages import AdviseRequest, BatchRequest, SegmentRequest
from KDSegmentatorLib.jobs.process import start_advice, start_batch, start_segmentation
from KDSegmentatorLib.jobs.worker_process import Workers
from KDSegmentatorLib.mrml.label_maps import reference_volume
from KDSegmentatorLib.mrml.slice_views import jump_slices
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.background import BackgroundThread
from KDSegmentatorPanel.batch_panel import BatchPanel
from KDSegmentatorPanel.compare_panel import ComparePanel
from KDSegmentatorPanel.interpreter import python_executable
from KDSegmentatorPanel.packs_panel import PacksPanel
from KDSegmentatorPanel.ports import Choices, Job
from KDSegmentatorPanel.sample_data import SAMPLE
from KDSegmentatorPanel.segment_panel import SegmentPanel
from KDSegmentatorPanel.slice_layouts import Layouts
from KDSegmentatorPanel.surfaces import SurfaceProcess, Surfaces

_KEEP_SECONDS = 300.0


def segment_panel() -> SegmentPanel:
    """Return a new panel."""
    return SegmentPanel(
        packs=PackStore(),
        jobs=_Jobs(),
        background=BackgroundThread("KDSegmentator estimates"),
        surfaces=Surfaces(
            SurfaceProcess(python_executable(), _temporary_folder()), BackgroundThread("KDSegmentator surfaces")
        ),
    )


def batch_panel(choices: Choices) -> BatchPanel:
    """Return a new panel; ``choices`` are those of the Segment box."""
    return BatchPanel(_start_batch, choices, BackgroundThread("KDSegmentator files"))


def compare_panel() -> ComparePanel:
    """Return a new panel."""
    return ComparePanel(BackgroundThread("KDSegmentator comparison"))


def packs_panel() -> PacksPanel:
    """Return a new panel."""
    return PacksPanel(PackStore(), BackgroundThread("KDSegmentator models"))


def layouts() -> Layouts | None:
    """Return the application's layouts; None without a main window."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return None
    return Layouts(
        current=lambda: manager.layout,
        change=manager.setLayout,
        side_by_side=slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView,
        caption=_write_caption,
    )


def _write_caption(name: str, text: str) -> None:
    """Write a text at the upper edge of a slice view; Slicer's own annotations are in the corners."""
    import vtk

    widget = slicer.app.layoutManager().sliceWidget(name)
    if widget is not None:
        view = widget.sliceView()
        view.cornerAnnotation().SetText(vtk.vtkCornerAnnotation.UpperEdge, text)
        view.scheduleRender()


def edit(segmentation: vtkMRMLSegmentationNode) -> None:
    """Open a segmentation in the Segment Editor, on its volume."""
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.util.getModuleWidget("SegmentEditor").editor
    editor.setSegmentationNode(segmentation)
    volume = reference_volume(segmentation)
    if volume is not None:
        editor.setSourceVolumeNode(volume)


def show_segment(segmentation: vtkMRMLSegmentationNode, segment_id: str) -> None:
    """Centre the slice views on a structure; nothing for an empty one."""
    centre = segmentation.GetSegmentCenterRAS(segment_id)
    if centre is not None:
        right, anterior, superior = centre
        jump_slices(slicer.mrmlScene, (-right, -anterior, superior))


def fit_3d_views() -> None:
    """Fit the cameras to what is shown."""
    if slicer.app.layoutManager() is not None:
        slicer.util.resetThreeDViews()


def load_sample() -> None:
    """Load the scan of the sample; nothing is downloaded."""
    import SampleData

    SampleData.SampleDataLogic().downloadSamples(SAMPLE)


def dicom_file(uid: str) -> str:
    """Return the file of a SOP Instance UID in Slicer's DICOM database; empty if it is not there."""
    return str(slicer.dicomDatabase.fileForInstance(uid) or "")


class _Jobs:
    """Starts jobs with the worker that waits, if one does."""

    @property
    def warm(self) -> bool:
        return _workers().warm

    def segment(self, request: SegmentRequest, volume: Volume) -> Job:
        return start_segmentation(request, volume, workers=_workers())

    def advise(self, request: AdviseRequest) -> Job:
        return start_advice(request, workers=_workers())


def end_waiting_worker() -> None:
    """End the process that waits for a next job, if one does; jobs at work are not touched."""
    _workers().end()


def _start_batch(request: BatchRequest) -> Job:
    return start_batch(request, workers=_workers())


@functools.cache
def _workers() -> Workers:
    """Return where workers come from; one stays for some minutes, so that the next run starts at once."""
    return Workers(PythonLauncher(python_executable()), _temporary_folder(), keep_seconds=_KEEP_SECONDS)


def _temporary_folder() -> Path:
    return Path(slicer.app.temporaryPath)
