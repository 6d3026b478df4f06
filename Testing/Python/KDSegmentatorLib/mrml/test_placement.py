from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from KDSegmentatorLib.mrml.placement import dicom_item
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from support.mrml_scene import MrmlScene, placed, random_labels, segmentation_of

SHAPE = (4, 5, 6)
SCAN = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def test_a_result_can_be_exported_if_its_volume_has_patient_and_study(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(placed(SCAN))
    node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
    assert dicom_item(node) is None, "there is no subject hierarchy"
    hierarchy = mrml.scene.GetSubjectHierarchyNode()
    assert dicom_item(node) is None, "it has no item"
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    assert dicom_item(node) is None, "it is in no study"
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "MR brain")
    hierarchy.SetItemParent(item, study)
    assert dicom_item(node) is None, "the study has no patient"
    hierarchy.SetItemParent(study, hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Doe^Jane"))
    assert dicom_item(node) == item
