"""Make docs/images/slicer-panel.png: the module's panel after a comparison of all sizes.

    make pictures

The panel's own .ui file and code with Qt's plain widgets in the place of CTK's and Slicer's
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

from support.slicer_application.application import open_module
from support.slicer_application.pythonqt import unwrapped

PICTURE = Path(__file__).resolve().parent / "images" / "slicer-panel.png"
WIDTH, HEIGHT = 460, 1010
LONGEST_SECONDS = 120.0


def main() -> None:
    """Make it."""
    with tempfile.TemporaryDirectory() as folder:
        _module, widget, place = open_module(Path(folder))
        import SampleData

        from KDSegmentatorPanel.sample_data import SAMPLE

        SampleData.SampleDataLogic().downloadSamples(SAMPLE)
        slicer.util.selectModule("KDSegmentator")
        wait(lambda: not widget.busy)
        widget.ui.compareAllButton.click()
        wait(lambda: not widget.busy)
        for name in ("labelsBox", "advancedBox", "packsBox", "batchBox", "logBox"):
            getattr(widget.ui, name).collapsed = True
        picture(place, widget).save(str(PICTURE))
        widget.cleanup()


def picture(place: Any, widget: Any) -> Any:
    """Return the panel as it is laid out at its size."""
    place.resize(WIDTH, HEIGHT)
    place.show()
    for _ in range(5):
        slicer.app.processEvents()
    unwrapped(widget.ui.comparisonTable).resizeRowsToContents()
    slicer.app.processEvents()
    return place.grab()


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
