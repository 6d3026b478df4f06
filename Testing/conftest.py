"""In continuous integration (``KDSEG_CI=1``) a skipped test is a failure, unless its reason is on the list below."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import hypothesis
import pytest

# A shell starts background jobs with SIGINT ignored, which children inherit: tests of Ctrl-C need the usual handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

# no example is slow in itself, but a busy machine makes any of them slow
hypothesis.settings.register_profile("kdsegmentator", deadline=None, max_examples=25)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300)  # --hypothesis-profile=thorough
hypothesis.settings.load_profile("kdsegmentator")

ALLOWED_SKIPS = {
    r"KDSEG_DATA": "the data sets are not in the repository; their licence or size forbids it",
    r"no locale with a decimal comma": "the system has none; numbers are parsed by Python, which knows no locale",
    r"only on (Windows|macOS)": "continuous integration runs on Linux",
    r"CUDA|GPU": "continuous integration has no graphics card",
    r"this processor computes in bfloat16": "the test is about processors that do not",
    r"KDSEG_SNAKEMAKE": "only .ci/run makes Snakemake's environment, and does run it",
    r"KDSEG_OLDEST_ORT_PYTHON": "only .ci/run makes the environment with Slicer's onnxruntime, and does run it",
}
"""Regular expression for the skip's reason -> why continuous integration may skip it."""


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep compiled networks and checks of engines out of the user's own cache, also those of programs we start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDSEGMENTATOR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _failed_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _failed_if_skipped((yield))


def _failed_if_skipped(report):
    if os.environ.get("KDSEG_CI") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(re.search(pattern, reason) for pattern in ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped although KDSEG_CI=1 allows this reason for no test: {reason}"
    return report
