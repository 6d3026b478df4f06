"""What the Result box says of a segmentation."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.errors import ImageWriteError
from KDSegmentatorPanel.result_view import ResultView, export_surfaces, result_view
from support.mrml_scene import MrmlScene
from support.segment_box import Panel


def test_nothing(mrml: MrmlScene) -> None:
    assert result_view(None) == ResultView()


def test_one_table_of_structures_and_one_line_of_origin(box: Panel) -> None:
    box.panel.segment()
    box.end(box.result("x1/4", labels=(1, 3)))
    node = box.panel.outcomes[0].nodes.segmentation
    node.GetDisplayNode().SetSegmentVisibility("Segment_1", False)
    view = result_view(node)
    assert [(row.name, row.visible) for row in view.rows] == [
        ("structure 1", False),
        ("structure 2", True),
        ("structure 3", True),
    ]
    assert float(view.rows[0].volume) > 0
    assert float(view.rows[0].mean) > 0
    assert (view.rows[1].volume, view.rows[1].mean) == ("0.00", "-"), "it was not found"
    assert view.mean_title == "Mean"
    assert view.origin == "Made by KDSegmentator in 3 s. Not for diagnosis: check every result."
    assert "Pack: generated-x1_4" in view.details


def test_a_segmentation_of_somebody_else(mrml: MrmlScene) -> None:
    import slicer
    import vtk

    node = mrml.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    node.CreateDefaultDisplayNodes()
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(2, 2, 2)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image.GetPointData().GetScalars().Fill(1)
    node.AddSegmentFromBinaryLabelmapRepresentation(image, "Lesion")
    view = result_view(node)
    assert [(row.name, row.volume, row.mean) for row in view.rows] == [("Lesion", "-", "-")]
    assert (view.origin, view.details, view.warnings) == ("", "", ())


def test_surfaces_are_written(box: Panel, tmp_path: Path) -> None:
    """As STL; for OBJ, Slicer needs a screen."""
    import slicer

    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(box.mrml.scene)  # registers the conversion to surfaces
    box.panel.segment()
    box.end(box.result("x1/4"))
    export_surfaces(box.panel.outcomes[0].nodes.segmentation, tmp_path, "STL")
    assert len(list(tmp_path.glob("*.stl"))) == 3
    del logic


def test_surfaces_that_cannot_be_written_are_an_error(mrml: MrmlScene, tmp_path: Path) -> None:
    node = mrml.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
    with pytest.raises(ImageWriteError, match="could not be written"):
        export_surfaces(node, tmp_path / "missing", "STL")
