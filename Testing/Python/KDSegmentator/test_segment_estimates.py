"""When the Segment box looks at a volume and asks for estimates."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.selection import SETTLE_SECONDS
from support.mrml_scene import MrmlScene, affine
from support.segment_box import Panel, empty_box, scan


class TestWhatIsWorkedOut:
    """A volume is copied and looked at once; the estimates are asked for when the user has ended choosing."""

    def test_options_ask_for_one_estimate_and_copy_nothing(self, box: Panel) -> None:
        submitted, asked = box.background.submitted, len(box.estimate.questions)
        for inputs in ({"mirroring": True}, {"entropy": True}, *({"threads": number} for number in range(1, 6))):
            box.change(**inputs)
            box.panel.poll()
        assert box.panel.busy
        assert box.background.submitted == submitted
        assert "about" not in box.panel.view().qualities[0].cells[0]
        box.clock.now += SETTLE_SECONDS
        box.panel.poll()
        assert len(box.estimate.questions) == asked + 1
        question = box.estimate.questions[-1]
        assert (question.mirroring, question.entropy, question.threads) == (True, True, 5)
        assert box.background.submitted == submitted + 1, "the estimate, and not another look at the volume"
        assert "about" in box.panel.view().qualities[0].cells[0]

    def test_leaving_and_entering_asks_nothing(self, box: Panel) -> None:
        submitted = box.background.submitted
        box.panel.refresh()
        box.panel.poll()
        assert box.background.submitted == submitted
        assert "about" in box.panel.view().qualities[0].cells[0]

    def test_a_volume_that_was_changed_meanwhile_is_looked_at_again(self, box: Panel) -> None:
        image = box.inputs.volume.GetImageData()
        image.GetPointData().GetScalars().Fill(1.0)
        image.GetPointData().GetScalars().Modified()
        box.panel.refresh()
        box.panel.poll()
        assert "Every voxel has the same value" in box.panel.view().what

    def test_a_volume_that_was_moved_is_looked_at_again(self, box: Panel) -> None:
        before = box.estimate.questions[-1].outline.origin
        box.mrml.linear_transform(affine((0, 0, 0), (5, 6, 7)), box.inputs.volume)
        box.panel.refresh()
        box.panel.poll()
        box.panel.poll()
        assert box.estimate.questions[-1].outline.origin != before

    def test_the_event_of_a_volume_is_believed(self, box: Panel) -> None:
        submitted = box.background.submitted
        box.panel.volume_changed()
        assert box.background.submitted == submitted + 1

    def test_superseded_questions_are_dropped(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, later=True)
        box.choose(volume=mrml.volume_node(scan()))
        box.background.run()
        box.panel.poll()  # the estimate waits for the thread
        stopped = box.estimate.stopped
        box.choose(mirroring=True)
        assert box.estimate.stopped == stopped + 1
        box.settle()
        assert [question.mirroring for question in box.estimate.questions] == [True]

    def test_the_thread_ends_with_the_panel(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, later=True)
        box.choose(volume=mrml.volume_node(scan()))
        box.background.run()
        box.panel.poll()
        box.panel.shut_down()
        assert box.background.closed
        assert box.estimate.stopped == 1
        assert not box.panel.busy
