from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import binary_fill_holes, distance_transform_edt

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.cli.main import main
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import (
    CancelledError,
    GeometryError,
    ImplausibleVolumeError,
    InvalidSettingsError,
    PackError,
    UnsuitableVolumeError,
)
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.cleaning import largest_pieces
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.progress import Progress
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.manifest import Expected, ExpectedLabel, FieldOfView
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Regions, Segmenter, find_region
from support.chained_packs import EARLIER, LATER, MARGIN_MM, after_earlier, install_earlier, install_later
from support.generated_family import write_scan
from support.mrml_scene import TILTED, placed

CPU = RunOptions(engine="onnxruntime", threads=1)


def blob(codes: str = "RAS", spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    """A bright ball in a darker, noisy field."""
    z, y, x = np.ogrid[:22, :26, :20]
    inside = (z - 10) ** 2 + (y - 14) ** 2 + (x - 9) ** 2 < 45
    voxels = np.random.default_rng(2).normal(100, 8, size=inside.shape) + 80 * inside
    return placed(voxels.astype(np.float32), codes, TILTED, spacing)


@pytest.fixture
def store(tmp_path: Path) -> PackStore:
    return PackStore(tmp_path / "user", tmp_path / "shipped")


@pytest.fixture
def chained(store: PackStore, tmp_path: Path) -> PackStore:
    install_earlier(store, tmp_path)
    install_later(store, tmp_path, region=after_earlier())
    return store


def run(volume: Volume, pack: StudentPack, region: Any = None, **options: Any) -> Volume:
    given = region == "given"
    chosen = RunOptions(threads=1, region="given" if given else "", **options)
    engine = choose_engine(pack, CPU).engine
    return segment(volume, pack, engine, chosen, region=None if given else region).volume


def segmenter(store: PackStore, **options: object) -> Segmenter:
    return Segmenter("inside", "x1/4", engine="onnxruntime", threads=1, store=store, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("codes", "spacing"), [("RAS", (1.0, 1.0, 1.0)), ("PIL", (0.7, 1.3, 3.0)), ("LSA", (1.2, 1.0, 0.8))]
)
def test_it_is_the_two_steps_done_by_hand(
    chained: PackStore, tmp_path: Path, codes: str, spacing: tuple[float, float, float]
) -> None:
    volume = blob(codes, spacing)
    found = run(volume, chained.get(EARLIER)).voxels != 0
    near = distance_transform_edt(~found, sampling=spacing[::-1]) <= MARGIN_MM * (1 + 1e-6)
    alone = PackStore(tmp_path / "alone", tmp_path / "none")
    masked = volume.with_voxels(np.where(near, volume.voxels, 0))
    everywhere = run(masked, install_later(alone, tmp_path, region=None)).voxels
    expected = np.where(binary_fill_holes(near), everywhere, 0)  # the rest is empty, as far as the edge of the volume

    result = segmenter(chained)(volume)
    np.testing.assert_array_equal(result.volume.voxels, expected)
    assert everywhere[~near].any()  # or nothing would have been left out
    assert (result.volume.affine == volume.affine).all()
    whole = run(volume, chained.get(LATER), region="given").voxels
    assert (whole != expected).any()  # or the earlier stage would have done nothing


def test_a_scan_that_shows_little_else_is_taken_as_it_is(store: PackStore, tmp_path: Path) -> None:
    install_earlier(store, tmp_path, threshold=0.5)
    later = install_later(store, tmp_path, region=after_earlier(margin_mm=0.0))
    whole = blob()
    ball = whole.voxels > 140
    rim = (distance_transform_edt(~ball) <= 1) & ~ball  # too dark for the earlier pack
    for part, alone in ((np.indices(rim.shape).sum(axis=0) % 2 == 0, True), (True, False)):
        shown = ball | rim & part
        stripped = whole.with_voxels(np.where(shown, whole.voxels, 0).astype(np.float32))
        result = segmenter(store)(stripped)
        region = result.record.region
        assert region is not None
        ratio = np.count_nonzero(shown) / region.voxels
        assert ratio > 1
        assert region.alone is alone, ratio
        as_it_is = run(stripped, later, region="given").voxels
        assert (result.volume.voxels == as_it_is).all() == alone


def test_the_record_names_both(chained: PackStore) -> None:
    record = segmenter(chained)(blob()).record
    earlier = chained.get(EARLIER)
    assert record.pack_id == LATER
    assert record.region is not None
    assert (record.region.pack_id, record.region.pack_version) == (EARLIER, "1.0.0")
    assert record.region.pack_sha256 == earlier.manifest_sha256
    assert record.region.margin_mm == MARGIN_MM
    assert record.region.voxels > 0
    parts = [record.seconds[each] for each in ("region", "preprocess", "windows", "restore")]
    assert record.seconds["total"] == pytest.approx(sum(parts))


def test_one_progress_through_both_stages(chained: PackStore) -> None:
    seen: list[Progress] = []
    segmenter(chained)(blob(), progress=seen.append)
    stages = list(dict.fromkeys(step.stage for step in seen))
    later = ["preprocess", "windows", "restore"]
    assert stages == [*(f"region-{stage}" for stage in later), *later]
    for stage in stages:
        done = [step.done for step in seen if step.stage == stage]
        assert done == sorted(done)
        assert done[-1] == next(step.total for step in reversed(seen) if step.stage == stage)


@pytest.mark.parametrize("stage", ["region-windows", "windows"])
def test_both_stages_can_be_cancelled(chained: PackStore, stage: str) -> None:
    reached: list[str] = []
    with pytest.raises(CancelledError):
        segmenter(chained)(blob(), progress=lambda step: reached.append(step.stage), cancel=lambda: stage in reached)
    assert reached[-1] == stage


def test_nothing_found_says_what_was_looked_for(store: PackStore, tmp_path: Path) -> None:
    install_earlier(store, tmp_path, threshold=1000)
    install_later(store, tmp_path, region=after_earlier())
    with pytest.raises(UnsuitableVolumeError, match=rf"Bright tissue \({EARLIER}.*found nothing.*What lies inside"):
        segmenter(store)(blob())


@pytest.mark.parametrize(("smallest_ml", "refused"), [(1.0, False), (1200.0, True)])
def test_a_region_that_is_far_too_small_is_refused(
    store: PackStore, tmp_path: Path, smallest_ml: float, refused: bool
) -> None:
    install_earlier(store, tmp_path)
    expected = Expected(cases=9, smallest_ml=smallest_ml, largest_ml=2 * smallest_ml, labels=(), pairs=())
    install_later(store, tmp_path, region=after_earlier(), expected=expected)
    run_it = segmenter(store)
    unchecked = segmenter(store, check_input=False)(blob()).record.warnings
    assert [warning.kind for warning in unchecked].count("input") == refused
    if refused:
        with pytest.raises(
            ImplausibleVolumeError, match=r"Bright tissue .* found [\d.]+ ml .*1200 ml together.*orientation.*--unch"
        ):
            run_it(blob())
    else:
        assert run_it(blob()).volume.voxels.any()


def test_a_volume_that_is_too_small_is_refused_before_the_earlier_stage(store: PackStore, tmp_path: Path) -> None:
    install_earlier(store, tmp_path)
    trained = FieldOfView(smallest=(200.0, 200.0, 200.0), largest=(210.0, 210.0, 210.0))
    install_later(store, tmp_path, region=after_earlier(), field_of_view=trained)
    seen: list[Progress] = []
    with pytest.raises(ImplausibleVolumeError, match="too small"):
        segmenter(store)(blob(), progress=seen.append)
    assert seen == []
    assert [warning.kind for warning in segmenter(store, check_input=False)(blob()).record.warnings] == ["input"]


def test_a_speck_apart_from_the_region_is_left_out_of_it(store: PackStore, tmp_path: Path) -> None:
    install_earlier(store, tmp_path)
    install_later(store, tmp_path, region=after_earlier())
    scattered = run(blob(), store.get(EARLIER)).voxels
    whole = largest_pieces(scattered, [1])
    assert 0 < np.count_nonzero(whole) < np.count_nonzero(scattered)
    install_earlier(store, tmp_path / "single", version="1.1.0", single_pieces=(1,))
    np.testing.assert_array_equal(run(blob(), store.get(EARLIER)).voxels, whole)
    record = segmenter(store)(blob()).record
    assert record.region is not None
    assert record.region.voxels == np.count_nonzero(whole)


def test_the_earlier_pack_has_to_be_there_and_fit(store: PackStore, tmp_path: Path) -> None:
    install_later(store, tmp_path, region=after_earlier(minimum_version="1.2.0"))
    with pytest.raises(PackError, match=rf"{EARLIER} 1.2.0 or later.*not installed; install {EARLIER} 1.2.0"):
        segmenter(store)
    install_earlier(store, tmp_path)
    with pytest.raises(PackError, match=r"version 1\.0\.0 is installed"):
        segmenter(store)
    install_earlier(store, tmp_path / "new", version="1.10.0")
    assert segmenter(store)(blob()).record.region is not None
    install_earlier(store, tmp_path / "deeper", version="2.0.0", region=after_earlier(pack=LATER))
    with pytest.raises(PackError, match="Chains have two packs"):
        segmenter(store)
    install_earlier(store, tmp_path / "ct", version="2.1.0", modality="CT")
    with pytest.raises(PackError, match=r"for CT where .* is for MR"):
        segmenter(store)


def test_a_size_that_is_left_open(chained: PackStore, tmp_path: Path) -> None:
    install_later(chained, tmp_path, region=after_earlier(), size="x1/2", seed=5)
    automatic = Segmenter("inside", "auto", engine="onnxruntime", threads=1, store=chained)
    volume = blob()
    choice = automatic.choose(volume)
    assert choice.region_pack is not None
    result = automatic(volume)
    assert result.record.region is not None
    assert result.record.region.pack_id == choice.region_pack.manifest.id == EARLIER


def test_sizes_of_one_volume_share_the_region(chained: PackStore, tmp_path: Path) -> None:
    install_later(chained, tmp_path, region=after_earlier(), size="x1/2", seed=5)
    regions, volume = Regions(), blob()
    first = segmenter(chained, regions=regions)(volume)
    second = Segmenter("inside", "x1/2", engine="onnxruntime", threads=1, store=chained, regions=regions)(volume)
    other = segmenter(chained, regions=regions)(blob("LPS"))
    assert [each.record.region and each.record.region.reused for each in (first, second, other)] == [False, True, False]
    apart = Segmenter("inside", "x1/2", engine="onnxruntime", threads=1, store=chained)(volume)
    np.testing.assert_array_equal(second.volume.voxels, apart.volume.voxels)


def test_a_region_of_another_volume_is_refused(chained: PackStore) -> None:
    """The shapes are equal in all of them."""
    volume, earlier = blob(), chained.get(EARLIER)
    found = find_region(volume, earlier, choose_engine(earlier, CPU).engine, RunOptions(threads=1))
    assert found.volume.same_grid(volume)
    again = volume.with_voxels(volume.voxels + 1)  # on the same grid
    assert run(again, chained.get(LATER), region=found).voxels.shape == volume.voxels.shape
    moved = replace(volume, origin=(volume.origin[0] + 5, *volume.origin[1:]))
    for other in (volume.reoriented("LAS"), volume.reoriented("RPI"), blob(spacing=(1.0, 1.0, 1.5)), moved):
        assert other.voxels.shape == found.mask.shape
        with pytest.raises(GeometryError, match=rf"{EARLIER} found lies on another grid.*RAS of \(20, 26, 22\) voxels"):
            run(other, chained.get(LATER), region=found)


def test_the_pipeline_asks_for_the_region(chained: PackStore) -> None:
    with pytest.raises(InvalidSettingsError, match=f"region that {EARLIER} finds"):
        run(blob(), chained.get(LATER))


def test_the_command(
    chained: PackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KDSEGMENTATOR_PACKS", str(tmp_path / "user"))
    scan, labels, record = write_scan(tmp_path / "scan.nii.gz"), tmp_path / "labels.nii.gz", tmp_path / "run.json"
    options = ["--pack", "inside", "--size", "x1/4", "--engine", "onnxruntime", "--record", str(record)]
    assert main(["segment", str(scan), str(labels), *options]) == 0
    assert f"Region  {EARLIER} 1.0.0, with 2 mm round it" in capsys.readouterr().out
    assert json.loads(record.read_text())["region"]["pack_id"] == EARLIER
    assert SimpleITK.ReadImage(str(labels)).GetSize() == SimpleITK.ReadImage(str(scan)).GetSize()
    assert main(["packs", "show", LATER]) == 0
    assert f"{EARLIER} 1.0.0 or later" in capsys.readouterr().out
    assert main(["packs", "remove", EARLIER]) == 0
    assert f"{LATER} needs {EARLIER} 1.0.0 or later" in capsys.readouterr().err
    labels.unlink()
    assert main(["segment", str(scan), str(labels), *options[:-2]]) == 2
    assert "not installed" in capsys.readouterr().err
    assert not labels.exists()


def test_warnings_of_the_earlier_stage_come_first_with_its_title(store: PackStore, tmp_path: Path) -> None:
    label = ExpectedLabel(value=1, cases=20, at_edge=20, smallest_ml=40.0, largest_ml=80.0)
    brains = Expected(cases=20, smallest_ml=40.0, largest_ml=80.0, labels=(label,), pairs=())
    install_earlier(store, tmp_path, expected=brains)
    install_later(store, tmp_path, region=after_earlier())
    first, *others = segmenter(store)(blob()).record.warnings
    assert (first.pack_id, first.labels, first.expected) == (EARLIER, ("structure 1",), (40.0, 80.0))
    assert first.sentence.startswith("Bright tissue: structure 1 is ")
    assert {warning.pack_id for warning in others} <= {LATER}


def test_what_is_wrong_with_the_scan_itself_is_said_once(store: PackStore, tmp_path: Path) -> None:
    install_earlier(store, tmp_path)
    install_later(store, tmp_path, region=after_earlier())
    scan = blob()
    spiked = scan.with_voxels(scan.voxels.copy())
    spiked.voxels[scan.voxels == scan.voxels.max()] = 1e6
    thick = Volume(spiked.voxels, (*spiked.spacing[:2], 9.0), spiked.origin, spiked.direction)
    for volume, kind in ((spiked, "spikes"), (thick, "thick slices")):
        warnings = segmenter(store)(volume).record.warnings
        assert [warning.kind for warning in warnings].count(kind) == 1
        assert not any(warning.sentence.startswith("Bright tissue") for warning in warnings if warning.kind == kind)
