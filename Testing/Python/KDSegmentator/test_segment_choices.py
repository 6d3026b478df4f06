"""What can be chosen in the Segment box, and what stands in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.mrml.volumes import node_from_volume
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.segment_view import State
from support.generated_family import build_size
from support.mrml_scene import MrmlScene, placed
from support.segment_box import Panel, empty_box, scan


class TestChoices:
    def test_nothing_chosen(self, mrml: MrmlScene, packs: PackStore) -> None:
        panel = empty_box(mrml, packs).panel
        view = panel.view()
        assert panel.state is State.NO_VOLUME
        assert view.what == "Choose a volume."
        assert [(row.name, row.size) for row in view.qualities] == [
            ("Fast", "x1/4"),
            ("Balanced", "x1/2"),
            ("Best", "x1"),
        ]
        panel.segment()
        assert panel.state is State.NO_VOLUME

    def test_a_volume_is_enough(self, box: Panel) -> None:
        view = box.panel.view()
        assert box.panel.state is State.READY
        assert view.task == "generated"
        assert (view.tasks[0].title, view.tasks[0].facts) == ("Generated test pack", "MR · 3 structures")
        assert view.what == "3 structures, about 1 s on this computer"
        assert view.size == "x1/4"  # none is recommended: the smallest
        assert view.qualities[0].cells == ("about 1 s", "0.1 GB", "0.825 (n = 12)")
        assert [row.mark for row in view.qualities] == ["recommended", "", "suits this computer"]
        assert "Dice 0.825 (teacher 0.900), n = 12, Generated" in view.qualities[0].details
        assert "structure 1: Dice 0.825" in view.qualities[0].details
        assert [row.kept for row in view.labels] == [True] * 3

    def test_choices_are_kept(self, box: Panel) -> None:
        box.choose(size="x1/4", left_out=frozenset({"structure 2"}))
        view = box.panel.view()
        assert view.size == "x1/4"
        assert [row.kept for row in view.labels] == [True, False, True]
        box.choose(size="x1/8")  # from a saved scene of another machine
        assert box.panel.view().size == "x1/4"

    def test_the_reason_shows_whatever_was_said_before(self, box: Panel) -> None:
        box.panel.segment()
        box.end(box.result("x1/4"))
        box.choose(left_out=frozenset(f"structure {value}" for value in (1, 2, 3)))
        assert "Choose at least one" in box.panel.view().what
        box.choose(left_out=frozenset({"structure 1"}))
        assert box.panel.view().what.startswith("2 structures, about 1 s")

    def test_the_default_is_the_task_with_most_structures_and_stays(self, mrml: MrmlScene, tmp_path: Path) -> None:
        for task, count in (("a-few", 2), ("many", 3)):
            build_size(tmp_path / f"{task}-x1_4", "x1/4", task=task)
            manifest = tmp_path / f"{task}-x1_4" / "manifest.json"
            content = json.loads(manifest.read_text())
            content["field_of_view"] = {"smallest": [90.0] * 3, "largest": [99.0] * 3} if task == "many" else None
            manifest.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
            assert len(content["labels"]) >= count
        box = empty_box(mrml, PackStore(tmp_path / "none", tmp_path))
        box.choose(volume=mrml.volume_node(scan()))
        assert box.panel.view().task == "a-few", "the other one does not fit"
        box.choose(check_input=False)
        assert box.panel.view().task == "a-few", "it jumped"
        box.choose(check_input=True)
        assert box.panel.view().task == "a-few"

    def test_at_least_one_structure(self, box: Panel) -> None:
        box.choose(left_out=frozenset(f"structure {value}" for value in (1, 2, 3)))
        assert box.panel.state is State.NO_VOLUME
        assert "Choose at least one" in box.panel.view().what

    def test_a_task_that_does_not_fit_says_why(self, box: Panel) -> None:
        box.choose(volume=box.mrml.volume_node(scan(scale=400.0, shift=-1000.0), "CT"))
        view = box.panel.view()
        assert "looks like CT" in view.tasks[0].details
        assert view.what == view.tasks[0].details
        assert view.tasks[0].problem == "This task is made for MR"
        assert box.panel.state is State.NO_VOLUME
        box.choose(check_input=False)
        assert box.panel.state is State.READY

    def test_a_task_of_another_field_of_view_says_why(self, mrml: MrmlScene, tmp_path: Path) -> None:
        for task in ("generated", "other"):
            build_size(tmp_path / f"{task}-x1_4", "x1/4", task=task)
        manifest = tmp_path / "generated-x1_4" / "manifest.json"
        content = json.loads(manifest.read_text())
        content["field_of_view"] = {"smallest": [60.0, 10.0, 10.0], "largest": [80.0, 100.0, 100.0]}
        manifest.write_text(json.dumps(content))
        box = empty_box(mrml, PackStore(tmp_path / "none", tmp_path))
        box.choose(volume=mrml.volume_node(scan()))
        fitting, other = box.panel.view().tasks
        assert other.problem == "The volume is too small (20 mm left to right) for this task"
        assert other.details.startswith("The volume is too small (20 mm left to right) for this task")
        assert other.details.endswith("switch off “Check that the volume fits the task” under Advanced.")
        assert (fitting.problem, box.panel.view().task, box.panel.state) == ("", "other", State.READY)
        box.choose(task="generated")
        assert box.panel.view().what == other.details
        assert box.panel.state is State.NO_VOLUME
        box.choose(check_input=False)
        assert box.panel.state is State.READY
        assert [row.problem for row in box.panel.view().tasks] == ["", ""]

    def test_the_first_task_that_fits_is_taken(self, mrml: MrmlScene, tmp_path: Path) -> None:
        for task in ("generated", "other"):
            build_size(tmp_path / f"{task}-x1_4", "x1/4", task=task)
        manifest = tmp_path / "generated-x1_4" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"modality": "MR"', '"modality": "CT"'))
        box = empty_box(mrml, PackStore(tmp_path / "none", tmp_path))
        box.choose(volume=mrml.volume_node(scan()))
        assert [(row.task, bool(row.problem)) for row in box.panel.view().tasks] == [
            ("other", False),
            ("generated", True),
        ]
        assert box.panel.view().task == "other"
        assert [question.tasks for question in box.jobs.questions] == [("other",)]
        box.choose(task="generated")
        assert box.panel.view().task == "generated"
        assert box.panel.state is State.NO_VOLUME

    def test_estimates_do_not_hold_up_the_user(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, later=True)
        box.choose(volume=mrml.volume_node(scan()))
        assert box.panel.busy
        assert box.panel.state is State.READY
        assert box.panel.view().qualities[0].cells[0] == "…"
        box.settle()
        assert "about" in box.panel.view().qualities[0].cells[0]

    def test_a_run_before_the_estimates_takes_the_same_size(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, later=True)
        box.choose(volume=mrml.volume_node(scan()))
        box.panel.segment()
        assert box.start.requests[0].sizes == ("x1/4",)

    def test_estimates_of_another_volume_are_dropped(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, later=True)
        box.choose(volume=mrml.volume_node(scan(scale=400.0, shift=-1000.0)))
        box.choose(volume=mrml.volume_node(scan()))
        box.settle()
        assert box.panel.view().tasks[0].problem == ""
        assert len(box.jobs.questions) == 1

    def test_no_pack(self, mrml: MrmlScene, tmp_path: Path) -> None:
        box = empty_box(mrml, PackStore(tmp_path, tmp_path))
        box.choose(volume=mrml.volume_node(scan()))
        view = box.panel.view()
        assert box.panel.state is State.NO_VOLUME
        assert view.what == "No model is installed. Install one under Models."
        assert (view.task, view.size, view.qualities, view.labels) == ("", "", (), ())

    def test_a_damaged_pack_is_named(self, mrml: MrmlScene, tmp_path: Path) -> None:
        build_size(tmp_path / "generated-x1_4", "x1/4")
        (tmp_path / "generated-x1_4" / "body.onnx").unlink()
        box = empty_box(mrml, PackStore(tmp_path / "none", tmp_path))
        assert "generated-x1_4: " in box.panel.view().what
        assert "body.onnx is missing" in box.panel.view().what


class TestUnsuitableVolumes:
    """The reason is the tooltip; nothing is raised."""

    def check(self, box: Panel, node: Any, reason: str) -> None:
        box.choose(volume=node)
        assert box.panel.state is State.NO_VOLUME
        assert reason in box.panel.view().what
        box.panel.segment()
        assert not box.start.jobs

    def test_empty(self, box: Panel) -> None:
        self.check(box, box.mrml.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Lost"), "“Lost” is empty")

    def test_single_slice(self, box: Panel) -> None:
        node = box.mrml.volume_node(placed(np.ones((1, 9, 9), np.float32)), "Slice")
        self.check(box, node, "“Slice” is a single slice")

    def test_four_dimensions(self, box: Panel) -> None:
        node = box.mrml.scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Perfusion")
        self.check(box, node, "several values in every voxel")

    def test_label_map(self, box: Panel) -> None:
        node = node_from_volume(scan(), box.mrml.scene, name="GT", label_map=True)
        self.check(box, node, "“GT” is a label map")

    def test_non_linear_transform(self, box: Panel) -> None:
        node = box.mrml.volume_node(scan())
        box.mrml.bending_transform(node)
        self.check(box, node, "is under the non-linear transform “Warp”")

    def test_not_a_number(self, box: Panel) -> None:
        volume = scan()
        volume.voxels[3, 4, 5] = np.nan
        self.check(box, box.mrml.volume_node(volume), "NaN")

    def test_a_transform_that_is_set_later(self, box: Panel) -> None:
        box.mrml.bending_transform(box.inputs.volume)
        box.panel.segment()
        assert box.panel.state is State.FAILED
        assert "non-linear" in box.panel.view().message.text
        box.panel.volume_changed()
        assert box.panel.state is State.NO_VOLUME
