"""Make docs/images/slicer-panel.png: the module's panel with an empty scene, with a scan, and with its result.

    make pictures

The panel's own .ui files and code with Qt's plain widgets in the place of CTK's and Slicer's
(Testing/Python/support/slicer_application): a picture of its layout, not a screenshot of 3D Slicer.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from PySide6.QtGui import QImage, QPainter

from support.slicer_application.application import open_module

PICTURE = Path(__file__).resolve().parent / "images" / "slicer-panel.png"
MORE = PICTURE.with_name("slicer-panel-more.png")
WIDTH, GAP = 400, 12
LONGEST_SECONDS = 120.0


def main() -> None:
    """Make it."""
    with tempfile.TemporaryDirectory() as folder:
        _module, widget, place = open_module(Path(folder))
        slicer.util.selectModule("KDSegmentator")
        wait(lambda: not widget.busy)
        screens = [screen(place)]
        widget.ui.sampleButton.click()
        wait(lambda: widget.parameters.inputVolume is not None and not widget.busy)
        screens.append(screen(place))
        widget.ui.segmentButton.click()
        wait(lambda: not widget.busy)
        screens.append(screen(place))
        beside_one_another(screens).save(str(PICTURE))
        ui = widget.ui
        ui.segmentBox.collapsed = ui.resultBox.collapsed = True
        ui.moreBox.collapsed = False
        ui.compareAllButton.click()
        wait(lambda: not widget.busy)
        for box in (ui.resultBox, ui.segmentBox, ui.packsBox, ui.batchBox):
            box.collapsed = True
        ui.compareBox.collapsed = False
        ui.nextPlaceButton.click()
        screens = [screen(place)]
        ui.compareBox.collapsed, ui.packsBox.collapsed = True, False
        ui.verifyPackButton.click()
        wait(lambda: not widget.busy)
        screens.append(screen(place))
        beside_one_another(screens).save(str(MORE))
        widget.cleanup()


def screen(place: Any) -> QImage:
    """Return the panel as it is laid out at its width."""
    place.resize(WIDTH, 100)
    place.show()
    for _ in range(5):
        slicer.app.processEvents()
    place.resize(WIDTH, max(place.layout().totalHeightForWidth(WIDTH), place.minimumSizeHint().height()))
    for _ in range(5):
        slicer.app.processEvents()
    return place.grab().toImage()


def beside_one_another(screens: list[QImage]) -> QImage:
    """Return one picture of all."""
    width = sum(each.width() for each in screens) + GAP * (len(screens) - 1)
    picture = QImage(width, max(each.height() for each in screens), QImage.Format.Format_RGB32)
    picture.fill("white")
    painter = QPainter(picture)
    left = 0
    for each in screens:
        painter.drawImage(left, 0, each)
        left += each.width() + GAP
    painter.end()
    return picture


def wait(until: Callable[[], bool]) -> None:
    """Let the panel work until something has happened."""
    end = time.monotonic() + LONGEST_SECONDS
    while not until():
        if time.monotonic() > end:
            raise TimeoutError("the panel did not get there")
        time.sleep(0.005)
        slicer.app.processEvents()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # Qt and VTK are not taken apart in an order of their own
