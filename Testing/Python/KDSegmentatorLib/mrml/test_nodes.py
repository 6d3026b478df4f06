from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.mrml.nodes import dicom_item
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from support.mrml_scene import MrmlScene, placed, random_labels, segmentation_of

SHAPE = (4, 5, 6)
SCAN = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def test_a_result_can_be_exported_if_its_volume_comes_from_dicom(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(placed(SCAN))
    node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)

    def obstacle() -> str:
        with pytest.raises(SceneError) as caught:
            dicom_item(node)
        return str(caught.value)

    hierarchy = mrml.scene.GetSubjectHierarchyNode()
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "MR brain")
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Doe^Jane")
    hierarchy.SetItemParent(study, patient)
    hierarchy.SetItemParent(item, study)
    assert "“T1” was not loaded from DICOM" in obstacle(), "a study made by hand is not enough"
    reference.SetAttribute("DICOM.instanceUIDs", " ")
    assert "“T1” was not loaded from DICOM" in obstacle()
    reference.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    assert dicom_item(node) == item
    hierarchy.SetItemParent(study, hierarchy.GetSceneItemID())
    assert "under no study of a patient" in obstacle()
    hierarchy.SetItemParent(item, patient)
    assert "under no study of a patient" in obstacle()
    mrml.scene.RemoveNode(reference)
    assert "is not in the scene" in obstacle()


def test_without_data_tree_there_is_no_export(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(placed(SCAN))
    reference.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
    for _ in range(2):
        with pytest.raises(SceneError, match="under no study"):
            dicom_item(node)
        mrml.scene.GetSubjectHierarchyNode()  # there is one now, without an item of the node
