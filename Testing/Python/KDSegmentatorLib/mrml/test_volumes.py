from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer
import vtk
from hypothesis import given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.errors import GeometryError
from KDSegmentatorLib.geometry import Vector, Volume
from KDSegmentatorLib.mrml.grids import ras_matrix
from KDSegmentatorLib.mrml.volumes import node_from_volume, volume_from_node
from support.mrml_scene import AXIS_ORDERS, TILTED, UPRIGHT, MrmlScene, affine, placed, to_ras

SHAPE = (4, 5, 6)


def noise(dtype: Any = np.int16) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)


def ras_of_voxel(node: Any, kji: tuple[int, int, int]) -> Vector:
    """Return where Slicer itself shows a voxel."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    local = matrix.MultiplyPoint((*kji[::-1], 1.0))[:3]
    world = [0.0, 0.0, 0.0]
    node.TransformPointToWorld(local, world)
    return world[0], world[1], world[2]


@pytest.mark.parametrize("degrees", [UPRIGHT, TILTED], ids=["upright", "oblique"])
@pytest.mark.parametrize("codes", AXIS_ORDERS)
def test_every_axis_order_goes_in_and_out(mrml: MrmlScene, codes: str, degrees: Vector) -> None:
    volume = placed(noise(), codes, degrees)
    node = mrml.volume_node(volume)
    result = volume_from_node(node)
    assert result.axis_codes == volume.axis_codes
    assert result.same_grid(volume)
    assert result.spacing == pytest.approx(volume.spacing, rel=1e-12)
    np.testing.assert_allclose(result.affine, volume.affine, atol=1e-9)
    np.testing.assert_array_equal(result.voxels, volume.voxels)
    for kji in ((0, 0, 0), (3, 1, 4)):
        assert to_ras(result, kji) == pytest.approx(ras_of_voxel(node, kji), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    codes=st.sampled_from(AXIS_ORDERS),
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.05, 20)] * 3),
    origin=st.tuples(*[st.floats(-2000, 2000)] * 3),
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
)
def test_any_rigid_place_is_kept(codes: str, degrees: Vector, spacing: Vector, origin: Vector, turn: Vector) -> None:
    mrml = MrmlScene(slicer.vtkMRMLScene())
    volume = placed(noise(), codes, degrees, spacing, origin)
    node = mrml.volume_node(volume)
    assert volume_from_node(node).same_grid(volume)
    stored = node.GetSpacing()
    mrml.linear_transform(affine(turn, (10, -20, 30)), node)
    moved = volume_from_node(node)
    assert moved.spacing == stored  # to the last digit: the network's grid must not depend on a rotation
    assert to_ras(moved, (3, 1, 4)) == pytest.approx(ras_of_voxel(node, (3, 1, 4)), abs=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "uint32", "float32", "float64"])
def test_voxels_keep_their_type(mrml: MrmlScene, dtype: str) -> None:
    voxels = volume_from_node(mrml.volume_node(placed(noise(dtype)))).voxels
    assert voxels.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(voxels, noise(dtype))


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("bool", "uint8"), ("float16", "float32"), (">i2", "int16"), ("int64", "int32"), ("uint64", "int32")],
)
def test_types_that_slicer_does_not_display_are_replaced(mrml: MrmlScene, dtype: str, stored: str) -> None:
    voxels = volume_from_node(mrml.volume_node(placed(noise(dtype)))).voxels
    assert voxels.dtype == np.dtype(stored)
    np.testing.assert_array_equal(voxels, noise(dtype).astype(stored))


def test_large_64_bit_numbers_are_kept(mrml: MrmlScene) -> None:
    voxels = noise(np.int64) * 10**10
    np.testing.assert_array_equal(volume_from_node(mrml.volume_node(placed(voxels))).voxels, voxels)


def test_strided_voxels_are_written_in_order(mrml: MrmlScene) -> None:
    flipped = np.asfortranarray(noise())[:, ::-1, ::2]
    result = volume_from_node(mrml.volume_node(placed(flipped)))
    np.testing.assert_array_equal(result.voxels, flipped)


def test_the_volume_outlives_changes_of_the_node(mrml: MrmlScene) -> None:
    node = mrml.volume_node(placed(noise()))
    volume = volume_from_node(node)
    node.GetImageData().GetPointData().GetScalars().Fill(7)
    node.GetImageData().AllocateScalars(vtk.VTK_DOUBLE, 1)
    mrml.scene.RemoveNode(node)
    del node
    np.testing.assert_array_equal(volume.voxels, noise())


def test_nodes_get_unique_names_and_the_right_class(mrml: MrmlScene) -> None:
    first, second = (node_from_volume(placed(noise()), mrml.scene, name="CT") for _ in range(2))
    label_map = node_from_volume(placed(noise()), mrml.scene, name="labels", label_map=True)
    assert (first.GetName(), second.GetName()) == ("CT", "CT_1")
    assert first.GetClassName() == "vtkMRMLScalarVolumeNode"
    assert label_map.GetClassName() == "vtkMRMLLabelMapVolumeNode"
    assert all(node.GetDisplayNode() is not None for node in (first, second, label_map))
    np.testing.assert_array_equal(volume_from_node(label_map).voxels, noise())


def test_image_data_that_does_not_start_at_voxel_zero(mrml: MrmlScene) -> None:
    node = mrml.volume_node(placed(noise(), "RAS", TILTED))
    expected = ras_of_voxel(node, (5 + 1, 3 + 2, 2 + 1))
    node.GetImageData().SetExtent(2, 7, 3, 7, 5, 8)
    assert to_ras(volume_from_node(node), (1, 2, 1)) == pytest.approx(expected)


class TestTransforms:
    def test_nested_linear_transforms_become_geometry(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(noise(), "PIR", TILTED))
        inner = mrml.linear_transform(affine((30, 40, 50), (5, 6, 7)), node)
        mrml.linear_transform(affine((-10, 5, 60), (-50, 0, 9)), inner)
        volume = volume_from_node(node)
        np.testing.assert_array_equal(volume.voxels, noise())
        for kji in ((0, 0, 0), (3, 4, 5)):
            assert to_ras(volume, kji) == pytest.approx(ras_of_voxel(node, kji), abs=1e-9)
        assert node.GetParentTransformNode() is inner

    def test_hardening_the_transform_changes_nothing(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(noise(), "SAL"))
        mrml.linear_transform(affine(TILTED, (5, 6, 7)), node)
        before = volume_from_node(node)
        assert node.HardenTransform()
        assert volume_from_node(node).same_grid(before)

    def test_scaling_along_the_axes_changes_the_spacing(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(noise(), spacing=(1.0, 2.0, 3.0)))
        mrml.linear_transform(affine(TILTED, scale=(1.1, 1.2, 0.5)), node)
        assert volume_from_node(node).spacing == pytest.approx((1.1, 2.4, 1.5))

    def test_mirroring_is_kept(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(noise(), "RAS"))
        mrml.linear_transform(affine(scale=(-1, 1, 1)), node)
        assert volume_from_node(node).axis_codes == "LAS"

    def test_shear_is_refused_with_the_transforms_name(self, mrml: MrmlScene) -> None:
        shear = np.eye(4)
        shear[0, 1] = 0.05
        node = mrml.volume_node(placed(noise()))
        mrml.linear_transform(shear, node, name="Affine to MNI")
        with pytest.raises(GeometryError, match=r"“T1” under the transform “Affine to MNI” are not perp.*Resample"):
            volume_from_node(node)

    def test_scaling_across_the_axes_is_refused(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(noise(), degrees=(0, 0, 30)))
        mrml.linear_transform(affine(scale=(1.0, 1.3, 1.0)), node)
        with pytest.raises(GeometryError, match="not perpendicular"):
            volume_from_node(node)

    @pytest.mark.parametrize("outer", [False, True], ids=["direct", "above a linear one"])
    def test_a_non_linear_one_is_refused(self, mrml: MrmlScene, outer: bool) -> None:
        node = mrml.volume_node(placed(noise()))
        if outer:
            mrml.bending_transform(mrml.linear_transform(affine(TILTED), node))
        else:
            mrml.bending_transform(node)
        with pytest.raises(GeometryError, match=r"“T1” is under the non-linear transform.*Harden"):
            volume_from_node(node)

    def test_a_collapsing_one_is_refused(self, mrml: MrmlScene) -> None:
        node = mrml.volume_node(placed(noise()))
        mrml.linear_transform(affine(scale=(1, 1, 0)), node)
        with pytest.raises(GeometryError, match=r"0\.8 x 1\.1 x 0 mm"):
            volume_from_node(node)


class TestBadInput:
    def test_nothing(self) -> None:
        with pytest.raises(GeometryError, match="no volume was chosen"):
            volume_from_node(None)

    def test_no_image(self, mrml: MrmlScene) -> None:
        node = mrml.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Lost")
        with pytest.raises(GeometryError, match="“Lost” is empty"):
            volume_from_node(node)

    def test_image_without_voxels(self, mrml: MrmlScene) -> None:
        node = mrml.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Lost")
        image = vtk.vtkImageData()
        node.SetAndObserveImageData(image)
        with pytest.raises(GeometryError, match="“Lost” is empty"):
            volume_from_node(node)
        image.SetDimensions(3, 3, 3)
        with pytest.raises(GeometryError, match="“Lost” is empty"):
            volume_from_node(node)

    def test_several_components(self, mrml: MrmlScene) -> None:
        image = vtk.vtkImageData()
        image.SetDimensions(4, 5, 6)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
        node = mrml.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Photo")
        node.SetAndObserveImageData(image)
        with pytest.raises(GeometryError, match="“Photo” has 3 values in every voxel"):
            volume_from_node(node)

    @pytest.mark.parametrize(
        "class_name",
        ["vtkMRMLVectorVolumeNode", "vtkMRMLDiffusionWeightedVolumeNode", "vtkMRMLDiffusionTensorVolumeNode"],
    )
    def test_other_volume_nodes(self, mrml: MrmlScene, class_name: str) -> None:
        node = mrml.scene.AddNewNodeByClass(class_name, "DWI")
        with pytest.raises(GeometryError, match="“DWI” has several values in every voxel"):
            volume_from_node(node)

    def test_sequence(self, mrml: MrmlScene) -> None:
        sequence = mrml.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Perfusion")
        for time in "012":
            sequence.SetDataNodeAtValue(mrml.volume_node(placed(noise())), time)
        with pytest.raises(GeometryError, match=r"“Perfusion” is a sequence of 3 images \(4-D\)"):
            volume_from_node(sequence)

    def test_no_volume(self, mrml: MrmlScene) -> None:
        node = mrml.scene.AddNewNodeByClass("vtkMRMLModelNode", "Skull")
        with pytest.raises(GeometryError, match="“Skull” is not a volume"):
            volume_from_node(node)

    @pytest.mark.parametrize("spacing", [0.0, float("nan"), float("inf")])
    def test_impossible_spacing(self, mrml: MrmlScene, spacing: float) -> None:
        node = mrml.volume_node(placed(noise()))
        node.SetSpacing(1.0, spacing, 1.0)
        with pytest.raises(GeometryError, match="which is not possible"):
            volume_from_node(node)

    def test_too_many_voxels(self, mrml: MrmlScene, monkeypatch: pytest.MonkeyPatch) -> None:
        """The size is checked before the voxels are copied."""
        node = mrml.volume_node(placed(noise()))
        monkeypatch.setattr("KDSegmentatorLib.geometry.MAXIMUM_VOXELS", 119)
        monkeypatch.setattr("KDSegmentatorLib.mrml.volumes.voxels_of", None)
        with pytest.raises(GeometryError, match=r"120 voxels.* more than the limit of 119"):
            volume_from_node(node)


def test_ras_matrix_is_slicers(mrml: MrmlScene) -> None:
    volume = Volume(noise(), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    matrix = ras_matrix(volume)
    assert matrix.MultiplyPoint((1, 1, 1, 1)) == (-5.0, -7.0, 9.0, 1.0)
