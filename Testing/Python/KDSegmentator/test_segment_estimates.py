"""When the Segment box looks at a volume and asks for estimates."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.selection import LONGEST_SECONDS, SETTLE_SECONDS
from support.mrml_scene import MrmlScene, affine
from support.panel_doubles import FakeJob
from support.segment_box import Panel, empty_box, scan


class TestWhatIsWorkedOut:
    """A volume is copied and looked at once; the estimates are asked for when the user has ended choosing."""

    def test_options_ask_for_one_estimate_and_copy_nothing(self, box: Panel) -> None:
        submitted, asked = box.background.submitted, len(box.jobs.questions)
        for inputs in ({"mirroring": True}, {"entropy": True}, *({"threads": number} for number in range(1, 6))):
            box.change(**inputs)
            box.panel.poll()
        assert box.panel.busy
        assert box.background.submitted == submitted
        assert "about" not in box.panel.view().qualities[0].cells[0]
        box.clock.now += SETTLE_SECONDS
        box.panel.poll()
        assert len(box.jobs.questions) == asked + 1
        box.panel.poll()
        options = box.jobs.questions[-1].options
        assert (options.mirroring, options.entropy, options.threads) == (True, True, 5)
        assert box.background.submitted == submitted, "the volume is not looked at again"
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
        submitted = box.background.submitted
        box.mrml.linear_transform(affine((0, 0, 0), (5, 6, 7)), box.inputs.volume)
        box.panel.refresh()
        assert box.background.submitted == submitted + 1

    def test_the_event_of_a_volume_is_believed(self, box: Panel) -> None:
        submitted = box.background.submitted
        box.panel.volume_changed()
        assert box.background.submitted == submitted + 1

    def test_an_answer_to_another_question_is_not_taken(self, box: Panel) -> None:
        box.change(mirroring=True)
        box.clock.now += SETTLE_SECONDS
        box.panel.poll()  # it is asked, and not answered yet
        box.change(mirroring=False)
        box.panel.poll()
        assert "about" not in box.panel.view().qualities[0].cells[0]
        box.clock.now += SETTLE_SECONDS
        box.panel.poll()
        box.panel.poll()
        assert [question.options.mirroring for question in box.jobs.questions[-2:]] == [True, False]
        assert "about" in box.panel.view().qualities[0].cells[0]

    def test_a_worker_that_does_not_answer_is_ended(self, box: Panel) -> None:
        silent = FakeJob()
        box.jobs.advise = lambda request: silent  # type: ignore[method-assign]
        box.choose(mirroring=True)
        box.clock.now += LONGEST_SECONDS + 1
        box.panel.poll()
        assert silent.cancelled
        box.panel.shut_down()
        assert silent.waited

    def test_after_a_run_it_is_asked_anew(self, box: Panel) -> None:
        asked = len(box.jobs.questions)
        box.panel.segment()
        box.end(box.result("x1/4"))
        assert len(box.jobs.questions) == asked + 1
        assert not box.panel.busy

    def test_a_process_that_waits_with_its_engines_is_faster_than_one_that_has_to_start(self, box: Panel) -> None:
        selection = box.panel._selection
        cold = selection.seconds(["x1/4"])
        box.jobs.warm = True
        warm = selection.seconds(["x1/4"])
        box.panel.segment()
        box.end(box.result("x1/4"))
        again, other = selection.seconds(["x1/4"]), selection.seconds(["x1/2"])
        assert cold is not None
        assert warm is not None
        assert again is not None
        assert other is not None
        assert again < warm < cold
        assert other >= warm, "the engines of another size are not there"

    def test_the_start_of_a_process_is_measured(self, box: Panel) -> None:
        before = box.panel._selection.seconds(["x1/4"])
        box.jobs.start_seconds = 9.0  # Slicer's Python on a slow disk
        box.choose(entropy=True)
        after = box.panel._selection.seconds(["x1/4"])
        assert before is not None
        assert after is not None
        assert after > before + 8

    def test_the_thread_ends_with_the_panel(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, later=True)
        box.choose(volume=mrml.volume_node(scan()))
        box.panel.shut_down()
        assert box.background.closed
        assert not box.panel.busy
