"""The Segment box without Qt: real packs and real MRML, injected jobs and packages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.advisor.speed import nominal_speed
from KDSegmentatorLib.errors import EngineUnavailableError, InsufficientMemoryError, JobError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.jobs.events import Failed, FailedSize, Log, Progressed, Segmented, Started
from KDSegmentatorLib.mrml.results import ENTROPY_ROLE, STATISTICS_ROLE
from KDSegmentatorLib.mrml.volumes import node_from_volume, volume_from_node
from KDSegmentatorLib.packs.catalogue import Family
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel.assessment import Assessment, Choices, assess
from KDSegmentatorPanel.choices import EngineChoice, Inputs, PrecisionChoice
from KDSegmentatorPanel.estimation import Answer, Question, estimate_here
from KDSegmentatorPanel.segment_panel import SegmentPanel
from KDSegmentatorPanel.state import State
from support.generated_family import build_size
from support.mrml_scene import TILTED, MrmlScene, affine, placed
from support.panel_doubles import AtOnce, FakePackages, FakeStart, size_result

SHAPE = (20, 24, 18)
CT_TASK = "zz-ct"


def assess_here(volume: Volume, families: Sequence[Family], choices: Choices, *, check_input: bool) -> Assessment:
    """Estimate in this process, for a machine of a fixed speed."""

    def estimate(question: Question) -> Answer:
        return estimate_here(question, lambda _candidate, _threads: replace(nominal_speed(4), measured=True))

    return assess(volume, families, choices, check_input=check_input, estimate=estimate)


def scan(scale: float = 100.0, shift: float = 0.0) -> Volume:
    voxels = np.random.default_rng(3).gamma(2, scale, size=SHAPE).astype(np.float32) + shift
    return placed(voxels.astype(np.float32), "RAS", TILTED, (1.1, 0.9, 1.7))


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> PackStore:
    folder = tmp_path_factory.mktemp("shipped")
    for size in ("x1", "x1/2", "x1/4"):
        build_size(folder / f"generated-{size.replace('/', '_')}", size)
    return PackStore(folder / "none", folder)


@dataclass
class Panel:
    """The panel and what is around it."""

    panel: SegmentPanel
    start: FakeStart
    packages: FakePackages
    background: AtOnce
    packs: PackStore
    mrml: MrmlScene
    inputs: Inputs

    def choose(self, **inputs: Any) -> None:
        self.inputs = replace(self.inputs, **inputs)
        self.panel.update(self.inputs)
        self.panel.poll()

    def pack(self, size: str = "x1/4") -> StudentPack:
        return self.packs.get(f"generated-{size.replace('/', '_')}")

    def result(self, *sizes: str, labels: tuple[int, ...] = (1, 2, 3), entropy: bool = False) -> Segmented:
        volume = volume_from_node(self.inputs.volume)
        found = tuple(size_result(self.pack(size), volume, labels=labels, entropy=entropy) for size in sizes)
        return Segmented(results=found, failures=())

    def end(self, *events: Any) -> None:
        self.start.job.events += events
        assert self.panel.poll()


@pytest.fixture
def box(mrml: MrmlScene, packs: PackStore) -> Panel:
    """Return a panel with a volume, ready to segment."""
    result = empty_box(mrml, packs)
    result.choose(volume=mrml.volume_node(scan()))
    return result


def empty_box(mrml: MrmlScene, packs: PackStore, *missing: str, later: bool = False, declines: bool = False) -> Panel:
    start, packages, background = FakeStart(), FakePackages(*missing, declines=declines), AtOnce(later=later)
    panel = SegmentPanel(packs=packs, start=start, assess=assess_here, background=background, packages=packages)
    return Panel(panel, start, packages, background, packs, mrml, Inputs())


class TestChoices:
    def test_nothing_chosen(self, mrml: MrmlScene, packs: PackStore) -> None:
        panel = empty_box(mrml, packs).panel
        view = panel.view()
        assert panel.state is State.NO_VOLUME
        assert view.controls.action_tooltip == view.message.text == "Choose a volume."
        assert [row.size for row in view.sizes] == ["x1", "x1/2", "x1/4"]
        panel.segment()
        assert panel.state is State.NO_VOLUME

    def test_a_volume_is_enough(self, box: Panel) -> None:
        view = box.panel.view()
        assert box.panel.state is State.READY
        assert view.task == "generated"
        assert view.tasks[0].title == "Generated test pack (MR)"
        assert view.size == "x1"  # the largest one that takes less than ten seconds
        assert view.sizes[0].text == "x1 (teacher) · about 1 s · 0.3 GB · advised"
        assert view.sizes[2].text == "x1/4 · about 1 s · 0.3 GB"
        assert "Dice 0.825 (teacher 0.900), n = 12, Generated" in view.sizes[2].tooltip
        assert "structure 1: Dice 0.825" in view.sizes[2].tooltip
        assert [row.kept for row in view.labels] == [True] * 3

    def test_choices_are_kept(self, box: Panel) -> None:
        box.choose(size="x1/4", left_out=frozenset({"structure 2"}))
        view = box.panel.view()
        assert view.size == "x1/4"
        assert [row.kept for row in view.labels] == [True, False, True]
        box.choose(size="x1/8")  # from a saved scene of another machine
        assert box.panel.view().size == "x1"

    def test_at_least_one_structure(self, box: Panel) -> None:
        box.choose(left_out=frozenset(f"structure {value}" for value in (1, 2, 3)))
        assert box.panel.state is State.NO_VOLUME
        assert "Choose at least one" in box.panel.view().controls.action_tooltip

    def test_a_task_that_does_not_fit_says_why(self, box: Panel) -> None:
        box.choose(volume=box.mrml.volume_node(scan(scale=400.0, shift=-1000.0), "CT"))
        view = box.panel.view()
        assert "looks like CT" in view.tasks[0].problem
        assert view.controls.action_tooltip == view.tasks[0].problem
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
        problem, none = (row.problem for row in box.panel.view().tasks)
        assert problem.startswith("The volume is too small (20 mm left to right) for the pack")
        assert problem.endswith("switch off “Check that the volume fits the task” under Advanced.")
        assert (none, box.panel.view().task, box.panel.state) == ("", "other", State.READY)
        box.choose(task="generated")
        assert box.panel.view().controls.action_tooltip == problem
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
        assert [bool(row.problem) for row in box.panel.view().tasks] == [True, False]
        assert box.panel.view().task == "other"
        box.choose(task="generated")
        assert box.panel.view().task == "generated"
        assert box.panel.state is State.NO_VOLUME

    def test_estimates_do_not_hold_up_the_user(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, later=True)
        box.choose(volume=mrml.volume_node(scan()))
        assert box.panel.busy
        assert box.panel.state is State.READY
        assert box.panel.view().sizes[0].text == "x1 (teacher)"
        box.background.run()
        assert box.panel.poll()
        assert not box.panel.busy
        assert "about" in box.panel.view().sizes[0].text

    def test_a_run_before_the_estimates_leaves_the_size_to_the_worker(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, later=True)
        box.choose(volume=mrml.volume_node(scan()))
        box.panel.segment()
        assert box.start.requests[0].sizes == ("auto",)

    def test_estimates_of_another_volume_are_dropped(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, later=True)
        box.choose(volume=mrml.volume_node(scan(scale=400.0, shift=-1000.0)))
        box.choose(volume=mrml.volume_node(scan()))
        box.background.run()
        box.panel.poll()
        assert box.panel.view().tasks[0].problem == ""

    def test_no_pack(self, mrml: MrmlScene, tmp_path: Path) -> None:
        box = empty_box(mrml, PackStore(tmp_path, tmp_path))
        box.choose(volume=mrml.volume_node(scan()))
        view = box.panel.view()
        assert box.panel.state is State.NO_VOLUME
        assert view.controls.action_tooltip == "No pack is installed. Install one under Packs."
        assert (view.task, view.size, view.sizes, view.labels) == ("", "", (), ())

    def test_a_damaged_pack_is_named(self, mrml: MrmlScene, tmp_path: Path) -> None:
        build_size(tmp_path / "generated-x1_4", "x1/4")
        (tmp_path / "generated-x1_4" / "body.onnx").unlink()
        box = empty_box(mrml, PackStore(tmp_path / "none", tmp_path))
        assert "generated-x1_4: " in box.panel.view().controls.action_tooltip
        assert "body.onnx is missing" in box.panel.view().controls.action_tooltip


class TestUnsuitableVolumes:
    """The reason is the tooltip; nothing is raised."""

    def check(self, box: Panel, node: Any, reason: str) -> None:
        box.choose(volume=node)
        assert box.panel.state is State.NO_VOLUME
        assert reason in box.panel.view().controls.action_tooltip
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


class TestRun:
    def test_request(self, box: Panel) -> None:
        box.choose(
            size="x1/2",
            left_out=frozenset({"structure 2"}),
            engine=EngineChoice.ONNXRUNTIME,
            precision=PrecisionChoice.FLOAT32,
            threads=3,
            mirroring=True,
            entropy=True,
        )
        box.panel.segment()
        request = box.start.requests[0]
        assert request.sizes == ("x1/2",)
        settings = request.settings
        assert (settings.task, settings.labels) == ("generated", ("structure 1", "structure 3"))
        assert (settings.engine, settings.precision, settings.threads) == ("onnxruntime", "float32", 3)
        assert (settings.mirroring, settings.entropy, settings.check_input) == (True, True, True)
        assert (settings.user_packs, settings.shipped_packs) == (
            str(box.packs.user_folder),
            str(box.packs.shipped_folder),
        )

    def test_the_untouched_choices_leave_it_to_the_library(self, box: Panel) -> None:
        box.panel.segment()
        settings = box.start.requests[0].settings
        assert (settings.labels, settings.threads, settings.engine) == (None, None, "auto")

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
        assert box.panel.view().progress.text == "starting"
        box.end(
            Started(pid=7, version="0.1.0"),
            Log(level="info", message="reading"),
            Progressed(run=0, runs=1, stage="windows", done=5, total=8, seconds_left=2.0),
        )
        view = box.panel.view()
        assert (view.progress.done, view.progress.total) == (5, 8)
        assert view.progress.text == "window 5 of 8 · 2 s left"
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
        assert box.panel.view().message.text == "x1: done in 3 s."
        assert "onnxruntime is exact" in box.panel.log

    def test_structures_that_were_not_found_are_said(self, box: Panel) -> None:
        box.panel.segment()
        box.end(box.result("x1", labels=(1,)))
        message = box.panel.view().message
        assert message.level == "warning"
        assert "x1 did not find: structure 2, structure 3." in message.text

    def test_surfaces(self, box: Panel) -> None:
        import slicer

        logic = slicer.vtkSlicerSegmentationsModuleLogic()
        logic.SetMRMLScene(box.mrml.scene)  # registers the conversion to surfaces
        box.choose(surfaces=True)
        box.panel.segment()
        box.choose(surfaces=False)  # what was chosen at the start counts
        box.end(box.result("x1"))
        segments = box.panel.outcomes[0].nodes.segmentation.GetSegmentation()
        assert segments.ContainsRepresentation("Closed surface")
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
        box.end(replace(box.result("x1/4"), failures=(failure,)))
        assert box.panel.state is State.DONE
        assert "x1 failed: X1 needs more memory" in box.panel.view().message.text


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
        assert node.GetName() == "T1 generated x1"
        assert box.panel.outcomes[0].nodes.statistics is old_table
        assert old_map is not None
        assert old_map.GetScene() is not None
        assert node.GetNodeReference(ENTROPY_ROLE) is None

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

    def test_failure(self, box: Panel) -> None:
        before = box.mrml.ids()
        box.panel.segment()
        box.end(Failed(error=JobError("the worker ended unexpectedly; segment again"), log=()))
        view = box.panel.view()
        assert box.panel.state is State.FAILED
        assert view.message.text == "The worker ended unexpectedly; segment again"
        assert view.message.level == "error"
        assert view.controls.action_enabled
        assert view.smaller == ""
        assert box.mrml.ids() == before

    @pytest.mark.parametrize(("size", "offered"), [("x1", "x1/2"), ("x1/2", "x1/4"), ("x1/4", "")])
    def test_too_little_memory_offers_the_smaller_size(self, box: Panel, size: str, offered: str) -> None:
        box.choose(size=size)
        box.panel.segment()
        box.end(Failed(error=InsufficientMemoryError("too little memory"), log=()))
        assert box.panel.view().smaller == offered
        box.panel.segment()
        assert box.panel.view().smaller == ""

    def test_too_little_memory_for_any_size(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, later=True)
        box.choose(volume=mrml.volume_node(scan()))
        box.panel.segment()  # auto
        box.end(Failed(error=InsufficientMemoryError("too little memory"), log=()))
        assert box.panel.view().smaller == ""

    def test_engines_that_vanished(self, box: Panel) -> None:
        box.panel.segment()
        box.packages._missing = ("onnxruntime>=1.23",)
        box.end(Failed(error=EngineUnavailableError("onnxruntime is not installed"), log=()))
        assert box.panel.state is State.PACKAGES_MISSING

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
        assert "scene was closed" in box.panel.view().message.text
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


class TestPackages:
    def test_they_are_installed_on_request_only(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, "onnxruntime>=1.23", "openvino>=2025.4")
        box.choose(volume=mrml.volume_node(scan()))
        view = box.panel.view()
        assert box.panel.state is State.PACKAGES_MISSING
        assert view.controls.install_shown
        assert view.message.text == "Install the missing packages first: onnxruntime>=1.23, openvino>=2025.4."
        assert "about" in view.sizes[0].text  # the estimates need no engine
        box.panel.segment()
        assert not box.start.jobs
        assert not box.packages.installed_from
        box.panel.install_packages()
        assert box.packages.installed_from == [None]
        assert box.panel.state is State.READY
        assert box.panel.busy, "what was a guess without an engine is estimated again"

    def test_from_a_folder(self, mrml: MrmlScene, packs: PackStore, tmp_path: Path) -> None:
        box = empty_box(mrml, packs, "onnxruntime>=1.23")
        box.panel.install_packages(tmp_path)
        assert box.packages.installed_from == [tmp_path]

    def test_declined(self, mrml: MrmlScene, packs: PackStore) -> None:
        box = empty_box(mrml, packs, "onnxruntime>=1.23", declines=True)
        box.choose(volume=mrml.volume_node(scan()))
        box.panel.install_packages()
        assert box.panel.state is State.PACKAGES_MISSING
        assert "were not installed" in box.panel.view().message.text
