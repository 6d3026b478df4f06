"""Run the module's self-tests in 3D Slicer, from a source checkout and without building the extension.

    Slicer --testing --no-splash --additional-module-path KDSegmentator \\
        --python-script Testing/Slicer/run_self_tests.py

Needs no internet. The tests are skipped if Slicer's Python lacks packages, and said so; install them before, in
Slicer's Python console, with ``slicer.packaging.pip_install`` and the names in ``slicer-requirements.txt``.
The exit code is 0 if no test failed; with the environment variable ``KDSEG_CI=1`` a skipped test is a failure.
"""

from __future__ import annotations

import os
import unittest

import slicer

suite = unittest.defaultTestLoader.loadTestsFromName("KDSegmentator.KDSegmentatorTest")
result = unittest.TextTestRunner(verbosity=2).run(suite)
for test, reason in result.skipped:
    print(f"NOT TESTED: {test.id().rpartition('.')[2]}: {reason}")
passed = result.wasSuccessful() and result.testsRun > 0
if os.environ.get("KDSEG_CI") == "1" and result.skipped:
    passed = False
slicer.util.exit(0 if passed else 1)
