"""Checks of the open panel, in the application in miniature: ``python -m support.slicer_application.check_panel``.

What Slicer does with the panel and a user does not see: memory that is let go of, failures inside a timer, reloading.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
import unittest
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import slicer
import vtk

from support.slicer_application.application import open_module
from support.slicer_application.pythonqt import slot_errors, unwrapped


class PanelChecks(unittest.TestCase):
    """Each with an empty scene."""

    widget: Any = None

    def setUp(self) -> None:
        """Open the panel."""
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("KDSegmentator")
        self.widget = slicer.modules.KDSegmentatorWidget

    def tearDown(self) -> None:
        """Leave the panel at rest."""
        slicer.mrmlScene.Clear()
        self._wait(lambda: not self.widget.busy)
        errors, slot_errors[:] = list(slot_errors), []
        self.assertEqual(errors, [])

    def test_volumes_of_a_closed_scene_are_freed(self) -> None:
        """Also when several were chosen one after the other."""
        freed: list[int] = []
        for number in range(3):
            volume = self._volume()
            volume.AddObserver(vtk.vtkCommand.DeleteEvent, lambda *_, number=number: freed.append(number))
            self.widget.parameters.inputVolume = volume
            del volume
            self._wait(lambda: not self.widget.busy)
        slicer.mrmlScene.Clear()
        self._wait(lambda: not self.widget.busy)
        gc.collect()
        self.assertEqual(sorted(set(freed)), [0, 1, 2])

    def test_a_volume_that_is_loaded_is_chosen(self) -> None:
        """While the panel is open, and after a scene was closed."""
        for _scene in range(2):
            volume = self._volume()
            self._wait(lambda volume=volume: self.widget.parameters.inputVolume is volume)
            self._wait(lambda: not self.widget.busy)
            slicer.mrmlScene.Clear()

    def test_a_volume_that_the_user_chooses_is_shown(self) -> None:
        """As background of the slice views."""
        first, second = self._volume(), self._volume()
        selection = slicer.app.applicationLogic().GetSelectionNode()
        box = self.widget.ui.inputSelector
        for volume in (first, second):
            box.setCurrentNode(volume)
            unwrapped(box).activated.emit(box.currentIndex)
            self.assertEqual(selection.GetActiveVolumeID(), volume.GetID())

    def test_a_double_click_starts_and_does_not_cancel(self) -> None:
        """Segment and Cancel are two buttons."""
        self.widget.parameters.options.check_input = False
        self.widget.parameters.task = "hippocampus"
        self.widget.parameters.inputVolume = self._volume((40, 40, 40))
        self._wait(lambda: not self.widget.busy)
        self.widget.ui.segmentButton.click()
        self.widget.ui.segmentButton.click()
        self.assertTrue(self.widget.panel.state.at_work)
        self._wait(lambda: not self.widget.busy)
        self.assertEqual(len(self.widget.panel.outcomes), 1, self.widget.panel.view().message.text)

    def test_the_result_of_a_scene_that_is_loaded_is_shown(self) -> None:
        """Its box is opened."""
        self.widget.ui.resultBox.collapsed = True
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Result")
        self.widget.parameters.resultSegmentation = node
        path = str(Path(slicer.app.temporaryPath) / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear()
        self.assertTrue(slicer.util.loadScene(path))
        slicer.app.processEvents()
        self.assertFalse(self.widget.ui.resultBox.collapsed)
        self.assertEqual(self.widget.ui.resultSelector.currentNode().GetName(), "Result")

    def test_a_run_that_ended_with_the_scene_is_said(self) -> None:
        """Until another volume is chosen."""
        self.widget.parameters.options.check_input = False
        self.widget.parameters.task = "hippocampus"
        self.widget.parameters.inputVolume = self._volume((40, 40, 40))
        self._wait(lambda: not self.widget.busy)
        self.widget.ui.segmentButton.click()
        slicer.mrmlScene.Clear()
        self._wait(lambda: not self.widget.busy)
        self.assertIn("scene was closed", self.widget.ui.messageLabel.text)
        self.assertIn("Choose a volume", self.widget.ui.whatLabel.text)

    def test_choices_of_another_version_start_anew(self) -> None:
        """A scene that this version cannot read must not make the panel unusable."""
        node = self.widget.parameters.parameterNode
        slicer.util.selectModule("Data")
        node.SetParameter("options.engine", "tensorrt")
        node.SetParameter("options.size", "x1/2")
        slicer.util.selectModule("KDSegmentator")
        self.assertEqual(self.widget.parameters.options.engine, "auto")

    def test_parameter_nodes_of_earlier_visits_are_freed(self) -> None:
        """A new wrapper is made at each visit."""
        wrappers = []
        for _visit in range(4):
            wrappers.append(weakref.ref(self.widget.parameters))
            slicer.util.selectModule("Data")
            slicer.util.selectModule("KDSegmentator")
        gc.collect()
        self.assertEqual([each() for each in wrappers], [None] * 4)

    def test_a_panel_that_fails_does_not_stop_the_others(self) -> None:
        """The timer goes on to what is shown."""

        def fail() -> bool:
            raise RuntimeError("a mistake")

        shown: list[int] = []
        with (
            patch.object(self.widget.panel, "poll", fail),
            patch.object(self.widget, "_show", lambda: shown.append(1)),
            self.assertLogs(level="ERROR") as log,
        ):
            self.widget._onTimer()
        self.assertEqual(shown, [1])
        self.assertIn("a mistake", log.output[0])

    def test_a_pair_that_is_shown_is_put_back(self) -> None:
        """By a comparison that fails, by removing a segmentation, and by reloading the module."""
        for end in (self._compare_with_nothing, self._remove_one, self._reload):
            with self.subTest(end.__name__):
                nodes = self._compared()
                third = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Other")
                third.CreateDefaultDisplayNodes()
                self.widget.ui.pairViewComboBox.setCurrentIndex(3)
                slicer.app.processEvents()
                self.widget.ui.showPairButton.setChecked(True)
                slicer.app.processEvents()
                self.assertFalse(third.GetDisplayNode().GetVisibility())
                self.assertIsNotNone(self._disagreement())
                end(nodes)
                self.assertTrue(third.GetDisplayNode().GetVisibility())
                self.assertIsNone(self._disagreement())
                self.assertFalse(self.widget.ui.showPairButton.checked)
                slicer.mrmlScene.Clear()

    def test_self_tests_without_packages(self) -> None:
        """They are skipped, which continuous integration takes for a failure."""
        from KDSegmentatorPanel.self_tests import KDSegmentatorTest

        test = KDSegmentatorTest("test_sample")
        with patch.dict(sys.modules, msgspec=None):
            with patch.dict(os.environ, KDSEG_CI="0"), self.assertRaises(unittest.SkipTest):
                test.setUp()
            with patch.dict(os.environ, KDSEG_CI="1"), self.assertRaisesRegex(AssertionError, "KDSEG_CI"):
                test.setUp()

    def test_self_tests_have_folders_of_their_own(self) -> None:
        """The user's packs are not read, and nothing is measured into the user's cache."""
        from KDSegmentatorPanel.self_tests import KDSegmentatorTest

        users = self.widget.panel.settings.user_packs
        KDSegmentatorTest.setUpClass()
        try:
            self.assertNotEqual(slicer.modules.KDSegmentatorWidget.panel.settings.user_packs, users)
        finally:
            KDSegmentatorTest.doClassCleanups()
        self.widget = slicer.modules.KDSegmentatorWidget
        self.assertEqual(self.widget.panel.settings.user_packs, users)
        self.widget.enter()

    def _compared(self) -> list[Any]:
        nodes = []
        for name in ("a", "b"):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
            node.CreateDefaultDisplayNodes()
            image = slicer.vtkOrientedImageData()
            image.SetDimensions(4, 5, 6)
            image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
            image.GetPointData().GetScalars().Fill(1)
            image.SetScalarComponentFromDouble(1, 1, len(nodes), 0, 0)
            node.AddSegmentFromBinaryLabelmapRepresentation(image, "Structure")
            nodes.append(node)
        volume = self._volume((6, 5, 4))
        for node in nodes:
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        self.widget.parameters.firstSegmentation, self.widget.parameters.secondSegmentation = nodes
        self.widget.ui.compareButton.click()
        self._wait(lambda: not self.widget.busy)
        self.assertTrue(self.widget.comparePanel.pairs, self.widget.comparePanel.view().message.text)
        return nodes

    def _compare_with_nothing(self, _nodes: list[Any]) -> None:
        self.widget.parameters.secondSegmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        self.widget.ui.compareButton.click()
        self.assertTrue(self.widget.comparePanel.pairs, "the old comparison stays")

    def _remove_one(self, nodes: list[Any]) -> None:
        slicer.mrmlScene.RemoveNode(nodes[1])
        slicer.app.processEvents()

    def _reload(self, _nodes: list[Any]) -> None:
        slicer.util.reloadScriptedModule("KDSegmentator")
        self.widget = slicer.modules.KDSegmentatorWidget
        self.widget.enter()

    @staticmethod
    def _disagreement() -> Any:
        nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        return next((node for node in nodes if node.GetName().startswith("Disagreement")), None)

    @staticmethod
    def _volume(shape: tuple[int, int, int] = (20, 24, 18)) -> Any:
        import numpy as np

        from KDSegmentatorLib.geometry import Volume
        from KDSegmentatorLib.mrml.volumes import node_from_volume

        voxels = np.random.default_rng(0).gamma(2, 100, size=shape).astype(np.float32)
        return node_from_volume(Volume(voxels, (1.0, 1.0, 1.0)), slicer.mrmlScene, name="Generated")

    def _wait(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not until():
            self.assertLess(time.monotonic(), end, "this took too long")
            time.sleep(0.005)
            slicer.app.processEvents()


def main() -> int:
    """Run them."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KDSEGMENTATOR_PACKS"] = str(Path(folder) / "packs")
        os.environ["KDSEGMENTATOR_CACHE"] = str(Path(folder) / "cache")
        open_module(Path(folder))
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(PanelChecks)
        result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
        slicer.modules.KDSegmentatorWidget.cleanup()
    return 0 if result.wasSuccessful() and result.testsRun and not result.skipped else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # Qt and VTK are not taken apart in an order of their own
