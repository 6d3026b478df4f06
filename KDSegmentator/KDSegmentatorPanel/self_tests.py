"""What runs in the application itself: ``Slicer --testing``, or "Reload and Test" in developer mode. Offline."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SampleData
import slicer

from KDSegmentatorLib.analysis.comparison import compare
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.mrml.label_maps import label_volume
from KDSegmentatorLib.mrml.results import STATISTICS_ROLE
from KDSegmentatorLib.mrml.volumes import node_from_volume, volume_from_node
from KDSegmentatorPanel.state import State

SAMPLE = "KDSegmentator hippocampus"
TASK, STUDENT, TEACHER = "hippocampus", "x1/4", "x1"
LEAST_DICE = 0.75
"""Below the least Dice of a structure that the students reach on the sample, and above that of any mistake."""

_LONGEST_SECONDS = 300.0


def test_states_without_an_engine(test: Any) -> None:
    """The panel says what is missing."""
    widget = _widget()
    test.assertEqual(widget.panel.state, State.NO_VOLUME)
    test.assertFalse(widget.ui.segmentButton.enabled)
    test.assertTrue(widget.ui.segmentButton.toolTip)
    _parameters(widget).inputVolume = _generated_volume()
    _wait(test, lambda: not widget.panel.busy)
    test.assertIn(widget.panel.state, (State.READY, State.PACKAGES_MISSING))
    test.assertEqual(widget.ui.taskComboBox.currentText, "Hippocampus, anterior and posterior (MR)")
    test.assertIn("advised", "".join(row.text for row in widget.panel.view().sizes))
    single_slice = node_from_volume(Volume(np.ones((1, 9, 9), np.float32), (1.0, 1.0, 1.0)), slicer.mrmlScene, name="S")
    _parameters(widget).inputVolume = single_slice
    test.assertEqual(widget.panel.state, State.NO_VOLUME)
    test.assertIn("single slice", widget.ui.segmentButton.toolTip)


def test_scene_keeps_the_choices(test: Any) -> None:
    """The choices survive saving and loading the scene."""
    widget = _widget()
    parameters = _parameters(widget)
    parameters.inputVolume = _generated_volume()
    parameters.size, parameters.mirroring, parameters.leftOut = STUDENT, True, ["Anterior hippocampus"]
    with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
        path = str(Path(folder) / "scène.mrb")
        test.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear()
        test.assertTrue(slicer.util.loadScene(path))
    loaded = widget.logic.getParameterNode()
    test.assertEqual(loaded.inputVolume.GetName(), "Generated")
    test.assertEqual((loaded.size, loaded.mirroring, list(loaded.leftOut)), (STUDENT, True, ["Anterior hippocampus"]))


def test_sample(test: Any) -> None:
    """The shipped sample is segmented with the x1/4 student."""
    _need_engine(test)
    volume, reference = SampleData.SampleDataLogic().downloadSamples(SAMPLE)
    widget = _widget()
    parameters = _parameters(widget)
    parameters.inputVolume, parameters.size, parameters.surfaces = volume, STUDENT, True
    _wait(test, lambda: not widget.panel.busy)
    widget.ui.segmentButton.click()
    test.assertEqual(widget.panel.state, State.RUNNING)
    test.assertEqual(widget.ui.segmentButton.text, "Cancel")
    _wait(test, lambda: not widget.panel.busy)
    test.assertEqual(widget.panel.state, State.DONE, widget.panel.view().message.text)
    node = widget.ui.resultSelector.currentNode()
    test.assertEqual(node.GetSegmentation().GetNumberOfSegments(), 2)
    test.assertTrue(node.GetSegmentation().ContainsRepresentation("Closed surface"))
    test.assertEqual(node.GetNodeReference(STATISTICS_ROLE).GetNumberOfRows(), 2)
    for dice in _dice(node, reference, volume):
        test.assertGreater(dice, LEAST_DICE)
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item, volume_item = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(volume)
    test.assertEqual(hierarchy.GetItemParent(item), hierarchy.GetItemParent(volume_item))


def test_sizes_are_compared(test: Any) -> None:
    """Teacher and students are run one after the other and compared."""
    _need_engine(test)
    volume = SampleData.SampleDataLogic().downloadSamples(SAMPLE)[0]
    widget = _widget()
    _parameters(widget).inputVolume = volume
    _wait(test, lambda: not widget.panel.busy)
    widget.ui.compareAllButton.click()
    _wait(test, lambda: not widget.panel.busy and not widget.comparePanel.busy)
    sizes = [outcome.result.segmentation.record.size for outcome in widget.panel.outcomes]
    test.assertEqual((sizes[0], sizes[-1]), (TEACHER, STUDENT), widget.panel.view().message.text)
    test.assertEqual(len(widget.comparePanel.pairs), len(sizes) - 1)
    for pair in widget.comparePanel.pairs:
        test.assertGreater(pair.comparison.mean.dice, LEAST_DICE)
    test.assertEqual(widget.ui.comparisonTable.rowCount, 2)
    for number in range(widget.ui.pairViewComboBox.count):
        widget.ui.pairViewComboBox.setCurrentIndex(number)
        widget.ui.showPairButton.setChecked(True)
        slicer.app.processEvents()
        widget.ui.showPairButton.setChecked(False)
    region = widget.comparePanel.pairs[-1].comparison.labels[0].largest_disagreement
    widget.logic.jumpSlices(region.position)


def test_cancel(test: Any) -> None:
    """A run is cancelled and leaves nothing behind."""
    _need_engine(test)
    widget = _widget()
    parameters = _parameters(widget)
    parameters.inputVolume, parameters.size, parameters.mirroring = _generated_volume(side=160), TEACHER, True
    _wait(test, lambda: not widget.panel.busy)
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    widget.ui.segmentButton.click()
    _wait(test, lambda: widget.panel.view().progress.text.startswith("window"))
    widget.ui.segmentButton.click()
    test.assertEqual(widget.panel.state, State.CANCELLING)
    started = time.monotonic()
    _wait(test, lambda: not widget.panel.busy)
    test.assertLess(time.monotonic() - started, 10.0)
    test.assertEqual(widget.panel.state, State.READY)
    test.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)


def test_scene_is_closed_during_a_run(test: Any) -> None:
    """Closing the scene ends the run."""
    _need_engine(test)
    widget = _widget()
    parameters = _parameters(widget)
    parameters.inputVolume, parameters.size, parameters.mirroring = _generated_volume(side=160), TEACHER, True
    _wait(test, lambda: not widget.panel.busy)
    widget.ui.segmentButton.click()
    _wait(test, lambda: widget.panel.view().progress.text.startswith("window"))
    slicer.mrmlScene.Clear()
    test.assertEqual(widget.panel.state, State.NO_VOLUME)
    _wait(test, lambda: not widget.panel.busy)
    test.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")), 0)


def test_script(test: Any) -> None:
    """A script segments an oblique volume under a transform."""
    _need_engine(test)
    volume = _generated_volume()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    turn = slicer.util.vtkMatrixFromArray(np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]], float))
    transform.SetMatrixTransformToParent(turn)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    node = _widget().logic.segment(volume, TASK, STUDENT)
    test.assertTrue(label_volume(node).same_grid(volume_from_node(volume)))
    test.assertEqual(node.GetParentTransformNode(), transform)


ALL: tuple[Callable[[Any], None], ...] = (
    test_states_without_an_engine,
    test_scene_keeps_the_choices,
    test_sample,
    test_sizes_are_compared,
    test_cancel,
    test_scene_is_closed_during_a_run,
    test_script,
)


def _widget() -> Any:
    """Return the module's widget, entered and in an empty scene."""
    widget = slicer.util.getModuleWidget("KDSegmentator")
    widget.enter()
    return widget


def _parameters(widget: Any) -> Any:
    return widget._parameterNode


def _generated_volume(side: int = 48) -> Any:
    """Return an oblique volume of noise, which every pack can segment into something."""
    voxels = np.random.default_rng(0).gamma(2, 100, size=(side, side, side)).astype(np.float32)
    cosine, sine = float(np.cos(0.3)), float(np.sin(0.3))
    direction = ((cosine, -sine, 0.0), (sine, cosine, 0.0), (0.0, 0.0, 1.0))
    volume = Volume(voxels, (1.0, 1.1, 0.9), (10.0, -20.0, 30.0), direction)
    return node_from_volume(volume, slicer.mrmlScene, name="Generated")


def _need_engine(test: Any) -> None:
    """Skip the rest on a Slicer without an engine: tests install nothing."""
    widget = _widget()
    if widget.panel.packages_missing:
        test.skipTest(f"needs an engine in Slicer's Python: {', '.join(widget.panel.packages_missing)}")


def _wait(test: Any, until: Callable[[], bool]) -> None:
    """Let Slicer work until something has happened."""
    end = time.monotonic() + _LONGEST_SECONDS
    while not until():
        test.assertLess(time.monotonic(), end, "this took too long")
        time.sleep(0.005)  # lets the job's thread run
        slicer.app.processEvents()


def _dice(first: Any, second: Any, volume: Any) -> list[float]:
    found = compare(
        label_volume(first, reference_node=volume),
        label_volume(second, reference_node=volume),
        {1: "Anterior hippocampus", 2: "Posterior hippocampus"},
    )
    return [label.dice for label in found.labels]
