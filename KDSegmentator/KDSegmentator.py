"""The KDSegmentator module of 3D Slicer: Qt bound to KDSegmentatorPanel, which does the thinking."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

_MODULE_FOLDER = Path(__file__).resolve().parent
try:
    import KDSegmentatorLib  # noqa: F401 - installed beside the module
except ImportError:  # run from a source checkout, where it lies beside the module's folder
    sys.path.append(str(_MODULE_FOLDER.parent))

from KDSegmentatorPanel.choices import EngineChoice, PairView, PrecisionChoice  # noqa: E402 - the path is known only now

# Everything else is imported when the panel is opened: Slicer imports all modules at its start.

_DOCUMENTATION_URL = "https://github.com/KDSegmentator/KDSegmentator/blob/main/docs/slicer-module.md"
_SAMPLE_CATEGORY = "KDSegmentator"
_SAMPLE = "KDSegmentator hippocampus"

_POLL_MILLISECONDS = 20
_YIELD_SECONDS = 0.010
"""Slicer's main thread keeps Python's lock while it waits for events, so that other Python threads run only while
Python code of the main thread sleeps: half of the time is given to them while there is a job. Nobody notices 10 ms."""


class KDSegmentator(ScriptedLoadableModule):
    """Title, help, and sample data."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("KDSegmentator")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "SubjectHierarchy", "Terminologies"]
        self.parent.contributors = ["KDSegmentator developers"]
        self.parent.helpText = _("""
<p>Multi-label segmentation on this computer with small <b>students</b> that were distilled from large nnU-Net
<b>teachers</b>: no cloud, no graphics card, no torch.</p>
<ol>
<li>Choose a volume. Tasks that do not fit it are greyed, with the reason as their tooltip.</li>
<li>Choose a size, or leave the advised one. Time and memory are estimates for this computer and this volume.</li>
<li>Click Segment. Slicer can be used meanwhile, and the run can be cancelled; nothing changes in the scene before the
result is complete.</li>
</ol>
<p><b>Not a medical device; for research.</b> Every result has to be checked by a person. What a pack is made for, how
it was tested and where its limits are is said in its card under Packs.</p>
""")
        self.parent.helpText += _("<p>More in the <a href='{url}'>documentation</a>.</p>").format(
            url=_DOCUMENTATION_URL
        )
        self.parent.acknowledgementText = _("""
<p>Built on nnU-Net: Isensee et al., <i>nnU-Net: a self-configuring method for deep learning-based biomedical image
segmentation</i>, Nature Methods 18, 203-211 (2021).</p>
<p>The students are made with knowledge distillation as in <i>From Performance to Practice: Knowledge-Distilled
Segmentator for On-Premises Clinical Workflows</i> (Lan, Choi, Ma, Wang, Zhao, Jiang, Hsu) and <i>ReCo-KD: Region- and
Context-Aware Knowledge Distillation for Efficient 3D Medical Image Segmentation</i> (arXiv 2601.08301).</p>
<p>Hippocampus packs and sample: Medical Segmentation Decathlon, Task04 Hippocampus, Vanderbilt University Medical
Center, CC BY-SA 4.0; Antonelli et al., <i>The Medical Segmentation Decathlon</i>, Nature Communications 13, 4128
(2022).</p>
""")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Add the sample that comes with the extension to the Sample Data module; nothing is downloaded."""
    import SampleData

    samples = _MODULE_FOLDER / "Resources" / "Samples"
    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # since Slicer 5.12
        logic.registerCustomSampleDataCategory(_SAMPLE_CATEGORY, title=_("KDSegmentator"))
    logic.registerCustomSampleDataSource(
        category=_SAMPLE_CATEGORY,
        sampleName=_SAMPLE,
        thumbnailFileName=str(_MODULE_FOLDER / "Resources" / "Icons" / "KDSegmentator-hippocampus.png"),
        uris=[
            (samples / "KDSegmentator-hippocampus.nrrd").as_uri(),
            (samples / "KDSegmentator-hippocampus-reference.seg.nrrd").as_uri(),
        ],
        fileNames=["KDSegmentator-hippocampus.nrrd", "KDSegmentator-hippocampus-reference.seg.nrrd"],
        nodeNames=["KDSegmentator-hippocampus", "KDSegmentator-hippocampus-reference"],
        loadFileTypes=["VolumeFile", "SegmentationFile"],
        checksums=[
            "SHA256:dd45dd1d8878f42525419da649130b93bf807b706028c40e992c6be72a25e14c",
            "SHA256:402f09020e39b97da2fbed4fe917a9e30faa3d142b4259ab9a1fcb8d09346260",
        ],
    )


@parameterNodeWrapper
class KDSegmentatorParameterNode:
    """What is stored in the scene; KDSegmentatorPanel.choices.Inputs says what the choices mean."""

    inputVolume: vtkMRMLScalarVolumeNode
    task: str = ""
    size: str = ""
    outputSegmentation: vtkMRMLSegmentationNode
    leftOut: list[str]
    engine: EngineChoice = EngineChoice.AUTOMATIC
    precision: PrecisionChoice = PrecisionChoice.AUTOMATIC
    threads: Annotated[int, WithinRange(0, 256)] = 0
    mirroring: bool = False
    entropy: bool = False
    checkIntensities: bool = True
    surfaces: bool = False
    resultSegmentation: vtkMRMLSegmentationNode
    firstSegmentation: vtkMRMLSegmentationNode
    secondSegmentation: vtkMRMLSegmentationNode
    pairView: PairView = PairView.OVERLAY
    batchInputFolder: str = ""
    batchOutputFolder: str = ""
    batchPattern: str = "*"
    batchResume: bool = True


class KDSegmentatorWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self._parameterNode: Any = None  # a KDSegmentatorParameterNode
        self._parameterNodeGuiTag: int | None = None
        self._polling = False

    def setup(self) -> None:
        """Build the panel when it is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        from KDSegmentatorPanel.boxes.batch_box import BatchBox
        from KDSegmentatorPanel.boxes.compare_box import CompareBox
        from KDSegmentatorPanel.boxes.packs_box import PacksBox
        from KDSegmentatorPanel.boxes.result_box import ResultBox
        from KDSegmentatorPanel.boxes.segment_box import SegmentBox
        from KDSegmentatorPanel.slice_layouts import SliceLayouts

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/KDSegmentator.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)

        self.logic = KDSegmentatorLogic()
        self.panel = self.logic.newPanel()
        self.comparePanel = self.logic.newComparePanel()
        self.batchPanel = self.logic.newBatchPanel()
        self._outcomes = self.panel.outcomes
        self.segmentBox = SegmentBox(self.ui, self.panel, confirm=self._confirm, changed=self._show)
        self.resultBox = ResultBox(self.ui, report=slicer.util.errorDisplay)
        self.compareBox = CompareBox(
            self.ui,
            self.comparePanel,
            self.panel,
            SliceLayouts(self.logic.layouts()),
            jump=self.logic.jumpSlices,
            changed=self._show,
        )
        self.packsBox = PacksBox(
            self.ui, self.logic.newPacksPanel(), confirm=self._confirm, changed=self._onPacksChanged
        )

        self.batchBox = BatchBox(self.ui, self.batchPanel, changed=self._show)

        self.timer = qt.QTimer()
        self.timer.setInterval(_POLL_MILLISECONDS)
        self.timer.timeout.connect(self._onTimer)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.initializeParameterNode()
        self._show()

    def cleanup(self) -> None:
        """Stop everything when the application closes or the module is reloaded."""
        if hasattr(self, "panel"):
            self.timer.stop()
            self.setParameterNode(None)
            self.comparePanel.close()
            self.panel.shut_down()
            self.batchPanel.shut_down()
        self.removeObservers()

    def enter(self) -> None:
        """Show the panel again; volumes may have changed meanwhile."""
        self.initializeParameterNode()
        self._onPacksChanged()

    def exit(self) -> None:
        """Leave the panel; a run goes on, and its result comes into the scene."""
        self.setParameterNode(None)

    def onReload(self) -> None:
        """Reload the module's packages too (developer mode)."""
        packages = ("KDSegmentatorPanel", "KDSegmentatorLib")
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, _caller: Any, _event: Any) -> None:
        """Let go of the scene before it is closed."""
        self.setParameterNode(None)
        self.compareBox.hidePair()
        self.comparePanel.close()
        self.panel.close(_("The run was cancelled because the scene was closed."))
        self._show()

    def onSceneEndClose(self, _caller: Any, _event: Any) -> None:
        """Take up the new scene, if the panel is open."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, _caller: Any, _event: Any) -> None:
        """Take over the parameters of a scene that was loaded, if the panel is open."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Observe the parameter node, and choose a volume if none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if self._parameterNode is not None and self._parameterNode.inputVolume is None:
            self._parameterNode.inputVolume = self.logic.suggestedVolume()

    def setParameterNode(self, parameterNode: Any) -> None:
        """Bind the widgets to a parameter node, or to none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersChanged)
        self._parameterNode = parameterNode
        self._parameterNodeGuiTag = None
        self.segmentBox.setParameters(parameterNode)
        self.compareBox.setParameters(parameterNode)
        self.batchBox.setParameters(parameterNode)
        if parameterNode is not None:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersChanged)
            self._onParametersChanged()

    def _onParametersChanged(self, _caller: Any = None, _event: Any = None) -> None:
        from KDSegmentatorPanel.parameters import batch_inputs_of, inputs_of

        parameters = self._parameterNode
        if parameters is not None:
            self.panel.update(inputs_of(parameters))
            self.comparePanel.update(parameters.firstSegmentation, parameters.secondSegmentation)
            self.batchPanel.update(batch_inputs_of(parameters, self.panel.settings, self.panel.obstacle))
            self._show()

    def _onPacksChanged(self) -> None:
        self.panel.refresh()
        self.packsBox.show()
        self._onParametersChanged()
        self._show()

    def _onTimer(self) -> None:
        time.sleep(_YIELD_SECONDS)
        changed = [panel.poll() for panel in (self.panel, self.comparePanel, self.batchPanel)]
        if any(changed) or not self._busy():
            self._show()

    def _busy(self) -> bool:
        return bool(self.panel.busy or self.comparePanel.busy or self.batchPanel.busy)

    def _show(self) -> None:
        """Show the state of all boxes, and poll as long as there is something to wait for."""
        if self.panel.outcomes is not self._outcomes:
            self._outcomes = self.panel.outcomes
            self._showOutcomes()
        self.segmentBox.show()
        self.compareBox.show()
        self.batchBox.show()
        if self._busy() != self._polling:
            self._polling = self._busy()
            if self._polling:
                self.timer.start()
            else:
                self.timer.stop()

    def _showOutcomes(self) -> None:
        """Show the results of a run; those of several sizes are compared."""
        segmentations = [outcome.nodes.segmentation for outcome in self._outcomes]
        if not segmentations:
            return
        self.ui.resultSelector.setCurrentNode(segmentations[-1])
        self.resultBox.show()
        self.resultBox.open()
        if len(segmentations) > 1:
            self.ui.compareBox.collapsed = False
            self.ui.firstSelector.setCurrentNode(segmentations[0])
            self.ui.secondSelector.setCurrentNode(segmentations[-1])
            self.comparePanel.compare_all(segmentations)

    @staticmethod
    def _confirm(question: str) -> bool:
        return bool(slicer.util.confirmOkCancelDisplay(question, windowTitle="KDSegmentator"))


class KDSegmentatorLogic(ScriptedLoadableModuleLogic):
    """The module without its panel, for scripts."""

    def getParameterNode(self) -> Any:
        """Return the scene's KDSegmentatorParameterNode; it is made if there is none."""
        wrapped: Any = KDSegmentatorParameterNode  # the decorator gives it another constructor
        return wrapped(super().getParameterNode())

    @staticmethod
    def suggestedVolume() -> vtkMRMLScalarVolumeNode | None:
        """Return the volume that is shown, else the first of the scene, if any; no label maps, no colour images."""
        selection = slicer.app.applicationLogic().GetSelectionNode()
        shown = slicer.mrmlScene.GetNodeByID(selection.GetActiveVolumeID() or "") if selection is not None else None
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        scans = [volume for volume in volumes if volume.GetClassName() == "vtkMRMLScalarVolumeNode"]
        return shown if shown in scans else next(iter(scans), None)

    def newPanel(self) -> Any:
        """Return a new KDSegmentatorPanel.segment_panel.SegmentPanel on the packs of this machine."""
        from KDSegmentatorLib.jobs.process import start_segmentation
        from KDSegmentatorLib.packs.store import PackStore
        from KDSegmentatorPanel.assessment import assess
        from KDSegmentatorPanel.segment_panel import SegmentPanel
        from KDSegmentatorPanel.slicer_packages import SlicerPackages

        def start(request: Any, volume: Any) -> Any:
            # in the Python that runs, which in Slicer is PythonSlicer
            return start_segmentation(request, volume, temporary_folder=Path(slicer.app.temporaryPath))

        return SegmentPanel(
            packs=PackStore(),
            start=start,
            assess=assess,
            background=ThreadPoolExecutor(1, thread_name_prefix="KDSegmentator"),
            packages=SlicerPackages(_MODULE_FOLDER / "Resources" / "requirements.txt"),
        )

    @staticmethod
    def newBatchPanel() -> Any:
        """Return a new KDSegmentatorPanel.batch_panel.BatchPanel."""
        from KDSegmentatorLib.jobs.process import start_batch
        from KDSegmentatorPanel.batch_panel import BatchPanel

        def start(request: Any) -> Any:
            return start_batch(request, temporary_folder=Path(slicer.app.temporaryPath))

        return BatchPanel(start)

    @staticmethod
    def newComparePanel() -> Any:
        """Return a new KDSegmentatorPanel.compare_panel.ComparePanel."""
        from KDSegmentatorPanel.compare_panel import ComparePanel

        return ComparePanel(ThreadPoolExecutor(1, thread_name_prefix="KDSegmentator comparison"))

    @staticmethod
    def newPacksPanel() -> Any:
        """Return a new KDSegmentatorPanel.packs_panel.PacksPanel on the packs of this machine."""
        from KDSegmentatorLib.packs.store import PackStore
        from KDSegmentatorPanel.packs_panel import PacksPanel

        return PacksPanel(PackStore())

    @staticmethod
    def layouts() -> Any:
        """Return the application's KDSegmentatorPanel.slice_layouts.Layouts; None without a main window."""
        from KDSegmentatorPanel.slice_layouts import Layouts

        manager = slicer.app.layoutManager()
        if manager is None:
            return None
        return Layouts(
            current=lambda: manager.layout,
            change=manager.setLayout,
            side_by_side=slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView,
        )

    @staticmethod
    def jumpSlices(position: Any) -> None:
        """Centre all slice views on a point, (L, P, S) in mm."""
        from KDSegmentatorLib.mrml.slice_views import jump_slices

        jump_slices(slicer.mrmlScene, position)

    def segment(self, volumeNode: Any, task: str = "", size: str = "", **choices: Any) -> Any:
        """Segment a volume and wait for the result; Slicer stays responsive.

        :param volumeNode: the scan, a vtkMRMLScalarVolumeNode.
        :param task: for example "hippocampus"; empty takes the first one that fits the volume.
        :param size: for example "x1/4"; empty takes the one that is advised for this computer.
        :param choices: further fields of KDSegmentatorPanel.choices.Inputs.
        :returns: the new vtkMRMLSegmentationNode.
        :raises RuntimeError: with the reason, if it did not work.
        """
        from KDSegmentatorPanel.choices import Inputs

        panel = self.newPanel()
        try:
            panel.update(Inputs(volume=volumeNode, task=task, size=size, **choices))
            self.waitFor(panel)
            panel.segment()
            self.waitFor(panel)
            if not panel.outcomes:
                raise RuntimeError(panel.view().message.text)
            return panel.outcomes[0].nodes.segmentation
        finally:
            panel.shut_down()

    @staticmethod
    def waitFor(panel: Any) -> None:
        """Keep Slicer alive until a panel has nothing more to wait for."""
        while panel.busy:
            time.sleep(_YIELD_SECONDS)
            panel.poll()
            slicer.app.processEvents()


class KDSegmentatorTest(ScriptedLoadableModuleTest):
    """Self-tests, see KDSegmentatorPanel.self_tests: they run in the application, offline."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run all of them."""
        from KDSegmentatorPanel import self_tests

        for test in self_tests.ALL:
            self.setUp()
            self.delayDisplay(test.__doc__)
            test(self)
        self.setUp()
        self.delayDisplay(_("All tests passed"))
