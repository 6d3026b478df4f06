"""Run the module's self-tests in the application in miniature: ``python -m support.slicer_application.run_self_tests``.

The exit code is 0 if all passed, none was skipped, and no slot raised anything.
"""

from __future__ import annotations

import os
import sys
import tempfile
import unittest
from pathlib import Path

import slicer

from support.slicer_application.application import open_module
from support.slicer_application.pythonqt import slot_errors


def main() -> int:
    """Run them."""
    with tempfile.TemporaryDirectory(prefix="slicer é ") as folder:
        module, _widget, _place = open_module(Path(folder))
        with_user_folders = _pack_folder()
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(module.KDSegmentatorTest)
        result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
        restored = _pack_folder() == with_user_folders
        slots = slicer.app.moduleManager().slots
        widgets = len(slots)
        for slot in tuple(slots):
            slot("KDSegmentator")
        left = [path.name for path in Path(folder).glob(".kdseg-*")]
    print(f"errors in slots: {len(slot_errors)}; left behind: {left}; widgets that Slicer knows: {widgets}")
    print(f"the user's folders are back: {restored}")
    clean = not slot_errors and not left and widgets == 1 and restored
    passed = result.wasSuccessful() and result.testsRun and not result.skipped and clean
    return 0 if passed else 1


def _pack_folder() -> str:
    return str(slicer.modules.KDSegmentatorWidget.panel.settings.user_packs)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # Qt and VTK are not taken apart in an order of their own
