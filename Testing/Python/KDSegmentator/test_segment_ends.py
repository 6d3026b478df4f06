"""How runs of the Segment box end that have no result, and what is missing before them."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.errors import EngineUnavailableError, InsufficientMemoryError, JobError
from KDSegmentatorLib.jobs.messages import Failed, Progressed
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel import segment_panel, selection, surfaces
from KDSegmentatorPanel.segment_view import State
from support.mrml_scene import MrmlScene
from support.segment_box import Panel, empty_box, no_memory, scan


class TestEnds:
    def test_cancel(self, box: Panel) -> None:
        before = box.mrml.ids()
        box.panel.segment()
        box.panel.cancel()
        box.panel.cancel()
        assert box.panel.state is State.CANCELLING
        assert box.start.job.cancelled == 1
        box.end(Progressed(run=0, runs=1, stage="windows", done=5, total=8, seconds_left=2.0))
        assert box.panel.view().progress.text == "cancelling"
        box.start.job.end_cancelled()
        box.panel.poll()
        assert box.panel.state is State.READY
        assert box.panel.view().message.text == "Cancelled. The scene was not changed."
        assert box.mrml.ids() == before
        box.panel.segment()
        assert box.panel.state is State.RUNNING

    def test_a_batch_is_waited_for(self, box: Panel) -> None:
        box.panel.block("Wait until the batch has ended.")
        assert box.panel.view().what == "Wait until the batch has ended."
        box.panel.segment()
        assert box.panel.state is State.NO_VOLUME
        box.panel.block("")
        box.panel.segment()
        assert box.panel.state is State.RUNNING

    def test_failure(self, box: Panel) -> None:
        before = box.mrml.ids()
        box.panel.segment()
        box.end(Failed(error=JobError("the worker ended unexpectedly; segment again"), log=()))
        view = box.panel.view()
        assert box.panel.state is State.FAILED
        assert view.message.text == "The worker ended unexpectedly; segment again"
        assert view.message.level == "error"
        assert view.smaller is None
        assert box.mrml.ids() == before

    @pytest.mark.parametrize(("size", "offered"), [("x1", "x1/2"), ("x1/2", "x1/4"), ("x1/4", "")])
    def test_too_little_memory_offers_the_smaller_size(self, box: Panel, size: str, offered: str) -> None:
        box.choose(size=size)
        box.panel.segment()
        box.end(Failed(error=InsufficientMemoryError("too little memory"), log=()))
        assert getattr(box.panel.view().smaller, "size", "") == offered
        box.panel.segment()
        assert box.panel.view().smaller is None

    def test_too_little_memory_for_any_size(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, later=True)
        box.choose(volume=mrml.volume_node(scan()))
        box.panel.segment()  # auto
        box.end(Failed(error=InsufficientMemoryError("too little memory"), log=()))
        assert box.panel.view().smaller is None

    def test_engines_that_vanished(self, box: Panel) -> None:
        box.panel.segment()
        box.end(Failed(error=EngineUnavailableError("onnxruntime is not installed"), log=()))
        assert box.panel.state is State.FAILED
        assert box.panel.view().message.text == "Onnxruntime is not installed"

    def test_the_volume_is_removed_during_the_run(self, box: Panel) -> None:
        volume = box.inputs.volume
        box.panel.segment()
        box.mrml.scene.RemoveNode(volume)
        assert box.panel.poll()
        assert box.panel.state is State.CANCELLING
        box.start.job.end_cancelled()
        box.panel.poll()
        assert box.panel.state is State.FAILED
        assert box.panel.view().message.text == "The volume was removed during the run. Load it and segment again."

    def test_the_volume_is_moved_during_the_run(self, box: Panel) -> None:
        box.panel.segment()
        found = box.result("x1")
        before = box.mrml.ids()
        box.inputs.volume.SetOrigin(1, 2, 3)
        box.end(found)
        assert box.panel.state is State.FAILED
        assert "does not lie on the voxels of “T1”" in box.panel.view().message.text
        assert box.mrml.ids() == before

    def test_scene_or_module_are_closed(self, box: Panel) -> None:
        box.panel.segment()
        job = box.start.job
        box.panel.close("The run was cancelled because the scene was closed.")
        assert job.cancelled == 1
        box.panel.update()
        assert "scene was closed" in box.panel.view().message.text, "nobody would ever read it"
        job.events.append(box.result("x1"))
        assert not box.panel.poll()
        assert box.panel.outcomes == ()
        assert box.panel.busy, "the job's thread ends the worker, and in Slicer it runs only while somebody polls"
        job.running = False
        box.panel.poll()
        assert not box.panel.busy

    def test_the_application_is_closed(self, box: Panel) -> None:
        box.panel.segment()
        box.panel.shut_down()
        assert (box.start.job.cancelled, box.start.job.waited) == (1, 1)
        assert not box.panel.busy

    def test_closing_without_a_run_says_nothing(self, box: Panel) -> None:
        box.panel.close("The run was cancelled because the scene was closed.")
        assert box.panel.view().message.text == ""


class TestWhateverGoesWrong:
    def test_estimates(self, box: Panel) -> None:
        box.jobs.error = JobError("the worker ended")
        box.choose(mirroring=True)
        assert "The worker ended" in box.panel.view().message.text
        assert box.panel.state is State.READY, "a run may work all the same"
        assert not box.panel.busy
        box.panel.segment()
        assert box.panel.state is State.RUNNING

    def test_a_copy_for_the_estimates(self, box: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(selection, "volume_from_node", no_memory)
        box.choose(volume=box.mrml.volume_node(scan()))
        assert "not enough memory" in box.panel.view().message.text
        assert box.panel.state is State.READY

    @pytest.mark.parametrize("where", ["volume_from_node", "_start"])
    def test_the_start(self, box: Panel, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
        if where == "_start":
            monkeypatch.setattr(type(box.start), "__call__", no_memory)
        else:
            monkeypatch.setattr(segment_panel, where, no_memory)
        box.panel.segment()
        assert box.panel.state is State.FAILED
        assert "not enough memory" in box.panel.view().message.text

    def test_placing_the_result(self, box: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
        box.panel.segment()
        found = box.result("x1")
        monkeypatch.setattr(segment_panel, "place_result", no_memory)
        box.end(found)
        assert box.panel.state is State.FAILED
        assert "not enough memory" in box.panel.view().message.text
        assert not box.panel.busy

    def test_surfaces(self, box: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(surfaces, "layers_without_surfaces", no_memory)
        box.choose(surfaces=True)
        box.panel.segment()
        box.end(box.result("x1"))
        assert box.panel.poll()
        assert "not enough memory" in box.panel.view().message.text
        box.panel.poll()
        box.panel.poll()
        assert (box.panel.state, box.panel.busy) == (State.DONE, False)
