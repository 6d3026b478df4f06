"""Print the longest gaps of the panel's heartbeat: ``python -m support.slicer_application.measure_heartbeat``.

In the application in miniature, with the MNI152 template of nilearn (1 mm) and the 45 structures of brain-t1. What
Slicer draws is not part of it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import slicer

from support.slicer_application.application import open_module

LONGEST_SECONDS = 600.0


def main() -> None:
    """Measure, and print a Markdown table."""
    sys.path.append(str(Path(__file__).parents[4] / "demo"))
    with tempfile.TemporaryDirectory() as folder:
        _module, widget, _place = open_module(Path(folder))
        from real_heads import load_template

        from KDSegmentatorLib.mrml.volumes import node_from_volume
        from KDSegmentatorPanel.heartbeat import Heartbeat, act_like_a_user

        slicer.util.selectModule("KDSegmentator")
        widget.parameters.task = "brain-t1"
        heart = Heartbeat(wait)
        act_like_a_user(widget, heart, node_from_volume(load_template(), slicer.mrmlScene, name="MNI152"))
        print(heart.table())
        widget.cleanup()


def wait(until: Callable[[], bool]) -> None:
    """Let the panel work until something has happened."""
    end = time.monotonic() + LONGEST_SECONDS
    while not until():
        if time.monotonic() > end:
            raise TimeoutError("the panel did not get there")
        time.sleep(0.002)
        slicer.app.processEvents()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # Qt and VTK are not taken apart in an order of their own
