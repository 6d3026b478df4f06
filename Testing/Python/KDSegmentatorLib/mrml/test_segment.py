"""The main path on MRML, with a small real pack and onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.errors import (
    CancelledError,
    GeometryError,
    KDSegmentatorError,
    SceneError,
    UnsuitableVolumeError,
)
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.progress import Progress
from KDSegmentatorLib.mrml.results import segment_volume_node
from KDSegmentatorLib.mrml.volumes import node_from_volume, volume_from_node
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Segmenter
from support.chained_packs import EARLIER, LATER, after_earlier, install_earlier, install_later
from support.generated_packs import manifest, write_pack
from support.mrml_scene import TILTED, MrmlScene, affine, placed, random_labels, tag


def scan(codes: str = "LPS", shape: tuple[int, int, int] = (20, 24, 18)) -> Volume:
    """Return a scan without any symmetry."""
    voxels = np.random.default_rng(3).gamma(2, 100, size=shape).astype(np.float32)
    return placed(voxels, codes, TILTED, (1.1, 0.9, 1.7))


def segmenter_of(store: PackStore, task: str, **options: Any) -> Segmenter:
    return Segmenter(task, "x1/4", engine="onnxruntime", threads=1, store=store, **options)


def direct(volume: Volume, segmenter: Segmenter) -> Volume:
    """Return what the pipeline gives without MRML."""
    return segment(volume, segmenter.pack, segmenter.engine.engine, RunOptions(threads=1)).volume


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PackStore:
    folder = tmp_path_factory.mktemp("packs")
    store = PackStore(folder / "user", folder / "shipped")
    store.install(write_pack(folder / "generated-x1_4").folder)
    return store


@pytest.fixture(scope="module")
def segmenter(store: PackStore) -> Segmenter:
    return segmenter_of(store, "generated")


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> PackStore:
    folder = tmp_path_factory.mktemp("chained")
    store = PackStore(folder / "user", folder / "shipped")
    install_earlier(store, folder)
    install_later(store, folder, region=after_earlier())
    return store


@pytest.mark.parametrize("codes", ["LPS", "RAS", "ASL", "IRP"])
@pytest.mark.parametrize("transformed", [False, True], ids=["plain", "transformed"])
def test_a_node_gives_what_the_pipeline_gives(
    mrml: MrmlScene, segmenter: Segmenter, codes: str, transformed: bool
) -> None:
    node = mrml.volume_node(scan(codes), "MR")
    if transformed:
        mrml.linear_transform(affine((90, 0, 10), (5, 6, 7)), node)
    volume = volume_from_node(node)
    expected = direct(volume, segmenter)
    assert len(np.unique(expected.voxels)) > 2
    result = segment_volume_node(node, segmenter)
    exported = mrml.exported(result, node)
    assert exported.same_grid(volume)
    np.testing.assert_array_equal(exported.voxels, expected.voxels)

    assert result.GetName() == "MR generated x1/4"
    assert result.GetAttribute("KDSegmentator.pack_id") == segmenter.pack.manifest.id
    assert result.GetAttribute("KDSegmentator.pack_sha256") == segmenter.pack.manifest_sha256
    assert result.GetAttribute("KDSegmentator.region_given") is None
    assert result.GetAttribute("KDSegmentator.engine") == segmenter.engine.engine.name
    segments = result.GetSegmentation()
    for label in segmenter.pack.manifest.labels:
        segment_ = segments.GetSegment(f"Segment_{label.value}")
        assert segment_.GetName() == label.name
        assert "~SCT^10200004^Liver~" in tag(segment_, "TerminologyEntry")


def test_options_reach_the_pipeline(mrml: MrmlScene, store: PackStore) -> None:
    stages: list[Progress] = []
    node = mrml.volume_node(scan())
    chosen = segmenter_of(store, "generated", labels=["structure 2"], mirroring=True)
    result = segment_volume_node(node, chosen, name="Mine", progress=stages.append)
    assert result.GetName() == "Mine"
    assert result.GetAttribute("KDSegmentator.mirroring") == "true"
    assert result.GetSegmentation().GetSegmentIDs() == ("Segment_2",)
    assert {step.stage for step in stages} == {"preprocess", "windows", "restore"}
    few_values = mrml.volume_node(scan().with_voxels(random_labels((20, 24, 18))))
    segment_volume_node(few_values, segmenter_of(store, "generated", check_input=False))


def test_chained_packs_are_both_run(mrml: MrmlScene, chained: PackStore) -> None:
    stages: list[Progress] = []
    node = mrml.volume_node(scan("RAS"))
    segmenter = segmenter_of(chained, "inside")
    result = segment_volume_node(node, segmenter, progress=stages.append)
    expected = segmenter(volume_from_node(node)).volume.voxels
    np.testing.assert_array_equal(mrml.exported(result, node).voxels, expected)
    assert result.GetAttribute("KDSegmentator.pack_id") == LATER
    assert result.GetAttribute("KDSegmentator.region.pack_id") == EARLIER
    assert result.GetAttribute("KDSegmentator.region_given") is None
    later = ["preprocess", "windows", "restore"]
    assert list(dict.fromkeys(step.stage for step in stages)) == [*(f"region-{stage}" for stage in later), *later]


def test_a_region_that_is_given_is_not_looked_for(mrml: MrmlScene, chained: PackStore) -> None:
    node = mrml.volume_node(scan("RAS"))
    given, found = segmenter_of(chained, "inside", region="given"), segmenter_of(chained, "inside")
    result = segment_volume_node(node, given)
    voxels = mrml.exported(result, node).voxels
    np.testing.assert_array_equal(voxels, given(volume_from_node(node)).volume.voxels)
    assert (voxels != found(volume_from_node(node)).volume.voxels).any()
    assert result.GetAttribute("KDSegmentator.region_given") == "true"
    assert result.GetAttribute("KDSegmentator.region.pack_id") is None


class TestBadInput:
    """A named error, and the scene stays as it was."""

    def check(
        self,
        mrml: MrmlScene,
        node: Any,
        segmenter: Segmenter,
        error: type[KDSegmentatorError],
        match: str,
        **options: Any,
    ) -> None:
        before = mrml.ids()
        with pytest.raises(error, match=match):
            segment_volume_node(node, segmenter, **options)
        assert mrml.ids() == before

    def test_no_volume(self, mrml: MrmlScene, segmenter: Segmenter) -> None:
        self.check(mrml, None, segmenter, GeometryError, "no volume was chosen")

    def test_label_map(self, mrml: MrmlScene, segmenter: Segmenter) -> None:
        node = node_from_volume(scan(), mrml.scene, name="GT", label_map=True)
        self.check(mrml, node, segmenter, UnsuitableVolumeError, "“GT” is a label map")

    def test_labels_in_a_scalar_volume(self, mrml: MrmlScene, segmenter: Segmenter) -> None:
        node = mrml.volume_node(scan().with_voxels(random_labels((20, 24, 18))))
        self.check(mrml, node, segmenter, UnsuitableVolumeError, "looks like a label map")

    def test_single_slice(self, mrml: MrmlScene, segmenter: Segmenter) -> None:
        node = mrml.volume_node(scan(shape=(1, 24, 18)), "X-ray")
        self.check(mrml, node, segmenter, GeometryError, "“X-ray” is a single slice")

    def test_nan(self, mrml: MrmlScene, segmenter: Segmenter) -> None:
        voxels = scan().voxels.copy()
        voxels[3, 4, 5] = np.nan
        self.check(mrml, mrml.volume_node(scan().with_voxels(voxels)), segmenter, UnsuitableVolumeError, "1 voxels")

    def test_wrong_modality(self, mrml: MrmlScene, tmp_path: Path) -> None:
        store = PackStore(tmp_path / "user", tmp_path / "shipped")
        store.install(write_pack(tmp_path / "ct", manifest=manifest(modality="CT")).folder)
        ct = segmenter_of(store, "generated")
        self.check(mrml, mrml.volume_node(scan()), ct, UnsuitableVolumeError, "made for CT")

    def test_nothing_of_the_region(self, mrml: MrmlScene, tmp_path: Path) -> None:
        store = PackStore(tmp_path / "user", tmp_path / "shipped")
        install_earlier(store, tmp_path, threshold=1000)
        install_later(store, tmp_path, region=after_earlier())
        node = mrml.volume_node(scan())
        self.check(mrml, node, segmenter_of(store, "inside"), UnsuitableVolumeError, "Bright tissue .* found nothing")

    def test_non_linear_transform(self, mrml: MrmlScene, segmenter: Segmenter) -> None:
        node = mrml.volume_node(scan())
        mrml.bending_transform(node)
        self.check(mrml, node, segmenter, GeometryError, "non-linear")

    def test_not_in_a_scene(self, mrml: MrmlScene, segmenter: Segmenter) -> None:
        node = mrml.volume_node(scan())
        mrml.scene.RemoveNode(node)
        self.check(mrml, node, segmenter, SceneError, "not in a scene", progress=pytest.fail)

    def test_cancelled(self, mrml: MrmlScene, segmenter: Segmenter) -> None:
        node = mrml.volume_node(scan())
        self.check(mrml, node, segmenter, CancelledError, "cancelled", cancel=lambda: True)

    def test_removed_during_the_run(self, mrml: MrmlScene, segmenter: Segmenter) -> None:
        node = mrml.volume_node(scan())
        before = set(mrml.ids())

        def remove(_: Progress) -> None:
            if node.GetScene() is not None:
                mrml.scene.RemoveNode(node)

        with pytest.raises(SceneError, match="not in the scene any more"):
            segment_volume_node(node, segmenter, progress=remove)
        assert set(mrml.ids()) <= before

    def test_replaced_during_the_run(self, mrml: MrmlScene, segmenter: Segmenter) -> None:
        node = mrml.volume_node(scan())

        def replace_image(_: Progress) -> None:
            node.SetOrigin(0, 0, 0)

        self.check(mrml, node, segmenter, GeometryError, "changed or moved", progress=replace_image)

    def test_moved_during_the_run(self, mrml: MrmlScene, segmenter: Segmenter) -> None:
        """Putting the volume under a transform does not lose the result: both move together."""
        node = mrml.volume_node(scan())
        transform = mrml.linear_transform(affine((0, 0, 30), (1, 2, 3)))
        expected = direct(scan(), segmenter).voxels

        def move(_: Progress) -> None:
            node.SetAndObserveTransformNodeID(transform.GetID())

        result = segment_volume_node(node, segmenter, progress=move)
        assert result.GetParentTransformNode() is transform
        np.testing.assert_array_equal(mrml.exported(result, node).voxels, expected)
