from __future__ import annotations

import numpy as np
import pytest

from KDSegmentatorLib.errors import GeometryError, UnsuitableVolumeError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.plausibility import check_intensities
from KDSegmentatorLib.jobs.messages import Broken, Progressed, Stage
from KDSegmentatorPanel.wording import duration, for_people, memory, progress


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (4.6, "5 s"), (59.4, "59 s"), (89.0, "1 min"), (150.0, "2 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0.1 GB"), (900e6, "0.9 GB"), (3.14e9, "3.1 GB")])
def test_memory(size: float, text: str) -> None:
    assert memory(size) == text


def event(stage: Stage, left: float | None = None) -> Progressed:
    return Progressed(run=0, runs=1, stage=stage, done=5, total=8, seconds_left=left)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (event("windows", left=2.0), "window 5 of 8 · 2 s left"),
        (event("windows"), "window 5 of 8"),
        (event("restore"), "putting the labels together"),
        (event("region-windows", left=2.0), "finding the region: window 5 of 8 · 2 s left"),
        (event("region-restore"), "finding the region: putting the labels together"),
        (event("preprocess"), "preparing the volume"),
    ],
)
def test_progress(what: Progressed, text: str) -> None:
    assert progress(what) == text


def test_errors_are_sentences() -> None:
    assert for_people(GeometryError("the volume is empty")) == "The volume is empty"


def test_the_remedy_is_the_panels() -> None:
    """The library's message ends with the option of the command line."""
    volume = Volume(np.full((4, 4, 4), 3, np.int16) - np.arange(4, dtype=np.int16), (1.0, 1.0, 1.0))
    with pytest.raises(UnsuitableVolumeError) as error:
        check_intensities(volume, "MR")
    text = for_people(error.value)
    assert text.endswith("switch off “Check that the volume fits the task” under Advanced.")
    assert "--unchecked" not in text
    of_a_worker = Broken.of(error.value).error()
    assert str(of_a_worker) == str(error.value)
    assert for_people(of_a_worker) == text
