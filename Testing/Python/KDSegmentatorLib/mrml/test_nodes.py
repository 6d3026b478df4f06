from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.mrml.nodes import source_instances
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from support.mrml_scene import MrmlScene, placed, random_labels, segmentation_of

SHAPE = (4, 5, 6)
SCAN = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def test_a_result_can_be_exported_if_its_volume_comes_from_dicom(mrml: MrmlScene) -> None:
    reference = mrml.volume_node(placed(SCAN))
    node = segmentation_node(segmentation_of(placed(random_labels(SHAPE))), reference)
    for uids in (None, " "):
        reference.SetAttribute("DICOM.instanceUIDs", uids)
        with pytest.raises(SceneError, match="“T1” was not loaded from DICOM"):
            source_instances(node)
    reference.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    assert source_instances(node) == ["1.2.3", "1.2.4"]
    mrml.scene.RemoveNode(reference)
    with pytest.raises(SceneError, match="is not in the scene"):
        source_instances(node)
