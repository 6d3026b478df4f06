"""Check the module in a fresh Slicer, without its packages: ``python -m support.slicer_application.check_set_up``.

In the application in miniature: Slicer's start, the set-up box, installations that fail and one that works.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

NEEDED = ["msgspec", "psutil", "filelock", "platformdirs", "onnxruntime", "openvino"]
DECLARED = (*NEEDED, "filelock", "nibabel", "onnx", "platformdirs", "torch")
for _name in DECLARED:  # before anything else is imported
    sys.modules[_name] = None  # type: ignore[assignment] # cannot be imported, and is not found

import slicer  # noqa: E402
from PySide6.QtWidgets import QPushButton  # noqa: E402

from support.slicer_application.application import open_module  # noqa: E402
from support.slicer_application.pythonqt import slot_errors  # noqa: E402


class _Packaging:
    """``slicer.packaging``: makes packages importable, or raises what it is told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked: list[list[str]] = []

    def pip_ensure(self, requirements: list[Any], *, requester: str) -> None:
        assert requester == "KDSegmentator"
        self._install([each.name for each in requirements])

    def pip_install(self, arguments: list[str], *, requester: str) -> None:
        assert requester == "KDSegmentator"
        self._install(arguments)

    def _install(self, what: list[str]) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error
        for name in DECLARED:
            sys.modules.pop(name, None)


def check(folder: Path) -> None:
    """Raise AssertionError at the first thing that is not as it should be."""
    packaging = _Packaging()
    slicer.packaging = sys.modules["slicer.packaging"] = packaging
    module, widget, place = open_module(folder)  # imports the module, calls startupCompleted and opens the panel
    library = {name for name in sys.modules if name.startswith("KDSegmentatorLib.")}
    assert library <= {"KDSegmentatorLib.errors", "KDSegmentatorLib.version"}, library
    assert widget.panel is None
    buttons = [each.objectName() for each in place.findChildren(QPushButton) if each.objectName()]
    assert buttons == ["installButton"], buttons
    slicer.util.selectModule("KDSegmentator")
    slicer.util.selectModule("Data")
    slicer.util.selectModule("KDSegmentator")
    slicer.mrmlScene.Clear()
    assert not widget.busy
    assert widget.parameters is None
    ui = widget.setUpBox._ui
    for name in packaging_names():
        assert name in ui.setUpLabel.text, ui.setUpLabel.text
    try:
        module.KDSegmentatorLogic().segment(None)
    except RuntimeError as error:
        assert "msgspec" in str(error), error
    else:
        raise AssertionError("a script is not told what is missing")

    packaging.error = CalledProcessError(1, "pip")
    ui.installButton.click()
    assert "could not be installed" in ui.setUpMessageLabel.text, ui.setUpMessageLabel.text
    assert widget.panel is None

    packaging.error = None
    ui.wheelFolderEdit.currentPath = str(folder)
    ui.installButton.click()
    assert "holds no wheels" in ui.setUpMessageLabel.text, ui.setUpMessageLabel.text
    assert ui.wheelFolderEdit.history() == []
    ui.wheelFolderEdit.currentPath = ""

    sys.modules["KDSegmentatorPanel.application"] = None  # type: ignore[assignment] # as a package that does not fit
    ui.installButton.click()
    assert "Restart Slicer" in ui.setUpMessageLabel.text, ui.setUpMessageLabel.text
    assert widget.panel is None
    del sys.modules["KDSegmentatorPanel.application"]

    assert packaging.asked == [packaging_names()] * 2, packaging.asked

    sys.modules["psutil"] = None  # type: ignore[assignment] # one is still missing, and comes as a wheel
    wheels = folder / "wheels é"
    wheels.mkdir()
    (wheels / "psutil-7.2.2-cp36-abi3-win_amd64.whl").touch()
    slicer.app.testingEnabled = lambda: False
    ui.wheelFolderEdit.currentPath = str(wheels)
    ui.installButton.click()
    assert ui.wheelFolderEdit.history() == [str(wheels)], "they are offered the next time"
    assert packaging.asked[-1][:3] == ["--no-index", "--find-links", str(wheels)]
    slicer.app.processEvents()
    assert widget.setUpBox is None
    assert widget.panel is not None
    assert widget.parameters is not None, "the panel was built, but not entered"
    shown = [each.objectName() for each in place.findChildren(QPushButton)]
    assert "segmentButton" in shown, shown
    assert widget.ui.packComboBox.count >= 3
    widget.cleanup()
    assert not slot_errors, slot_errors


def packaging_names() -> list[str]:
    """Return what is to be installed here: OpenVINO has no wheels for some machines."""
    from KDSegmentatorPanel.slicer_packages import SlicerPackages

    names = [each.name for each in SlicerPackages()._wanted()]
    assert set(names) | {"openvino"} == set(NEEDED), names
    return names


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["KDSEGMENTATOR_PACKS"] = str(Path(temporary) / "packs")
        os.environ["KDSEGMENTATOR_CACHE"] = str(Path(temporary) / "cache")
        check(Path(temporary))
    sys.stdout.flush()
    os._exit(0)  # Qt and VTK are not taken apart in an order of their own
