"""What runs in the application itself: ``Slicer --testing``, or "Reload and Test" in developer mode. Offline.

Slicer imports this file at its start: what takes time to import is imported by the tests.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from KDSegmentatorPanel.sample_data import SAMPLE, register_sample_data
from KDSegmentatorPanel.slicer_packages import SlicerPackages

TASK, STUDENT, TEACHER = "hippocampus", "x1/4", "x1"
LEAST_DICE = 0.75
"""Below the least Dice of a structure that the students reach on the sample, and above that of any mistake."""

LONGEST_GAP_SECONDS = 0.2
"""That this thread may compute without looking after its user."""

_LONGEST_SECONDS = 300.0
_CANCELLED_SECONDS = 10.0
"""A cancelled worker is given one second; the rest is for a busy machine."""


class KDSegmentatorTest(ScriptedLoadableModuleTest):
    """The module's self-tests, with folders of packs and measurements of their own.

    They are skipped if Slicer's Python lacks packages; with ``KDSEG_CI=1`` in the environment that is a failure.
    """

    @classmethod
    def setUpClass(cls) -> None:
        """Keep the user's packs and measurements out of the tests, and the tests out of them."""
        folder = tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath)
        cls.addClassCleanup(folder.cleanup)
        opened = hasattr(slicer.modules, "KDSegmentatorWidget")
        if opened:
            cls.addClassCleanup(slicer.util.reloadScriptedModule, "KDSegmentator")  # last: with the user's folders
        for variable in ("KDSEGMENTATOR_PACKS", "KDSEGMENTATOR_CACHE"):
            cls.addClassCleanup(_set_environment, variable, os.environ.get(variable))
            os.environ[variable] = str(Path(folder.name) / variable)
        if opened:  # the panel has its folders since it was made
            slicer.util.reloadScriptedModule("KDSegmentator")

    def setUp(self) -> None:
        """Start from an empty scene, with the panel open."""
        self._need_packages()
        slicer.mrmlScene.Clear()
        self.widget = slicer.util.getModuleWidget("KDSegmentator")
        if slicer.util.mainWindow() is not None:
            slicer.util.selectModule("KDSegmentator")
        else:
            self.widget.enter()
        if self.widget.parameters is None:  # a panel that was reloaded is not entered anew
            self.widget.enter()
        self.panel = self.widget.panel
        self.widget.parameters.task = TASK

    def tearDown(self) -> None:
        """Leave nothing behind for the next test."""
        slicer.mrmlScene.Clear()
        self._wait(lambda: not self.widget.busy)

    def runTest(self) -> None:
        """Run all of them ("Reload and Test")."""
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(type(self))
        result = unittest.TextTestRunner(verbosity=2).run(suite)
        if not result.wasSuccessful():
            self.fail(
                f"{len(result.errors) + len(result.failures)} of {result.testsRun} self-tests failed, see the log"
            )
        self.delayDisplay(f"{result.testsRun - len(result.skipped)} self-tests passed, {len(result.skipped)} skipped")

    def test_states(self) -> None:
        """The panel says what is missing."""
        import numpy as np

        from KDSegmentatorLib.geometry import Volume
        from KDSegmentatorLib.mrml.volumes import node_from_volume
        from KDSegmentatorPanel.segment_view import State

        self.assertEqual(self.panel.state, State.NO_VOLUME)
        self.assertFalse(self.widget.ui.segmentButton.enabled)
        self.assertTrue(self.widget.ui.segmentButton.toolTip)
        self.widget.parameters.inputVolume = _generated_volume()
        self._wait(lambda: not self.panel.busy)
        self.assertEqual(self.panel.state, State.READY)
        self.assertEqual(self.panel.view().tasks[0].title, "Hippocampus, anterior and posterior")
        self.assertIn("recommended", "".join(row.mark for row in self.panel.view().qualities))
        single_slice = Volume(np.ones((1, 9, 9), np.float32), (1.0, 1.0, 1.0))
        self.widget.parameters.inputVolume = node_from_volume(single_slice, slicer.mrmlScene, name="Slice")
        self.assertEqual(self.panel.state, State.NO_VOLUME)
        self.assertIn("single slice", self.widget.ui.whatLabel.text)

    def test_scene_keeps_the_choices(self) -> None:
        """The choices survive saving and loading the scene."""
        parameters = self.widget.parameters
        parameters.inputVolume = _generated_volume()
        parameters.options.size, parameters.options.mirroring, parameters.leftOut = (
            STUDENT,
            True,
            ["Anterior hippocampus"],
        )
        with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
            path = str(Path(folder) / "scène.mrb")
            self.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear()
            self.assertTrue(slicer.util.loadScene(path))
        loaded = self.widget.logic.getParameterNode()
        self.assertEqual(loaded.inputVolume.GetName(), "Generated")
        self.assertEqual(
            (loaded.options.size, loaded.options.mirroring, list(loaded.leftOut)),
            (STUDENT, True, ["Anterior hippocampus"]),
        )

    def test_sample(self) -> None:
        """The shipped sample is segmented with the x1/4 student."""
        from KDSegmentatorLib.mrml.results import ENTROPY_ROLE, STATISTICS_ROLE
        from KDSegmentatorPanel.segment_view import State

        volume, reference = _sample()
        parameters = self.widget.parameters
        parameters.inputVolume, parameters.options.size = volume, STUDENT
        parameters.surfaces, parameters.options.entropy = True, True
        self._wait(lambda: not self.panel.busy)
        self.widget.ui.segmentButton.click()
        self.assertEqual(self.panel.state, State.RUNNING)
        self.assertTrue(self.widget.ui.cancelButton.enabled)
        self.assertFalse(self.widget.ui.segmentButton.enabled)
        self._wait(lambda: not self.panel.busy)
        self.assertEqual(self.panel.state, State.DONE, self.panel.view().message.text)
        node = self.widget.ui.resultSelector.currentNode()
        self.assertEqual(node.GetSegmentation().GetNumberOfSegments(), 2)
        self.assertTrue(node.GetSegmentation().ContainsRepresentation("Closed surface"))
        self.assertEqual(node.GetNodeReference(STATISTICS_ROLE).GetNumberOfRows(), 2)
        uncertainty = node.GetNodeReference(ENTROPY_ROLE).GetImageData()
        self.assertEqual(uncertainty.GetDimensions(), volume.GetImageData().GetDimensions())
        self.assertGreater(uncertainty.GetScalarRange()[1], 0.0)
        self.assertEqual(node.GetAttribute("KDSegmentator.pack_id"), "hippocampus-x1_4")
        self.assertIn("hippocampus-x1_4", self.widget.ui.detailsLabel.text)
        for dice in _dice(node, reference, volume):
            self.assertGreater(dice, LEAST_DICE)
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        item, volume_item = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(volume)
        self.assertEqual(hierarchy.GetItemParent(item), hierarchy.GetItemParent(volume_item))

    def test_sizes_are_compared(self) -> None:
        """Teacher and students are run one after the other and compared."""
        volume, _reference = _sample()
        self.widget.parameters.inputVolume = volume
        self._wait(lambda: not self.panel.busy)
        self.widget.ui.compareAllButton.click()
        self._wait(lambda: not self.panel.busy and not self.widget.comparePanel.busy)
        sizes = [outcome.record.size for outcome in self.panel.outcomes]
        self.assertEqual((sizes[0], sizes[-1]), (TEACHER, STUDENT), self.panel.view().message.text)
        self.assertEqual(len(self.widget.comparePanel.pairs), len(sizes) - 1)
        for pair in self.widget.comparePanel.pairs:
            self.assertGreater(pair.comparison.mean.dice, LEAST_DICE)
        self.assertEqual(self.widget.ui.comparisonTable.rowCount, 2)
        for number in range(self.widget.ui.pairViewComboBox.count):
            self.widget.ui.pairViewComboBox.setCurrentIndex(number)
            self.widget.ui.showPairButton.setChecked(True)
            slicer.app.processEvents()
            self.widget.ui.showPairButton.setChecked(False)
        region = self.widget.comparePanel.pairs[-1].comparison.labels[0].largest_disagreement
        self.widget.logic.jumpSlices(region.position)

    def test_nothing_holds_up_the_user(self) -> None:
        """Every action leaves Slicer free: the longest gap of a timer that ticks all the time, see the log."""
        from KDSegmentatorPanel.heartbeat import Heartbeat, act_like_a_user

        heart = Heartbeat(self._wait)
        act_like_a_user(self.widget, heart, _sample()[0])
        self.assertEqual(self.widget.panel.view().message.level, "information")
        logging.info("KDSegmentator, longest gaps of the heartbeat:\n%s", heart.table())
        for gap in heart.gaps:
            self.assertLess(gap.busy_seconds, LONGEST_GAP_SECONDS, gap.action)

    def test_cancel(self) -> None:
        """A run is cancelled and leaves nothing behind."""
        from KDSegmentatorPanel.segment_view import State

        nodes = self._start_long_run()
        self.widget.ui.cancelButton.click()
        self.assertEqual(self.panel.state, State.CANCELLING)
        started = time.monotonic()
        self._wait(lambda: not self.panel.busy)
        self.assertLess(time.monotonic() - started, _CANCELLED_SECONDS)
        self.assertEqual(self.panel.state, State.READY)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)

    def test_scene_is_closed_during_a_run(self) -> None:
        """Closing the scene ends the run."""
        from KDSegmentatorPanel.segment_view import State

        self._start_long_run()
        slicer.mrmlScene.Clear()
        self.assertEqual(self.panel.state, State.NO_VOLUME)
        self._wait(lambda: not self.panel.busy)
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")), 0)

    def test_scene_is_closed_behind_another_module(self) -> None:
        """A run goes on while another module is open, and ends with the scene."""
        from KDSegmentatorPanel.segment_view import State

        if slicer.util.mainWindow() is None:
            self.skipTest("needs a main window")
        self._start_long_run()
        slicer.util.selectModule("Data")
        self.assertEqual(self.panel.state, State.RUNNING)
        slicer.mrmlScene.Clear()
        self.assertEqual(self.panel.state, State.NO_VOLUME)
        self._wait(lambda: not self.panel.busy)
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")), 0)
        slicer.util.selectModule("KDSegmentator")
        self.assertIsNotNone(self.widget.parameters)

    def test_result_comes_behind_another_module(self) -> None:
        """What was run while another module is open is shown when the panel is opened again."""
        if slicer.util.mainWindow() is None:
            self.skipTest("needs a main window")
        parameters = self.widget.parameters
        parameters.inputVolume, parameters.options.size = _generated_volume(), STUDENT
        self._wait(lambda: not self.panel.busy)
        self.widget.ui.segmentButton.click()
        slicer.util.selectModule("Data")
        self._wait(lambda: not self.panel.busy)
        self.assertEqual(len(self.panel.outcomes), 1, self.panel.view().message.text)
        slicer.util.selectModule("KDSegmentator")
        node = self.panel.outcomes[0].nodes.segmentation
        self.assertEqual(self.widget.ui.resultSelector.currentNode(), node)
        self.assertIn("hippocampus-x1_4", self.widget.ui.detailsLabel.text)

    def test_script(self) -> None:
        """A script segments an oblique volume under a transform."""
        import numpy as np

        from KDSegmentatorLib.mrml.label_maps import label_volume
        from KDSegmentatorLib.mrml.volumes import volume_from_node

        volume = _generated_volume(side=40)  # of the task's size, also when it is turned
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        turn = slicer.util.vtkMatrixFromArray(
            np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]], float)
        )
        transform.SetMatrixTransformToParent(turn)
        volume.SetAndObserveTransformNodeID(transform.GetID())
        node = self.widget.logic.segment(volume, TASK, STUDENT)
        self.assertTrue(label_volume(node).same_grid(volume_from_node(volume)))
        self.assertEqual(node.GetParentTransformNode(), transform)

    def test_volume_is_removed_during_a_run(self) -> None:
        """Removing the volume ends the run, and the panel says so."""
        from KDSegmentatorPanel.segment_view import State

        self._start_long_run()
        slicer.mrmlScene.RemoveNode(self.widget.parameters.inputVolume)
        self._wait(lambda: not self.panel.busy)
        self.assertIn(self.panel.state, (State.NO_VOLUME, State.FAILED))
        self.assertIn("removed during the run", self.widget.ui.messageLabel.text)
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")), 0)

    def test_two_instances(self) -> None:
        """A second panel of the module, and its end, leave a run of the first one alone."""
        from KDSegmentatorPanel.segment_view import State

        self._start_long_run()
        registered = slicer.modules.KDSegmentatorWidget
        second = slicer.util.getNewModuleWidget("KDSegmentator")  # takes the place of the first one in slicer.modules
        self.addCleanup(setattr, slicer.modules, "KDSegmentatorWidget", registered)
        self.addCleanup(_forget_widget, second)
        second.enter()
        self._wait(lambda: not second.busy)
        self.assertEqual(second.panel.state, State.READY)
        self.assertTrue(second.ui.segmentButton.enabled)
        second.cleanup()
        second.parent.deleteLater()
        self.assertEqual(self.panel.state, State.RUNNING)
        self.widget.ui.cancelButton.click()
        self._wait(lambda: not self.panel.busy)
        self.assertEqual(self.panel.state, State.READY)

    def test_batch(self) -> None:
        """A folder is segmented; one bad file does not stop the rest."""
        from KDSegmentatorLib.io.images import write_volume
        from KDSegmentatorLib.mrml.volumes import volume_from_node

        volume, _reference = _sample()
        parameters = self.widget.parameters
        parameters.inputVolume, parameters.options.size = volume, STUDENT
        with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as folder:
            scans, results = Path(folder) / "scans é", Path(folder) / "results"
            scans.mkdir()
            results.mkdir()
            write_volume(volume_from_node(volume), scans / "good.nii.gz")
            (scans / "bad.nii.gz").write_bytes(b"no image")
            self.widget.ui.batchInputEdit.currentPath = str(scans)
            self.widget.ui.batchOutputEdit.currentPath = str(results)
            self._wait(lambda: not self.widget.busy)
            self.assertEqual(self.widget.ui.batchTable.rowCount, 2)
            self.assertTrue(self.widget.ui.batchButton.enabled, self.widget.ui.batchButton.toolTip)
            self.widget.ui.batchButton.click()
            self._wait(lambda: not self.widget.batchPanel.busy)
            self.assertEqual(self.widget.ui.batchTable.item(0, 1).text(), "failed")
            self.assertEqual(self.widget.ui.batchTable.item(1, 1).text(), "done")
            self.assertTrue(Path(self.widget.batchPanel.view().table).is_file())

    def test_packs(self) -> None:
        """The shipped packs are there with their cards, and all their hashes are right."""
        packs = self.widget.ui.packComboBox
        self.assertGreaterEqual(packs.count, 3)
        for number in range(packs.count):
            packs.setCurrentIndex(number)
            self.assertIn("SHA-256", self.widget.ui.packCard.toPlainText())
            self.widget.ui.verifyPackButton.click()
            self._wait(lambda: not self.widget.busy)
            self.assertIn("hashes are right", self.widget.ui.packMessageLabel.text)

    def _need_packages(self) -> None:
        """Skip the test on a Slicer without the packages: tests install nothing."""
        missing = SlicerPackages().missing()
        if missing:
            reason = f"needs packages in Slicer's Python: {', '.join(missing)}"
            if os.environ.get("KDSEG_CI") == "1":
                self.fail(f"{reason}; KDSEG_CI=1 lets no test be skipped")
            self.skipTest(reason)

    def _start_long_run(self) -> int:
        """Start a run that takes minutes, wait until it is at its windows; return how many nodes the scene had."""
        parameters = self.widget.parameters
        parameters.options.check_input = False  # so large a volume does not fit the task
        parameters.inputVolume, parameters.options.size = _generated_volume(side=160), TEACHER
        parameters.options.mirroring = True
        self._wait(lambda: not self.panel.busy)
        nodes = int(slicer.mrmlScene.GetNumberOfNodes())
        self.widget.ui.segmentButton.click()
        self._wait(lambda: not self.panel.busy or self.panel.view().progress.total > 1)
        self.assertTrue(self.panel.busy, self.panel.view().message.text)
        return nodes

    def _wait(self, until: Callable[[], bool]) -> None:
        """Let Slicer work until something has happened."""
        end = time.monotonic() + _LONGEST_SECONDS
        while not until():
            self.assertLess(time.monotonic(), end, "this took too long")
            time.sleep(0.005)  # lets the job's thread run
            slicer.app.processEvents()


def _set_environment(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


def _forget_widget(widget: Any) -> None:
    """Let Slicer not clean up a widget, which has been deleted, once more when it ends."""
    slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", widget._onModuleAboutToBeUnloaded)


def _sample() -> tuple[Any, Any]:
    """Load the sample: volume and reference segmentation."""
    import SampleData

    logic = SampleData.SampleDataLogic()
    if logic.sourceForSampleName(SAMPLE) is None:  # the tests run before the application says that it has started
        register_sample_data(Path(__file__).parents[1] / "Resources")
    volume, reference = logic.downloadSamples(SAMPLE)
    return volume, reference


def _generated_volume(side: int = 48) -> Any:
    """Return an oblique volume of noise, which every pack can segment into something."""
    import numpy as np

    from KDSegmentatorLib.geometry import Volume, matrix
    from KDSegmentatorLib.mrml.volumes import node_from_volume

    voxels = np.random.default_rng(0).gamma(2, 100, size=(side, side, side)).astype(np.float32)
    cosine, sine = float(np.cos(0.3)), float(np.sin(0.3))
    direction = matrix([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    volume = Volume(voxels, (1.0, 1.1, 0.9), (10.0, -20.0, 30.0), direction)
    return node_from_volume(volume, slicer.mrmlScene, name="Generated")


def _dice(first: Any, second: Any, volume: Any) -> list[float]:
    """Return the Dice of both structures, on the volume's grid."""
    from KDSegmentatorLib.analysis.comparison import compare
    from KDSegmentatorLib.mrml.label_maps import label_volume

    found = compare(
        label_volume(first, reference_node=volume),
        label_volume(second, reference_node=volume),
        {1: "Anterior hippocampus", 2: "Posterior hippocampus"},
    )
    return [label.dice for label in found.labels]
