"""The application round the module: ``slicer.app`` and what else of ``slicer`` the module reaches for."""

from __future__ import annotations

import hashlib
import os
import sys
import unittest
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlparse

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
import slicer.util
import vtk
from PySide6.QtCore import Property
from PySide6.QtWidgets import QApplication, QVBoxLayout

from support.slicer_application import parameter_node, widgets
from support.slicer_application.pythonqt import custom_widgets, qt_module, unwrapped, wrapped, wrapper_class

MODULE = Path(__file__).parents[4] / "KDSegmentator"

_qt_application = QApplication.instance() or QApplication([])


class _EnteredWidget(widgets.qMRMLWidget):
    """What a module's widget lies in; it is entered while the module is the selected one."""

    entered = False
    isEntered = Property(bool, lambda self: self.entered)


custom_widgets["_EnteredWidget"] = _EnteredWidget


class _ModuleManager:
    """``slicer.app.moduleManager()``."""

    def __init__(self) -> None:
        self.slots: list[Any] = []

    def connect(self, signal: str, slot: Any) -> None:
        assert signal == "moduleAboutToBeUnloaded(QString)"
        self.slots.append(slot)

    def disconnect(self, signal: str, slot: Any) -> None:
        assert signal == "moduleAboutToBeUnloaded(QString)"
        self.slots.remove(slot)


class _Application:
    """``slicer.app``."""

    applicationName = "Slicer"
    _module_manager = _ModuleManager()

    def moduleManager(self) -> _ModuleManager:
        return self._module_manager

    def __init__(self, temporary: Path, logic: Any) -> None:
        self.temporaryPath = str(temporary)
        self._logic = logic
        self.startup: list[Any] = []

    def applicationLogic(self) -> Any:
        return self._logic

    def layoutManager(self) -> None:
        """Return none: there is no main window."""

    def processEvents(self) -> None:
        wrapped(_qt_application).processEvents()

    def connect(self, signal: str, slot: Any) -> None:
        assert signal == "startupCompleted()"
        self.startup.append(slot)


class _Module:
    def __init__(self, parent: Any) -> None:
        self.parent = parent


class _Widget:
    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.layout = parent.layout()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def _onModuleAboutToBeUnloaded(self, _name: str) -> None:
        self.cleanup()  # type: ignore[attr-defined]
        slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def setup(self) -> None:
        """Nothing: developer mode is off."""

    def resourcePath(self, name: str) -> str:
        return str(MODULE / "Resources" / name)


class _Logic:
    def getParameterNode(self) -> Any:
        name = type(self).__name__.removesuffix("Logic")
        found = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLScriptedModuleNode")
        if found is None:
            found = slicer.vtkMRMLScriptedModuleNode()
            found.SetSingletonTag(name)
            found = slicer.mrmlScene.AddNode(found)
        return found


class _Test(unittest.TestCase):
    def delayDisplay(self, message: str) -> None:
        print(message)


class _SampleDataLogic:
    """``SampleData.SampleDataLogic``: samples are files on this computer."""

    sources: list[dict[str, Any]] = []  # noqa: RUF012 - as in Slicer, all instances share them

    @staticmethod
    def registerCustomSampleDataCategory(category: str, title: str) -> None:
        assert category
        assert title

    @classmethod
    def registerCustomSampleDataSource(cls, **source: Any) -> None:
        assert Path(source["thumbnailFileName"]).is_file()
        cls.sources.append(source)

    def sourceForSampleName(self, name: str) -> dict[str, Any] | None:
        return next((each for each in self.sources if each["sampleName"] == name), None)

    def downloadSamples(self, name: str) -> list[Any]:
        source = self.sourceForSampleName(name)
        assert source is not None
        columns = [source[key] for key in ("uris", "nodeNames", "loadFileTypes", "checksums")]
        return [self._loaded(*row) for row in zip(*columns, strict=True)]

    def _loaded(self, uri: str, name: str, kind: str, checksum: str) -> Any:
        path = Path(unquote(urlparse(uri).path))
        assert checksum == f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        if kind == "VolumeFile":
            from KDSegmentatorLib.io.images import read_volume  # not before: the packages may be missing
            from KDSegmentatorLib.mrml.volumes import node_from_volume

            return node_from_volume(read_volume(path), slicer.mrmlScene, name=name)
        storage = slicer.vtkMRMLSegmentationStorageNode()
        storage.SetFileName(str(path))
        slicer.mrmlScene.AddNode(storage)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        assert storage.ReadData(node)
        return node


def open_module(temporary: Path) -> tuple[ModuleType, Any, Any]:
    """Make the application, load the module and open its panel.

    Args:
        temporary: folder for temporary files.

    Returns:
        The module's Python module, its widget (the Python object), and the Qt widget that it lies in.
    """
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    segmentations = slicer.vtkSlicerSegmentationsModuleLogic()  # registers the conversion to surfaces
    segmentations.SetMRMLScene(scene)
    cache = slicer.vtkCacheManager()
    cache.SetRemoteCacheDirectory(str(temporary))
    cache.SetMRMLScene(scene)
    data = slicer.vtkDataIOManager()
    data.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(data)
    slicer.app = _Application(temporary, logic)
    slicer.app.parts = (segmentations, cache, data)  # as long as the application
    _install_modules()
    sys.path.insert(0, str(MODULE))
    import KDSegmentator as module

    parent = SimpleNamespace(path=str(MODULE / "KDSegmentator.py"))
    module.KDSegmentator(parent)
    assert parent.title
    assert parent.helpText
    for slot in slicer.app.startup:
        slot()
    slicer.modules = SimpleNamespace()
    widget = _new_widget(module)
    slicer.util.getModuleWidget = lambda _name: slicer.modules.KDSegmentatorWidget
    slicer.util.selectModule = lambda name: _select(slicer.modules.KDSegmentatorWidget, name == "KDSegmentator")
    slicer.util.getNewModuleWidget = lambda _name: _new_widget(module)
    slicer.util.reloadScriptedModule = lambda _name: _reload(module)
    return module, widget, unwrapped(widget.parent)


def _select(widget: Any, selected: bool) -> None:
    """Enter the module, or leave it for another one."""
    place = unwrapped(widget.parent)
    if selected != place.entered:
        place.entered = selected
        (widget.enter if selected else widget.exit)()


def _reload(module: ModuleType) -> None:
    """Make the panel anew, from the same files."""
    slicer.modules.KDSegmentatorWidget._onModuleAboutToBeUnloaded("KDSegmentator")
    _new_widget(module)


def _new_widget(module: ModuleType) -> Any:
    place = _EnteredWidget()
    QVBoxLayout(place)
    widget = module.KDSegmentatorWidget(wrapped(place))
    slicer.modules.KDSegmentatorWidget = widget
    widget.setup()
    return widget


def _install_modules() -> None:
    """Make importable what Slicer has and slicer-core has not."""
    for name in custom_widgets:
        setattr(slicer, name, wrapper_class(custom_widgets[name]))
    base = SimpleNamespace(
        ScriptedLoadableModule=_Module,
        ScriptedLoadableModuleWidget=_Widget,
        ScriptedLoadableModuleLogic=_Logic,
        ScriptedLoadableModuleTest=_Test,
    )
    translation = SimpleNamespace(tr=lambda text: text, translate=lambda _context, text: text)
    sys.modules |= {
        "qt": qt_module(),
        "SampleData": SimpleNamespace(SampleDataLogic=_SampleDataLogic),
        "slicer.i18n": translation,
        "slicer.ScriptedLoadableModule": base,
        "slicer.parameterNodeWrapper": parameter_node,
    }  # type: ignore[operator]
    slicer.i18n = translation
    slicer.parameterNodeWrapper = parameter_node
    util = slicer.util
    util.loadUI = widgets.load_ui
    util.mainWindow = lambda: _qt_application
    util.errorDisplay = print
    util.confirmOkCancelDisplay = lambda *_arguments, **_options: True
    util.saveScene = lambda path: bool(slicer.mrmlScene.WriteToMRB(str(path)))
    util.loadScene = lambda path: bool(slicer.mrmlScene.ReadFromMRB(str(path)))
    assert vtk.vtkVersion  # the module imports it
