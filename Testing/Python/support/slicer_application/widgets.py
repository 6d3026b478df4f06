"""CTK's and Slicer's widgets, as far as the panel uses them: the same names, properties, signals and slots."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Any

from PySide6.QtCore import Property, QChildEvent, QCoreApplication, QEvent, Signal
from PySide6.QtGui import QStandardItem, QStandardItemModel
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import (
    QComboBox,
    QGroupBox,
    QHBoxLayout,
    QLineEdit,
    QTableView,
    QTableWidget,
    QTableWidgetItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from shiboken6 import isValid

from support.slicer_application.pythonqt import custom_widgets, wrapped


class _Collapsible(QGroupBox):
    """Shows its children, when it is opened, as they were or were asked to be meanwhile: as CTK's do."""

    folded_height = 28

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._collapsed = self._own = False
        self._wanted: set[QWidget] = set()

    def childEvent(self, event: QChildEvent) -> None:
        if event.added() and isinstance(event.child(), QWidget):
            event.child().installEventFilter(self)

    def eventFilter(self, child: QWidget, event: QEvent) -> bool:
        if self._collapsed and not self._own:
            if event.type() == QEvent.Type.ShowToParent:
                self._wanted.add(child)
                self._set_visible([child], False)
            elif event.type() == QEvent.Type.HideToParent:
                self._wanted.discard(child)
        return False

    def setCollapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        children = [child for child in self.children() if isinstance(child, QWidget)]
        if collapsed:
            self._wanted = {child for child in children if not child.isHidden()}
        self._collapsed = collapsed
        self._set_visible(self._wanted, not collapsed)
        self.setMaximumHeight(self.folded_height if collapsed else 1 << 20)

    def _set_visible(self, children: Iterable[QWidget], visible: bool) -> None:
        self._own = True
        for child in children:
            child.setVisible(visible)
        self._own = False

    collapsed = Property(bool, lambda self: self._collapsed, setCollapsed)


class ctkCollapsibleButton(_Collapsible):
    text = Property(str, QGroupBox.title, QGroupBox.setTitle)


class ctkCollapsibleGroupBox(_Collapsible):
    folded_height = 22


class ctkPathLineEdit(QWidget):
    currentPathChanged = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._edit = QLineEdit(self)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._edit)
        layout.addWidget(QToolButton(self))
        self._edit.textChanged.connect(self.currentPathChanged)
        self._history: list[str] = []

    currentPath = Property(str, lambda self: self._edit.text(), lambda self, path: self._edit.setText(path))
    settingKey = Property(str, lambda self: "", lambda self, key: None)

    def addCurrentPathToHistory(self) -> None:
        self._history.append(self._edit.text())

    def history(self) -> list[str]:
        """Return what was added; not in CTK."""
        return self._history


class qMRMLWidget(QWidget):
    mrmlSceneChanged = Signal(object)

    def setMRMLScene(self, scene: Any) -> None:
        self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(QComboBox):
    currentNodeChanged = Signal(object)
    nodeActivated = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.activated.connect(lambda _index: self.nodeActivated.emit(self._current))
        self._scene: Any = None
        self._nodes: list[Any] = []
        self._current: Any = None
        self._filling = False
        self._values: dict[str, Any] = {"nodeTypes": [], "noneDisplay": "", "showChildNodeTypes": True}
        self.currentIndexChanged.connect(self._take)

    @staticmethod
    def _stored(kind: str | type, name: str) -> Property:
        def change(self: qMRMLNodeComboBox, value: Any) -> None:
            self._values[name] = value
            self._fill()

        return Property(kind, lambda self: self._values.get(name), change)

    nodeTypes = _stored("QStringList", "nodeTypes")
    noneDisplay = _stored(str, "noneDisplay")
    noneEnabled = _stored(bool, "noneEnabled")
    showChildNodeTypes = _stored(bool, "showChildNodeTypes")
    addEnabled = _stored(bool, "addEnabled")
    removeEnabled = _stored(bool, "removeEnabled")
    renameEnabled = _stored(bool, "renameEnabled")

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent):
            scene.AddObserver(event, lambda *_: self._fill() if isValid(self) else None)
        self._fill()

    def currentNode(self) -> Any:
        return self._current

    def setCurrentNode(self, node: Any) -> None:
        if node not in self._nodes:
            self._fill()
        self.setCurrentIndex(self._nodes.index(node) if node in self._nodes else 0)

    def _fill(self) -> None:
        if self._scene is None:
            return
        kinds = self._values["nodeTypes"]
        found = [
            self._scene.GetNthNodeByClass(number, kind)
            for kind in kinds
            for number in range(self._scene.GetNumberOfNodesByClass(kind))
        ]
        if not self._values["showChildNodeTypes"]:
            found = [node for node in found if node.GetClassName() in kinds]
        self._nodes = [None, *found]
        self._filling = True
        self.clear()
        self.addItems([self._values["noneDisplay"], *(node.GetName() for node in found)])
        before, self._current = self._current, self._current if self._current in found else None
        self.setCurrentIndex(self._nodes.index(self._current))
        self._filling = False
        if self._current is not before:
            self.currentNodeChanged.emit(self._current)

    def _take(self, index: int) -> None:
        node = self._nodes[index] if 0 <= index < len(self._nodes) else None
        if not self._filling and node is not self._current:
            self._current = node
            self.currentNodeChanged.emit(node)


class qMRMLSegmentsTableView(qMRMLWidget):
    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._table = QTableWidget(0, 1, self)
        self._table.setHorizontalHeaderLabels(["Name"])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)

    def setSegmentationNode(self, node: Any) -> None:
        segments = None if node is None else node.GetSegmentation()
        ids = [] if segments is None else segments.GetSegmentIDs()
        self._table.setRowCount(len(ids))
        for row, each in enumerate(ids):
            self._table.setItem(row, 0, QTableWidgetItem(segments.GetSegment(each).GetName()))


class qMRMLTableView(QTableView):
    def setMRMLTableNode(self, node: Any) -> None:
        model = QStandardItemModel(self)
        if node is not None:
            columns = [node.GetTable().GetColumn(number) for number in range(node.GetNumberOfColumns())]
            model.setHorizontalHeaderLabels([column.GetName() for column in columns])
            for row in range(node.GetNumberOfRows()):
                model.appendRow([QStandardItem(str(column.GetValue(row))) for column in columns])
        self.setModel(model)


custom_widgets.update(
    {
        each.__name__: each
        for each in (
            ctkCollapsibleButton,
            ctkCollapsibleGroupBox,
            ctkPathLineEdit,
            qMRMLNodeComboBox,
            qMRMLSegmentsTableView,
            qMRMLTableView,
            qMRMLWidget,
        )
    }
)


def load_ui(path: str) -> Any:
    """Return the wrapped widget of a .ui file, as ``slicer.util.loadUI``, with its connections of the scene."""
    QCoreApplication.instance()
    loader = QUiLoader()
    for each in custom_widgets.values():
        loader.registerCustomWidget(each)
    widget = loader.load(path)
    for connection in ET.parse(path).getroot().iter("connection"):
        widget.mrmlSceneChanged.connect(widget.findChild(QWidget, connection.findtext("receiver")).setMRMLScene)
    return wrapped(widget)
