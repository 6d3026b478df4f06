"""The KDSegmentator module of 3D Slicer: Qt bound to KDSegmentatorPanel, which does the thinking."""

import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper, parameterPack
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

_MODULE_FOLDER = Path(__file__).resolve().parent
try:
    import KDSegmentatorLib  # noqa: F401 - installed beside the module
except ImportError:  # run from a source checkout, where it lies beside the module's folder
    sys.path.append(str(_MODULE_FOLDER.parent))

# Slicer imports all modules at its start: these take next to no time and need no package that Slicer lacks; everything
# else is imported when the panel is built. The path is known only now.
from KDSegmentatorPanel.about import acknowledgement_text, help_text  # noqa: E402
from KDSegmentatorPanel.choices import PairView  # noqa: E402
from KDSegmentatorPanel.observation import Observation  # noqa: E402
from KDSegmentatorPanel.sample_data import register_sample_data  # noqa: E402
from KDSegmentatorPanel.self_tests import KDSegmentatorTest  # noqa: E402
from KDSegmentatorPanel.slicer_packages import SlicerPackages  # noqa: E402

__all__ = [
    "KDSegmentator",
    "KDSegmentatorLogic",
    "KDSegmentatorParameterNode",
    "KDSegmentatorTest",
    "KDSegmentatorWidget",
]

_RESOURCES = _MODULE_FOLDER / "Resources"

_MORE = ("Compare", "Packs", "Batch", "Log")
_BOXES = ("Segment", "Result", "More", *_MORE)
"""From top to bottom, the last ones in the box More; each has a .ui file of its own."""

_SCENE_MILLISECONDS = 200
"""How long after a node came into the scene a volume is chosen: readers add the node first, then read its image."""

_VOLUME_MILLISECONDS = 500
"""How long the volume has to stay as it is before it is looked at again: somebody may be dragging its transform."""

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
        self.parent.helpText = help_text()
        self.parent.acknowledgementText = acknowledgement_text()
        slicer.app.connect("startupCompleted()", _registerSampleData)


def _registerSampleData() -> None:
    register_sample_data(_RESOURCES)


@parameterPack
class KDSegmentatorOptions:
    """How to segment: the fields of KDSegmentatorLib.options.RunOptions that can be chosen here, by their names.

    Another option is a field here, a widget with its name in KDSegmentatorSegment.ui, and its use in the library.
    """

    size: str = ""
    engine: Annotated[str, Choice(["auto", "openvino", "onnxruntime"])] = "auto"
    precision: Annotated[str, Choice(["auto", "float32", "bfloat16", "int8"])] = "auto"
    threads: Annotated[int, WithinRange(0, 1024)] = 0  # 0 for what the computer allows
    mirroring: bool = False
    entropy: bool = False
    check_input: bool = True
    region_given: bool = False  # RunOptions.region


@parameterNodeWrapper
class KDSegmentatorParameterNode:
    """What is stored in the scene; KDSegmentatorPanel.selection.Inputs says what the choices mean."""

    inputVolume: vtkMRMLScalarVolumeNode
    task: str = ""
    options: KDSegmentatorOptions
    outputSegmentation: vtkMRMLSegmentationNode
    leftOut: list[str]
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
        self.panel: Any = None  # a SegmentPanel, once all packages are there
        self.setUpBox: Any = None
        self._parameterNode: Any = None  # a KDSegmentatorParameterNode
        self._parameterNodeGuiTag: int | None = None
        self._polling = False
        # not by VTKObservationMixin, which keeps every object that it ever observed
        self._parameters = Observation(self._onParametersChanged)
        self._volume = Observation(self._onVolumeModified)

    def setup(self) -> None:
        """Build the panel when it is opened for the first time, or the set-up box if packages are missing."""
        ScriptedLoadableModuleWidget.setup(self)
        if not SlicerPackages().missing():
            self._build()
            return
        from KDSegmentatorPanel.boxes.set_up_box import SetUpBox

        self._setUpWidget = slicer.util.loadUI(self.resourcePath("UI/KDSegmentatorSetUp.ui"))
        self.layout.addWidget(self._setUpWidget)
        ui = slicer.util.childWidgetVariables(self._setUpWidget)
        self.setUpBox = SetUpBox(ui, SlicerPackages(), complete=self._onPackagesComplete)

    def _onPackagesComplete(self) -> None:
        """Put the panel in the place of the set-up box."""
        self._build()
        self.setUpBox = None
        self.layout.removeWidget(self._setUpWidget)
        self._setUpWidget.hide()
        self._setUpWidget.deleteLater()
        if self.parent.isEntered:
            self.enter()

    def _build(self) -> None:
        from KDSegmentatorPanel import application
        from KDSegmentatorPanel.boxes.batch_box import BatchBox
        from KDSegmentatorPanel.boxes.compare_box import CompareBox
        from KDSegmentatorPanel.boxes.packs_box import PacksBox
        from KDSegmentatorPanel.boxes.result_box import ResultBox
        from KDSegmentatorPanel.boxes.segment_box import SegmentBox
        from KDSegmentatorPanel.slice_layouts import SliceLayouts

        self.ui = SimpleNamespace()
        for box in _BOXES:
            uiWidget = slicer.util.loadUI(self.resourcePath(f"UI/KDSegmentator{box}.ui"))
            within = self.layout if box not in _MORE else self.ui.moreBox.layout()
            within.addWidget(uiWidget)
            vars(self.ui).update(vars(slicer.util.childWidgetVariables(uiWidget)))
            uiWidget.setMRMLScene(slicer.mrmlScene)
        self.layout.addStretch(1)

        self.logic = KDSegmentatorLogic()
        self.panel = application.segment_panel()
        self.comparePanel = application.compare_panel()
        self.batchPanel = application.batch_panel(self.panel)
        self._outcomes = self.panel.outcomes
        self.segmentBox = SegmentBox(self.ui, self.panel, confirm=self._confirm, changed=self._show)
        self.resultBox = ResultBox(
            self.ui,
            report=slicer.util.errorDisplay,
            application=application,
            make_surfaces=self._makeSurfaces,
        )
        self.compareBox = CompareBox(
            self.ui,
            self.comparePanel,
            self.panel,
            SliceLayouts(application.layouts()),
            segmentations=lambda: slicer.util.getNodesByClass("vtkMRMLSegmentationNode"),
            jump=self.logic.jumpSlices,
            changed=self._show,
        )
        self._panels = (self.panel, self.comparePanel, self.batchPanel)
        self.packsPanel = application.packs_panel()
        self.packsBox = PacksBox(self.ui, self.packsPanel, confirm=self._confirm, changed=self._show)
        self.batchBox = BatchBox(self.ui, self.batchPanel, changed=self._show)

        self.timer = qt.QTimer()
        self.timer.setInterval(_POLL_MILLISECONDS)
        self.timer.timeout.connect(self._onTimer)
        self.volumeTimer = qt.QTimer()
        self.volumeTimer.setInterval(_VOLUME_MILLISECONDS)
        self.volumeTimer.setSingleShot(True)
        self.volumeTimer.timeout.connect(self._onVolumeChanged)

        self.sceneTimer = qt.QTimer()
        self.sceneTimer.setInterval(_SCENE_MILLISECONDS)
        self.sceneTimer.setSingleShot(True)
        self.sceneTimer.timeout.connect(self._chooseVolume)
        self.ui.loadButton.clicked.connect(self._onLoad)
        self.ui.sampleButton.clicked.connect(application.load_sample)
        self.ui.inputSelector.nodeActivated.connect(self._onVolumeActivated)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, self.onNodeAdded)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.initializeParameterNode()
        self._show()

    def cleanup(self) -> None:
        """Stop everything when the application closes or the module is reloaded."""
        if self.panel is not None:
            self.timer.stop()
            self.volumeTimer.stop()
            self.sceneTimer.stop()
            self.setParameterNode(None)
            self.compareBox.hidePair()
            self.comparePanel.shut_down()
            self.panel.shut_down()
            self.batchPanel.shut_down()
            self.packsPanel.shut_down()
            from KDSegmentatorPanel import application

            application.end_waiting_worker()
        self.removeObservers()

    def enter(self) -> None:
        """Show the panel again; volumes and packages may have changed meanwhile."""
        if self.setUpBox is not None:
            self.setUpBox.look()
            return
        self.initializeParameterNode()
        self._onPacksChanged()

    def exit(self) -> None:
        """Leave the panel; a run goes on, and its result comes into the scene."""
        if self.panel is not None:
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
        self.panel.update()
        self.comparePanel.update(None, None)
        self._show()

    def onSceneEndClose(self, _caller: Any, _event: Any) -> None:
        """Take up the new scene, if the panel is open."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, _caller: Any, _event: Any) -> None:
        """Take over the parameters of a scene that was loaded, if the panel is open, and show its result."""
        if self.parent.isEntered:
            self.initializeParameterNode()
            if self._parameterNode.resultSegmentation is not None:
                self.resultBox.open()

    def onNodeAdded(self, _caller: Any, _event: Any) -> None:
        """Choose a volume that was loaded, if none is chosen."""
        if self._parameterNode is not None and self._parameterNode.inputVolume is None:
            self.sceneTimer.start()

    @staticmethod
    def _onLoad() -> None:
        slicer.util.openAddVolumeDialog()

    def _onVolumeActivated(self) -> None:
        """Show the volume that the user has chosen."""
        if self._parameterNode is not None and self.ui.inputSelector.currentNode() is not None:
            self.logic.showVolume(self.ui.inputSelector.currentNode())

    @property
    def parameters(self) -> Any:
        """The choices that are shown, a KDSegmentatorParameterNode; None while the panel is closed."""
        return self._parameterNode

    @property
    def busy(self) -> bool:
        """Whether there is anything to wait for."""
        return self.panel is not None and any(panel.busy for panel in (*self._panels, self.packsPanel))

    def initializeParameterNode(self) -> None:
        """Observe the parameter node, and choose a volume if none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        self._chooseVolume()

    def _chooseVolume(self) -> None:
        """Choose a volume if none is chosen."""
        if self._parameterNode is not None and self._parameterNode.inputVolume is None:
            volume = self.logic.suggestedVolume()
            if volume is not None:
                self._parameterNode.inputVolume = volume

    def setParameterNode(self, parameterNode: Any) -> None:
        """Bind the widgets to a parameter node, or to none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
        self._parameters.end()
        self._parameterNode = parameterNode
        self._parameterNodeGuiTag = None
        self.segmentBox.setParameters(parameterNode)
        self.compareBox.setParameters(parameterNode)
        self.batchBox.setParameters(parameterNode)
        self._observeVolume(None if parameterNode is None else parameterNode.inputVolume)
        if parameterNode is not None:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self._parameters.begin(parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent)
            self._onParametersChanged()

    def _onParametersChanged(self, _caller: Any = None, _event: Any = None) -> None:
        from KDSegmentatorPanel.batch_panel import BatchInputs
        from KDSegmentatorPanel.selection import Inputs

        parameters = self._parameterNode
        if parameters is not None:
            self._observeVolume(parameters.inputVolume)
            self.panel.update(Inputs.of(parameters))
            self.comparePanel.update(parameters.firstSegmentation, parameters.secondSegmentation)
            self.batchPanel.update(BatchInputs.of(parameters))
            family = self.panel.family
            if family is not None:
                self.packsBox.follow(family.task)
            self._show()

    def _observeVolume(self, volume: vtkMRMLScalarVolumeNode | None) -> None:
        """Notice when the voxels of the chosen volume, or the transforms that it is under, become other ones."""
        if volume is self._volume.subject:
            return
        self._volume.end()
        if volume is not None:
            self._volume.begin(
                volume,
                slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,
                slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
            )

    def _onVolumeModified(self, _caller: Any, _event: Any) -> None:
        self.volumeTimer.start()

    def _onVolumeChanged(self) -> None:
        self.panel.volume_changed()
        self._show()

    def _onPacksChanged(self) -> None:
        self.panel.refresh()
        self.packsBox.show()
        self._onParametersChanged()
        self._show()

    def _onTimer(self) -> None:
        time.sleep(_YIELD_SECONDS)
        makes_surfaces = self.panel.makes_surfaces
        changed = [self._polled(panel) for panel in self._panels]
        if self._polled(self.packsPanel):
            self._onPacksChanged()
        if any(changed) or not self.busy:
            self._show()
        if makes_surfaces and not self.panel.makes_surfaces:
            from KDSegmentatorPanel import application

            application.fit_3d_views()
            self.resultBox.show()

    def _makeSurfaces(self, segmentation: Any) -> None:
        self.panel.make_surfaces(segmentation)
        self._show()

    @staticmethod
    def _polled(panel: Any) -> bool:
        """Poll a panel; whatever goes wrong in it, the others are polled and all are shown."""
        try:
            return bool(panel.poll())
        except Exception:
            logging.exception("KDSegmentator: a panel could not take over what happened in the background")
            return True

    def _show(self) -> None:
        """Show the state of all boxes, and poll as long as there is something to wait for."""
        if self.panel.outcomes is not self._outcomes:
            self._outcomes = self.panel.outcomes
            self._showOutcomes()
        self.panel.block(_("Wait until the batch has ended, or cancel it.") if self.batchPanel.running else "")
        self.batchPanel.block(_("Wait until the run has ended, or cancel it.") if self.panel.state.at_work else "")
        self.segmentBox.show()
        self.compareBox.show()
        self.batchBox.show()
        if self.busy != self._polling:
            self._polling = self.busy
            if self._polling:
                self.timer.start()
            else:
                self.timer.stop()

    def _showOutcomes(self) -> None:
        """Show the results of a run; those of several sizes are compared."""
        segmentations = [outcome.nodes.segmentation for outcome in self._outcomes]
        if not segmentations:
            return
        # while another module is open, the selectors are not bound to the parameters
        parameters = self.logic.getParameterNode() if self._parameterNode is None else self._parameterNode
        parameters.resultSegmentation = segmentations[-1]
        if len(segmentations) > 1:
            parameters.firstSegmentation, parameters.secondSegmentation = segmentations[0], segmentations[-1]
            self.ui.moreBox.collapsed = self.ui.compareBox.collapsed = False
            self.compareBox.compareAll(segmentations)
        self.resultBox.show()
        self.resultBox.open()

    @staticmethod
    def _confirm(question: str) -> bool:
        return bool(slicer.util.confirmOkCancelDisplay(question, windowTitle="KDSegmentator"))


class KDSegmentatorLogic(ScriptedLoadableModuleLogic):
    """The module without its panel, for scripts."""

    def getParameterNode(self) -> Any:
        """Return the scene's KDSegmentatorParameterNode; it is made if there is none.

        What another version of the module saved, and this one cannot read, is forgotten.
        """
        wrapped: Any = KDSegmentatorParameterNode  # the decorator gives it another constructor
        node = super().getParameterNode()
        try:
            return wrapped(node)
        except (KeyError, TypeError, ValueError):
            logging.warning("KDSegmentator: the choices in the scene are of another version, and start anew")
            with slicer.util.NodeModify(node):
                for name in node.GetParameterNames():
                    node.UnsetParameter(name)
            return wrapped(node)

    @staticmethod
    def suggestedVolume() -> vtkMRMLScalarVolumeNode | None:
        """Return the volume that is shown, else the last that came; no label maps, colour images, or results."""
        selection = slicer.app.applicationLogic().GetSelectionNode()
        shown = slicer.mrmlScene.GetNodeByID(selection.GetActiveVolumeID() or "") if selection is not None else None
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        scans = [
            volume
            for volume in volumes
            if volume.GetClassName() == "vtkMRMLScalarVolumeNode"
            and volume.GetImageData() is not None
            and not volume.GetHideFromEditors()
            and volume.GetAttribute("KDSegmentator.pack_id") is None
        ]
        return shown if shown in scans else next(reversed(scans), None)

    @staticmethod
    def showVolume(volume: vtkMRMLScalarVolumeNode) -> None:
        """Show a volume in the slice views, fitted, as Slicer does when it has loaded one."""
        logic = slicer.app.applicationLogic()
        selection = logic.GetSelectionNode()
        if selection.GetActiveVolumeID() != volume.GetID():
            selection.SetActiveVolumeID(volume.GetID())
            logic.PropagateVolumeSelection(1)

    @staticmethod
    def jumpSlices(position: Any) -> None:
        """Centre all slice views on a point, (L, P, S) in mm."""
        from KDSegmentatorLib.mrml.slice_views import jump_slices

        jump_slices(slicer.mrmlScene, position)

    def segment(self, volumeNode: Any, task: str = "", size: str = "", **choices: Any) -> Any:
        """Segment a volume and wait for the result; Slicer stays responsive.

        :param volumeNode: the scan, a vtkMRMLScalarVolumeNode.
        :param task: for example "hippocampus"; empty takes the first one that fits the volume.
        :param size: for example "x1/4"; empty takes the one that the task recommends.
        :param choices: further fields of KDSegmentatorLib.options.RunOptions, for example threads=4.
        :returns: the new vtkMRMLSegmentationNode.
        :raises RuntimeError: with the reason, if it did not work.
        """
        missing = SlicerPackages().missing()
        if missing:
            text = _("Python packages are missing ({packages}): open the KDSegmentator module and install them there.")
            raise RuntimeError(text.format(packages=", ".join(missing)))
        from KDSegmentatorLib.options import RunOptions
        from KDSegmentatorPanel import application
        from KDSegmentatorPanel.selection import Inputs

        panel = application.segment_panel()
        try:
            panel.update(Inputs(volume=volumeNode, task=task, options=RunOptions(size=size, **choices)))
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
