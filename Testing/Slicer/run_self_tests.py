"""Run the module's self-tests in 3D Slicer, from a source checkout and without building the extension.

    Slicer --testing --no-splash --additional-module-path KDSegmentator \\
        --python-script Testing/Slicer/run_self_tests.py

Needs no internet. Install the engines once before, in Slicer's Python console:
``slicer.packaging.pip_install("onnxruntime openvino")``. The exit code is 0 if all tests passed.
"""

from __future__ import annotations

import unittest

import slicer

suite = unittest.defaultTestLoader.loadTestsFromName("KDSegmentator.KDSegmentatorTest")
result = unittest.TextTestRunner(verbosity=2).run(suite)
slicer.util.exit(0 if result.wasSuccessful() and result.testsRun and not result.skipped else 1)
