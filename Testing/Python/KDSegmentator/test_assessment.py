"""What a volume means for the packs, from one look at its voxels."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.packs.catalogue import Family, families
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.assessment import assess, check, with_estimates
from KDSegmentatorPanel.estimation import TaskEstimate
from KDSegmentatorPanel.outline import Outline
from support.generated_family import build_size


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> list[Family]:
    folder = tmp_path_factory.mktemp("shipped")
    build_size(folder / "generated-x1_4", "x1/4")
    return families(PackStore(folder / "none", folder).packs())


def scan(shift: float = 0.0) -> Volume:
    voxels = np.random.default_rng(3).gamma(2, 100, size=(12, 13, 14)) + shift
    return Volume(voxels.astype(np.float32), (1.0, 1.0, 1.0))


def test_the_modality_counts_if_it_is_to_be_checked(installed: list[Family]) -> None:
    checked = check(scan(-1000.0), installed)
    assert "looks like CT" in assess(checked, installed, check_input=True)["generated"].problem
    assert assess(checked, installed, check_input=False)["generated"].problem == ""


def test_a_scan_that_fits(installed: list[Family]) -> None:
    checked = check(scan(), installed)
    assert checked.outline == Outline.of(scan())
    assert assess(checked, installed, check_input=True)["generated"].problem == ""


def test_what_cannot_be_computed_with_is_refused_in_any_case(installed: list[Family]) -> None:
    volume = scan()
    volume.voxels[3, 4, 5] = np.nan
    checked = check(volume, installed)
    assert "NaN" in assess(checked, installed, check_input=False)["generated"].problem


def test_estimates_are_added(installed: list[Family]) -> None:
    assessment = assess(check(scan(), installed), installed, check_input=True)
    answer = {"generated": TaskEstimate(problem="no engine", sizes={}, advised="x1/4", reason="it is small")}
    found = with_estimates(assessment, answer)["generated"]
    assert (found.problem, found.advised, found.reason) == ("No engine", "x1/4", "it is small")
    assert assessment["generated"].advised == ""
