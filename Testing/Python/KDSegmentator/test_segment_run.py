"""A run of the Segment box, from the request to the result in the scene."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as with_fields

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.errors import InsufficientMemoryError
from KDSegmentatorLib.inference.sanity import judge
from KDSegmentatorLib.jobs.messages import FailedSize, Log, Progressed, Started
from KDSegmentatorLib.mrml.results import ENTROPY_ROLE, STATISTICS_ROLE
from KDSegmentatorLib.mrml.volumes import volume_from_node
from KDSegmentatorPanel.result_view import result_view
from KDSegmentatorPanel.segment_view import State
from support.mrml_scene import affine
from support.segment_box import Panel, scan


class TestRun:
    def test_request(self, box: Panel) -> None:
        box.choose(
            size="x1/2",
            left_out=frozenset({"structure 2"}),
            engine="onnxruntime",
            precision="float32",
            threads=3,
            mirroring=True,
            entropy=True,
        )
        box.panel.segment()
        request = box.start.requests[0]
        assert request.sizes == ("x1/2",)
        settings = request.options
        assert (request.task, settings.labels) == ("generated", ("structure 1", "structure 3"))
        assert (settings.engine, settings.precision, settings.threads) == ("onnxruntime", "float32", 3)
        assert (settings.mirroring, settings.entropy, settings.check_input) == (True, True, True)
        assert (request.user_packs, request.shipped_packs) == (
            str(box.packs.user_folder),
            str(box.packs.shipped_folder),
        )

    def test_the_untouched_choices_leave_it_to_the_library(self, box: Panel) -> None:
        box.panel.segment()
        settings = box.start.requests[0].options
        assert (settings.labels, settings.threads, settings.engine) == ((), None, "auto")

    def test_a_linear_transform_is_respected(self, box: Panel) -> None:
        transform = box.mrml.linear_transform(affine((0, 0, 30), (5, 6, 7)), box.inputs.volume)
        box.panel.volume_changed()
        box.panel.segment()
        assert box.start.volumes[0].same_grid(volume_from_node(box.inputs.volume))
        box.end(box.result("x1"))
        node = box.panel.outcomes[0].nodes.segmentation
        assert node.GetParentTransformNode() is transform

    def test_progress_and_log(self, box: Panel) -> None:
        box.panel.segment()
        assert box.panel.state is State.RUNNING
        assert box.panel.view().progress.text == "almost done"
        box.end(
            Started(pid=7, version="0.1.0"),
            Log(level="info", message="reading"),
            Progressed(run=0, runs=1, stage="windows", done=5, total=8, seconds_left=2.0),
        )
        view = box.panel.view()
        assert 0.3 < view.progress.done / view.progress.total < 0.7
        assert "reading" in box.panel.log
        assert not box.panel.poll()

    def test_one_run_at_a_time(self, box: Panel) -> None:
        box.panel.segment()
        box.panel.segment()
        assert len(box.start.jobs) == 1

    def test_the_scene_is_untouched_until_the_result_is_there(self, box: Panel) -> None:
        before = box.mrml.ids()
        box.panel.segment()
        box.end(Started(pid=7, version="0.1.0"))
        assert box.mrml.ids() == before

    def test_result(self, box: Panel) -> None:
        box.choose(entropy=True)
        box.panel.segment()
        box.end(box.result("x1", entropy=True))
        assert box.panel.state is State.DONE
        assert not box.panel.busy
        nodes = box.panel.outcomes[0].nodes
        assert nodes.segmentation.GetName() == "T1 generated x1"
        assert nodes.segmentation.GetSegmentation().GetNumberOfSegments() == 3
        assert nodes.segmentation.GetNodeReference(STATISTICS_ROLE) is nodes.statistics
        assert nodes.segmentation.GetNodeReference(ENTROPY_ROLE) is nodes.entropy
        assert nodes.statistics.GetNumberOfRows() == 3
        assert box.panel.view().message.text == "Done in 3 s."
        assert "onnxruntime is exact" in box.panel.log

    def test_warnings_are_counted_and_listed_with_the_result(self, box: Panel) -> None:
        box.panel.segment()
        event = box.result("x1", labels=(1,))
        (result,) = event.results
        warnings = judge(result.segmentation.volume, result.segmentation.labels, box.pack("x1").manifest)
        warnings += tuple(replace(warnings[0], sentence=f"Odd {n}.") for n in range(4))
        record = replace(result.segmentation.record, warnings=warnings)
        warned = with_fields(result, segmentation=replace(result.segmentation, record=record))
        box.end(with_fields(event, results=(warned,)))
        message = box.panel.view().message
        assert message.level == "warning"
        assert message.text == "Done in 3 s. There are 5 warnings: read them below."
        shown = result_view(box.panel.outcomes[0].nodes.segmentation).warnings
        assert shown[0] == "Not found: structure 2, structure 3. Check what the volume shows of them."
        assert (len(shown), shown[-1]) == (5, "Odd 3.")

    def test_surfaces(self, box: Panel) -> None:
        import slicer

        logic = slicer.vtkSlicerSegmentationsModuleLogic()
        logic.SetMRMLScene(box.mrml.scene)  # registers the conversion to surfaces
        box.choose(surfaces=True)
        box.panel.segment()
        box.choose(surfaces=False)  # what was chosen at the start counts
        box.end(box.result("x1"))
        segments = box.panel.outcomes[0].nodes.segmentation.GetSegmentation()

        def made() -> list[bool]:
            return [segments.GetNthSegment(n).GetRepresentation("Closed surface") is not None for n in range(3)]

        assert box.panel.state is State.DONE
        assert box.panel.view().message.text == "Done in 3 s. Making the surfaces …"
        assert box.panel.poll()
        assert not any(made()), "the views would make all others at once, which freezes Slicer"
        assert box.panel.poll()
        assert all(made())
        assert box.panel.view().message.text == "Done in 3 s."
        assert not box.panel.busy
        del logic

    def test_the_volume_is_that_of_the_start(self, box: Panel) -> None:
        first = box.inputs.volume
        box.panel.segment()
        found = box.result("x1")
        box.choose(volume=box.mrml.volume_node(scan(), "Second"))
        assert box.panel.state is State.RUNNING
        box.end(found)
        assert box.panel.outcomes[0].nodes.segmentation.GetNodeReference("referenceImageGeometryRef") is first

    def test_another_volume_after_the_run(self, box: Panel) -> None:
        box.panel.segment()
        box.end(box.result("x1"))
        box.choose(volume=box.mrml.volume_node(scan(), "Second"))
        assert box.panel.state is State.READY
        assert box.panel.view().message.text == ""

    def test_several_sizes(self, box: Panel) -> None:
        box.choose(output=box.mrml.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine"))
        box.panel.segment(("x1", "x1/4"))
        assert box.start.requests[0].sizes == ("x1", "x1/4")
        box.end(box.result("x1", "x1/4"))
        names = [outcome.nodes.segmentation.GetName() for outcome in box.panel.outcomes]
        assert names == ["T1 generated x1", "T1 generated x1/4"]

    def test_a_size_that_failed_is_said(self, box: Panel) -> None:
        box.panel.segment(("x1", "x1/4"))
        failure = FailedSize(size="x1", error=InsufficientMemoryError("x1 needs more memory"))
        box.end(with_fields(box.result("x1/4"), failures=(failure,)))
        assert box.panel.state is State.DONE
        assert "x1 failed: X1 needs more memory" in box.panel.view().message.text

    def test_earlier_results_of_the_volume_are_hidden(self, box: Panel) -> None:
        for size in ("x1", "x1/4"):
            box.panel.segment()
            box.end(box.result(size))
            node = box.panel.outcomes[0].nodes.segmentation
            assert node.GetDisplayNode().GetVisibility()
            box.mrml.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine").CreateDefaultDisplayNodes()
        count = box.mrml.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
        nodes = [box.mrml.scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode") for n in range(count)]
        shown = [each.GetName() for each in nodes if each.GetDisplayNode().GetVisibility()]
        assert shown == ["Mine", "T1 generated x1/4", "Mine"]

    def test_a_repeated_comparison_replaces_what_nobody_edited(self, box: Panel) -> None:
        sizes = ("x1", "x1/4")
        box.panel.segment(sizes)
        box.end(box.result(*sizes))
        first, second = (outcome.nodes.segmentation for outcome in box.panel.outcomes)
        assert [node.GetDisplayNode().GetVisibility() for node in (first, second)] == [0, 1]
        second.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap").Modified()  # as if drawn into
        box.panel.segment(sizes)
        box.end(box.result(*sizes))
        again, other = (outcome.nodes.segmentation for outcome in box.panel.outcomes)
        assert again is first
        assert other is not second
        assert second.GetScene() is not None

    def test_voxels_that_change_during_the_run_are_said_first(self, box: Panel) -> None:
        box.panel.segment()
        found = box.result("x1/4")
        box.inputs.volume.GetImageData().Modified()
        box.end(found)
        assert box.panel.state is State.DONE
        assert box.panel.view().message.level == "warning"
        assert "as it was at the start" in result_view(box.panel.outcomes[0].nodes.segmentation).warnings[0]


class TestOutput:
    def test_an_existing_segmentation_is_replaced(self, box: Panel) -> None:
        box.panel.segment()
        box.end(box.result("x1", entropy=True))
        nodes = box.panel.outcomes[0].nodes
        node, old_table, old_map = nodes.segmentation, nodes.statistics, nodes.entropy
        box.choose(output=node, size="x1/4")
        assert box.panel.overwritten() == "T1 generated x1"
        box.panel.segment()
        box.end(box.result("x1/4", labels=(2,)))
        assert box.panel.outcomes[0].nodes.segmentation is node
        assert node.GetAttribute("KDSegmentator.size") == "x1/4"
        assert node.GetName() == "T1 generated x1/4"
        assert old_table.GetName() == "T1 generated x1/4 statistics"
        assert box.panel.outcomes[0].nodes.statistics is old_table
        assert old_map is not None
        assert old_map.GetScene() is not None
        assert node.GetNodeReference(ENTROPY_ROLE) is None

    def test_a_name_that_somebody_gave_stays(self, box: Panel) -> None:
        box.panel.segment()
        box.end(box.result("x1"))
        node = box.panel.outcomes[0].nodes.segmentation
        node.SetName("Follow-up")
        box.choose(output=node)
        box.panel.segment()
        box.end(box.result("x1/4"))
        assert node.GetName() == "Follow-up"

    def test_a_new_or_empty_one_overwrites_nothing(self, box: Panel) -> None:
        assert box.panel.overwritten() == ""
        box.choose(output=box.mrml.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine"))
        assert box.panel.overwritten() == ""

    def test_one_that_was_deleted_during_the_run(self, box: Panel) -> None:
        output = box.mrml.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
        box.choose(output=output)
        box.panel.segment()
        box.mrml.scene.RemoveNode(output)
        box.end(box.result("x1"))
        assert box.panel.state is State.DONE
        assert box.panel.outcomes[0].nodes.segmentation is not output
