"""The main path on MRML, with a small real pack and onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.errors import (
    CancelledError,
    GeometryError,
    InvalidSettingsError,
    KDSegmentatorError,
    SceneError,
    UnsuitableVolumeError,
)
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.progress import Progress
from KDSegmentatorLib.mrml.segment import segment_volume_node
from KDSegmentatorLib.mrml.volumes import node_from_volume, volume_from_node
from KDSegmentatorLib.packs.pack import StudentPack
from support.generated_packs import write_pack
from support.mrml_scene import TILTED, MrmlScene, affine, placed, random_labels, tag


def scan(codes: str = "LPS", shape: tuple[int, int, int] = (20, 24, 18)) -> Volume:
    """Return a scan without any symmetry."""
    voxels = np.random.default_rng(3).gamma(2, 100, size=shape).astype(np.float32)
    return placed(voxels, codes, TILTED, (1.1, 0.9, 1.7))


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> StudentPack:
    return write_pack(tmp_path_factory.mktemp("packs") / "generated-x1_4")


@pytest.fixture(scope="module")
def engine(pack: StudentPack) -> Engine:
    return OnnxRuntimeEngine(pack.body())


@pytest.mark.parametrize("codes", ["LPS", "RAS", "ASL", "IRP"])
@pytest.mark.parametrize("transformed", [False, True], ids=["plain", "transformed"])
def test_a_node_gives_what_the_pipeline_gives(
    mrml: MrmlScene, pack: StudentPack, engine: Engine, codes: str, transformed: bool
) -> None:
    node = mrml.volume_node(scan(codes), "MR")
    if transformed:
        mrml.linear_transform(affine((90, 0, 10), (5, 6, 7)), node)
    volume = volume_from_node(node)
    expected = segment(volume, pack, engine).volume
    assert len(np.unique(expected.voxels)) > 2
    result = segment_volume_node(node, pack, engine)
    exported = mrml.exported(result, node)
    assert exported.same_grid(volume)
    np.testing.assert_array_equal(exported.voxels, expected.voxels)

    assert result.GetName() == "MR generated x1/4"
    assert result.GetAttribute("KDSegmentator.pack_id") == pack.manifest.id
    assert result.GetAttribute("KDSegmentator.pack_sha256") == pack.manifest_sha256
    assert result.GetAttribute("KDSegmentator.engine") == engine.name
    segments = result.GetSegmentation()
    for label in pack.manifest.labels:
        segment_ = segments.GetSegment(f"Segment_{label.value}")
        assert segment_.GetName() == label.name
        assert "~SCT^10200004^Liver~" in tag(segment_, "TerminologyEntry")


def test_options_reach_the_pipeline(mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
    stages: list[Progress] = []
    node = mrml.volume_node(scan())
    result = segment_volume_node(
        node, pack, engine, name="Mine", labels=["structure 2"], mirroring=True, progress=stages.append
    )
    assert result.GetName() == "Mine"
    assert result.GetAttribute("KDSegmentator.mirroring") == "true"
    assert result.GetSegmentation().GetSegmentIDs() == ("Segment_2",)
    assert {step.stage for step in stages} == {"preprocess", "windows", "restore"}
    few_values = mrml.volume_node(scan().with_voxels(random_labels((20, 24, 18))))
    segment_volume_node(few_values, pack, engine, check_input=False)


class TestBadInput:
    """A named error, and the scene stays as it was."""

    def check(
        self,
        mrml: MrmlScene,
        node: Any,
        pack: StudentPack,
        engine: Engine,
        error: type[KDSegmentatorError],
        match: str,
        **options: Any,
    ) -> None:
        before = mrml.ids()
        with pytest.raises(error, match=match):
            segment_volume_node(node, pack, engine, **options)
        assert mrml.ids() == before

    def test_no_volume(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        self.check(mrml, None, pack, engine, GeometryError, "no volume was chosen")

    def test_label_map(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        node = node_from_volume(scan(), mrml.scene, name="GT", label_map=True)
        self.check(mrml, node, pack, engine, UnsuitableVolumeError, "“GT” is a label map")

    def test_labels_in_a_scalar_volume(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        node = mrml.volume_node(scan().with_voxels(random_labels((20, 24, 18))))
        self.check(mrml, node, pack, engine, UnsuitableVolumeError, "looks like a label map")

    def test_single_slice(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        node = mrml.volume_node(scan(shape=(1, 24, 18)), "X-ray")
        self.check(mrml, node, pack, engine, GeometryError, "“X-ray” is a single slice")

    def test_nan(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        voxels = scan().voxels.copy()
        voxels[3, 4, 5] = np.nan
        self.check(mrml, mrml.volume_node(scan().with_voxels(voxels)), pack, engine, UnsuitableVolumeError, "1 voxels")

    def test_wrong_modality(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        ct = replace(pack, manifest=replace(pack.manifest, modality="CT"))
        self.check(mrml, mrml.volume_node(scan()), ct, engine, UnsuitableVolumeError, "made for CT")

    def test_non_linear_transform(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        node = mrml.volume_node(scan())
        mrml.bending_transform(node)
        self.check(mrml, node, pack, engine, GeometryError, "non-linear")

    def test_unknown_label(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        node = mrml.volume_node(scan())
        self.check(mrml, node, pack, engine, InvalidSettingsError, "no label 'Spleen'", labels=["Spleen"])

    def test_not_in_a_scene(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        node = mrml.volume_node(scan())
        mrml.scene.RemoveNode(node)
        self.check(mrml, node, pack, engine, SceneError, "not in a scene", progress=pytest.fail)

    def test_cancelled(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        node = mrml.volume_node(scan())
        self.check(mrml, node, pack, engine, CancelledError, "cancelled", cancel=lambda: True)

    def test_removed_during_the_run(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        node = mrml.volume_node(scan())
        before = set(mrml.ids())

        def remove(_: Progress) -> None:
            if node.GetScene() is not None:
                mrml.scene.RemoveNode(node)

        with pytest.raises(SceneError, match="not in the scene any more"):
            segment_volume_node(node, pack, engine, progress=remove)
        assert set(mrml.ids()) <= before

    def test_replaced_during_the_run(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        node = mrml.volume_node(scan())

        def replace_image(_: Progress) -> None:
            node.SetOrigin(0, 0, 0)

        self.check(mrml, node, pack, engine, GeometryError, "changed or moved", progress=replace_image)

    def test_moved_during_the_run(self, mrml: MrmlScene, pack: StudentPack, engine: Engine) -> None:
        """Putting the volume under a transform does not lose the result: both move together."""
        node = mrml.volume_node(scan())
        transform = mrml.linear_transform(affine((0, 0, 30), (1, 2, 3)))
        expected = segment(scan(), pack, engine).volume.voxels

        def move(_: Progress) -> None:
            node.SetAndObserveTransformNodeID(transform.GetID())

        result = segment_volume_node(node, pack, engine, progress=move)
        assert result.GetParentTransformNode() is transform
        np.testing.assert_array_equal(mrml.exported(result, node).voxels, expected)
