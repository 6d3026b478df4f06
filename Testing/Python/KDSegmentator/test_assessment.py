"""What a volume means for the packs, from one look at its voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.advise import outline_of
from KDSegmentatorLib.jobs.messages import Advised, TaskAdvice
from KDSegmentatorLib.packs.catalogue import Family, families
from KDSegmentatorLib.packs.manifest import FieldOfView
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.assessment import assess, check, with_advice
from support.chained_packs import after_earlier, install_earlier, install_later
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
    assert checked.outline == outline_of(scan())
    assert assess(checked, installed, check_input=True)["generated"].problem == ""


def test_what_cannot_be_computed_with_is_refused_in_any_case(installed: list[Family]) -> None:
    volume = scan()
    volume.voxels[3, 4, 5] = np.nan
    checked = check(volume, installed)
    assert "NaN" in assess(checked, installed, check_input=False)["generated"].problem


def test_estimates_are_added(installed: list[Family]) -> None:
    assessment = assess(check(scan(), installed), installed, check_input=True)
    answer = Advised(tasks={"generated": TaskAdvice(problem="no engine", advised="x1/4", reason="it is small")})
    found = with_advice(assessment, answer)["generated"]
    assert (found.problem, found.advised, found.reason) == ("No engine", "x1/4", "it is small")
    assert assessment["generated"].advised == ""


def test_a_chained_pack_may_see_a_large_volume_because_its_earlier_stage_cuts_out_a_part(tmp_path: Path) -> None:
    store = PackStore(tmp_path / "user", tmp_path / "none shipped")
    small = FieldOfView(smallest=(9.0, 9.0, 9.0), largest=(10.0, 10.0, 10.0))
    whole = FieldOfView(smallest=(12.0, 12.0, 12.0), largest=(30.0, 30.0, 30.0))

    def problem(volume: Volume) -> str:
        found = families(store.packs())
        return assess(check(volume, found), found, check_input=True)["inside"].problem

    def wide(edge: int) -> Volume:
        return Volume(np.random.default_rng(0).gamma(2, 100, size=(edge,) * 3).astype(np.float32), (1.0, 1.0, 1.0))

    install_later(store, tmp_path / "alone", region=None, field_of_view=small)
    assert "too large" in problem(wide(24))
    install_earlier(store, tmp_path, field_of_view=whole)
    install_later(store, tmp_path, region=after_earlier(), field_of_view=small)
    assert problem(wide(24)) == ""
    assert "too large" in problem(wide(60)), "the earlier pack looks at the whole volume"
    install_earlier(store, tmp_path / "any size")
    assert problem(wide(60)) == ""
    assert "too small" in problem(wide(5))
