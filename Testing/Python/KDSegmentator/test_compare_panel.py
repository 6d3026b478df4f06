"""The Compare box without Qt, on real MRML."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs real MRML: pip install slicer-core")
import slicer

from KDSegmentatorLib.errors import SceneError
from KDSegmentatorLib.mrml.grids import numpy_matrix
from KDSegmentatorLib.mrml.label_maps import reference_volume
from KDSegmentatorLib.mrml.segmentations import segmentation_node
from KDSegmentatorPanel import compare_panel
from KDSegmentatorPanel.choices import PairView
from KDSegmentatorPanel.compare_panel import ComparePanel, suggested_pair
from KDSegmentatorPanel.slice_layouts import LEFT_VIEW, RIGHT_VIEW, Layouts, SliceLayouts, legend
from support.mrml_scene import RECORD, TILTED, MrmlScene, placed, segmentation_of
from support.panel_doubles import AtOnce

SHAPE = (8, 9, 10)


def blocks(shift: int = 0) -> np.ndarray[Any, Any]:
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[1:4, 1:4, 1 + shift : 4 + shift] = 1
    voxels[5:7, 5:7, 5:8] = 3
    return voxels


@pytest.fixture
def nodes(mrml: MrmlScene) -> list[Any]:
    """Return teacher and two students of one volume, in a scene with slice views."""
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(mrml.scene)
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal")):
        view = mrml.scene.CreateNodeByClass("vtkMRMLSliceNode")  # with the presets
        view.UnRegister(None)
        view.SetLayoutName(name)
        view.SetName(name)
        view.SetSingletonTag(name)
        mrml.scene.AddNode(view)
        view.SetOrientation(orientation)
        mrml.scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    volume = placed(np.zeros(SHAPE, np.int16), "RAS", TILTED)
    reference = mrml.volume_node(volume)
    found = []
    for size, shift in (("x1", 0), ("x1/2", 0), ("x1/4", 1)):
        segmentation = replace(
            segmentation_of(volume.with_voxels(blocks(shift))),
            record=replace(RECORD, size=size, seconds=RECORD.seconds | {"windows": 2.5 if size == "x1" else 0.5}),
        )
        found.append(segmentation_node(segmentation, reference, name=size))
    return found


def compared(*pair: Any) -> ComparePanel:
    panel = ComparePanel(AtOnce())
    panel.update(*pair)
    panel.compare()
    assert panel.poll()
    return panel


class TestCompare:
    def test_runs_on_one_volume_are_called_by_their_sizes(self, nodes: list[Any]) -> None:
        nodes[0].SetName("Scan of 12 March hippocampus x1")
        assert compared(nodes[0], nodes[2]).pairs[0].titles == ("x1", "x1/4")
        nodes[2].SetAttribute("KDSegmentator.size", "x1")
        assert compared(nodes[0], nodes[2]).pairs[0].titles == ("Scan of 12 March hippocampus x1", "x1/4")
        nodes[2].RemoveAttribute("KDSegmentator.size")  # drawn by hand
        assert compared(nodes[0], nodes[2]).pairs[0].titles == ("Scan of 12 March hippocampus x1", "x1/4")

    def test_two_segmentations(self, nodes: list[Any]) -> None:
        view = compared(nodes[0], nodes[2]).view()
        assert view.columns[4:6] == ("A (ml)", "B (ml)")
        assert [row.cells[0] for row in view.rows] == ["Anterior hippocampus", "Hippocampe postérieur", "Lesion"]
        shifted, same, absent = view.rows
        assert shifted.cells[1] == "0.667"
        assert shifted.position is not None
        assert same.cells[1:4] == ("1.000", "1.000", "0.00")
        assert same.position is None
        assert absent.cells[1:4] == ("-", "-", "-")
        assert absent.cells[6] == "-"
        assert view.summary.startswith("B x1/4 against A x1: Dice 0.833")
        assert view.summary.endswith("; the network alone took 0.5 s instead of 2.5 s"), "not what starting took"
        assert view.has_result

    def test_a_structure_of_one_only(self, nodes: list[Any]) -> None:
        nodes[1].GetSegmentation().GetSegment("Segment_3").SetName("Tail")
        view = compared(nodes[0], nodes[1]).view()
        cells = {row.cells[0]: row.cells for row in view.rows}
        assert cells["Tail"][1:4] == ("0.000", "0.000", "∞")
        assert cells["Hippocampe postérieur"][6] == "-100 %"

    def test_all_sizes_against_the_largest(self, nodes: list[Any]) -> None:
        panel = ComparePanel(AtOnce())
        panel.compare_all(nodes)
        panel.poll()
        assert [line.partition(":")[0] for line in panel.view().summary.splitlines()] == [
            "B x1/2 against A x1",
            "B x1/4 against A x1",
        ]

    def test_disagreements_are_visited_from_the_largest(self, nodes: list[Any]) -> None:
        nodes[2].GetSegmentation().GetSegment("Segment_3").SetName("Tail")
        panel = compared(nodes[0], nodes[2])
        rows = panel.view().rows
        sizes = {row.cells[0]: row.disagreement_ml for row in rows if row.position is not None}
        order = sorted(sizes, key=lambda name: -sizes[name])
        assert len(order) == panel.view().places == 3
        assert (panel.view().marked, panel.view().place) == (-1, "3 structures differ")
        visited = []
        for _ in range(4):
            position = panel.step(1)
            marked = rows[panel.view().marked]
            assert marked.position == position
            visited.append(marked.cells[0])
        assert visited == [*order, order[0]]
        panel.step(-1)
        assert panel.view().place.startswith(f"3 of 3: {order[-1]}, ")
        assert panel.mark(next(number for number, row in enumerate(rows) if row.position is None)) is None
        assert panel.view().marked == -1
        panel.mark(0)
        panel.compare()
        panel.poll()
        assert panel.view().marked == -1, "another comparison"

    def test_a_and_b_are_chosen_when_there_are_two_of_a_volume(self, mrml: MrmlScene, nodes: list[Any]) -> None:
        volume = reference_volume(nodes[0])
        teacher, half, quarter = nodes
        assert suggested_pair(nodes, volume) == (half, quarter), "the last two, the larger first"
        assert suggested_pair([quarter, teacher], volume) == (teacher, quarter)
        assert suggested_pair([quarter], volume) is None
        assert suggested_pair(nodes, mrml.volume_node(placed(np.zeros(SHAPE, np.int16)), "Other")) is None
        assert suggested_pair(nodes, None) is None
        half.RemoveAttribute("KDSegmentator.size")  # drawn by hand
        assert suggested_pair([half, teacher], volume) == (half, teacher)

    def test_the_table_is_kept_in_the_scene(self, mrml: MrmlScene, nodes: list[Any]) -> None:
        compared(nodes[0], nodes[2])
        table = mrml.scene.GetFirstNodeByName("x1 and x1/4")
        assert table.GetNumberOfRows() == 3

    def test_the_table_can_be_saved(self, nodes: list[Any], tmp_path: Path) -> None:
        panel = compared(nodes[0], nodes[2])
        panel.save(tmp_path / "comparison.csv")
        with (tmp_path / "comparison.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[0]["label_name"] == "Anterior hippocampus"
        panel.save(tmp_path / "missing" / "comparison.csv")
        assert panel.view().message.level == "error"

    def test_the_user_is_not_held_up(self, nodes: list[Any]) -> None:
        background = AtOnce(later=True)
        panel = ComparePanel(background)
        panel.update(nodes[0], nodes[2])
        panel.compare()
        assert panel.busy
        assert panel.view().progress.text == "comparing"
        assert not panel.view().enabled
        background.run()
        panel.poll()
        assert not panel.busy
        assert panel.view().has_result


class TestEnds:
    @pytest.mark.parametrize(
        ("pair", "reason"), [((0, None), "Choose two segmentations."), ((0, 0), "Choose two different segmentations.")]
    )
    def test_what_is_missing(self, nodes: list[Any], pair: tuple[int, int | None], reason: str) -> None:
        panel = ComparePanel(AtOnce())
        panel.update(*(None if each is None else nodes[each] for each in pair))
        assert (panel.view().enabled, panel.view().reason) == (False, reason)
        panel.compare()
        assert not panel.busy

    def test_cancel(self, nodes: list[Any]) -> None:
        background = AtOnce(later=True)
        panel = ComparePanel(background)
        panel.update(nodes[0], nodes[2])
        panel.compare()
        panel.cancel()
        background.run()
        panel.poll()
        assert panel.view().message.text == "Cancelled."
        assert not panel.view().has_result

    def test_segmentations_that_cannot_be_compared(self, mrml: MrmlScene, nodes: list[Any]) -> None:
        panel = ComparePanel(AtOnce())
        panel.update(nodes[0], mrml.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty"))
        panel.compare()
        assert not panel.busy
        assert panel.view().message.text.startswith("“Empty” has no segments")

    def test_one_that_is_removed_meanwhile(self, mrml: MrmlScene, nodes: list[Any]) -> None:
        background = AtOnce(later=True)
        panel = ComparePanel(background)
        panel.update(nodes[0], nodes[2])
        panel.compare()
        mrml.scene.RemoveNode(nodes[2])
        background.run()
        panel.poll()
        assert not panel.view().has_result

    def test_the_old_result_stays_until_there_is_a_new_one(self, mrml: MrmlScene, nodes: list[Any]) -> None:
        panel = compared(nodes[0], nodes[2])
        before = panel.pairs
        panel.update(nodes[0], mrml.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty"))
        panel.compare()
        assert panel.view().message.level == "error"
        assert panel.pairs == before
        panel.update(nodes[0], nodes[1])
        panel.compare()
        assert panel.pairs == before
        panel.poll()
        assert panel.pairs[0].second is nodes[1]

    def test_a_pair_is_forgotten_with_its_segmentations(
        self, mrml: MrmlScene, nodes: list[Any], tmp_path: Path
    ) -> None:
        panel = compared(nodes[0], nodes[2])
        mrml.scene.RemoveNode(nodes[2])
        assert not panel.view().has_result
        assert panel.view().summary == ""
        panel.save(tmp_path / "comparison.csv")
        assert not (tmp_path / "comparison.csv").exists()

    @pytest.mark.parametrize(
        ("where", "error", "text"),
        [
            ("comparable_pairs", MemoryError(), "not enough memory"),
            ("compare", MemoryError(), "not enough memory"),
            ("compare", ZeroDivisionError("by zero"), "by zero"),
            ("_add_table", MemoryError(), "not enough memory"),
        ],
    )
    def test_whatever_goes_wrong_is_said(
        self, nodes: list[Any], monkeypatch: pytest.MonkeyPatch, where: str, error: Exception, text: str
    ) -> None:
        def fail(*_arguments: object, **_options: object) -> None:
            raise error

        monkeypatch.setattr(compare_panel, where, fail)
        panel = ComparePanel(AtOnce())
        panel.update(nodes[0], nodes[2])
        panel.compare()
        panel.poll()
        assert text in panel.view().message.text
        assert not panel.busy

    def test_the_thread_ends_with_the_module(self, nodes: list[Any]) -> None:
        background = AtOnce()
        panel = ComparePanel(background)
        panel.close()
        assert not background.closed, "the scene was closed, not the module"
        panel.shut_down()
        assert background.closed

    def test_the_scene_is_closed(self, nodes: list[Any]) -> None:
        background = AtOnce(later=True)
        panel = ComparePanel(background)
        panel.update(nodes[0], nodes[2])
        panel.compare()
        panel.close()
        background.run()
        assert not panel.poll()
        assert not panel.view().has_result


class TestViews:
    @pytest.fixture
    def captions(self) -> dict[str, str]:
        return {}

    @pytest.fixture
    def layouts(self, captions: dict[str, str]) -> Layouts:
        state = [3]
        return Layouts(
            current=lambda: state[0],
            change=lambda number: state.__setitem__(0, number),
            side_by_side=29,
            caption=captions.__setitem__,
        )

    def shown(self, node: Any, view: str) -> bool:
        display = node.GetDisplayNode()
        return bool(display.GetVisibility() and display.IsDisplayableInView(view))

    def test_overlay(self, mrml: MrmlScene, nodes: list[Any], layouts: Layouts) -> None:
        pair = compared(nodes[0], nodes[2]).pairs[0]
        SliceLayouts(layouts).show(pair, PairView.OVERLAY)
        assert [self.shown(node, LEFT_VIEW) for node in nodes] == [True, False, True]
        assert nodes[0].GetDisplayNode().GetVisibility2DFill()
        assert not nodes[2].GetDisplayNode().GetVisibility2DFill()
        assert layouts.current() == 3
        composite = mrml.scene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
        assert composite.GetLinkedControl()

    def test_side_by_side_and_back(self, mrml: MrmlScene, nodes: list[Any], layouts: Layouts) -> None:
        pair = compared(nodes[0], nodes[2]).pairs[0]
        views = SliceLayouts(layouts)
        views.show(pair, PairView.SIDE_BY_SIDE)
        assert layouts.current() == 29
        assert [self.shown(nodes[0], view) for view in (LEFT_VIEW, RIGHT_VIEW)] == [True, False]
        assert [self.shown(nodes[2], view) for view in (LEFT_VIEW, RIGHT_VIEW)] == [False, True]
        assert mrml.scene.GetNodeByID(RIGHT_VIEW).GetOrientation() == "Axial"
        views.restore()
        assert layouts.current() == 3
        assert mrml.scene.GetNodeByID(RIGHT_VIEW).GetOrientation() == "Sagittal"
        assert self.shown(nodes[0], RIGHT_VIEW)

    def test_side_by_side_has_one_zoom(self, mrml: MrmlScene, nodes: list[Any], layouts: Layouts) -> None:
        """Also between views of different widths; Slicer gives them their sizes after the layout has changed."""
        left, right = (mrml.scene.GetNodeByID(view) for view in (LEFT_VIEW, RIGHT_VIEW))
        left.SetDimensions(300, 200, 1)
        left.SetFieldOfView(90.0, 60.0, 1.0)
        left.SetXYZOrigin(7.0, -3.0, 0.0)
        right.SetDimensions(100, 200, 1)
        right.SetFieldOfView(250.0, 500.0, 1.0)
        before = right.GetFieldOfView()
        views = SliceLayouts(layouts)
        views.show(compared(nodes[0], nodes[2]).pairs[0], PairView.SIDE_BY_SIDE)
        assert right.GetFieldOfView()[:2] == pytest.approx((30.0, 60.0))
        assert right.GetXYZOrigin() == left.GetXYZOrigin()
        right.SetDimensions(290, 200, 1)
        views.align()
        assert right.GetFieldOfView()[:2] == pytest.approx((87.0, 60.0))
        right.SetDimensions(100, 200, 1)
        views.restore()
        assert right.GetFieldOfView() == pytest.approx(before)
        views.align()
        assert right.GetFieldOfView() == pytest.approx(before), "too late"

    def test_captions_say_which_is_which(self, nodes: list[Any], layouts: Layouts, captions: dict[str, str]) -> None:
        pair = compared(nodes[0], nodes[2]).pairs[0]
        views = SliceLayouts(layouts)
        views.show(pair, PairView.SIDE_BY_SIDE)
        assert captions == {"Red": "A: x1", "Yellow": "B: x1/4"}
        views.show(pair, PairView.OVERLAY)
        assert set(captions.values()) == {"A: x1 (filled), B: x1/4 (outline)"}
        views.restore()
        assert captions == {"Red": "", "Yellow": ""}

    def test_the_legend_names_the_colours_of_a_disagreement(
        self, mrml: MrmlScene, nodes: list[Any], layouts: Layouts
    ) -> None:
        nodes[2].SetName("<b>drawn</b>")
        nodes[2].RemoveAttribute("KDSegmentator.size")
        pair = compared(nodes[0], nodes[2]).pairs[0]
        SliceLayouts(layouts).show(pair, PairView.DISAGREEMENT)
        text = legend(pair, PairView.DISAGREEMENT)
        assert "only in B (&lt;b&gt;drawn&lt;/b&gt;)" in text
        segments = mrml.scene.GetFirstNodeByName(
            f"Disagreement of {nodes[0].GetName()} and <b>drawn</b>"
        ).GetSegmentation()
        for number in range(3):
            red, green, blue = (round(255 * each) for each in segments.GetNthSegment(number).GetColor())
            assert f"color: #{red:02x}{green:02x}{blue:02x}" in text.split("<br>")[number]

    def test_a_tilted_view_is_taken_over(self, mrml: MrmlScene, nodes: list[Any], layouts: Layouts) -> None:
        left = mrml.scene.GetNodeByID(LEFT_VIEW)
        left.GetSliceToRAS().SetElement(0, 1, 0.25)
        left.UpdateMatrices()
        pair = compared(nodes[0], nodes[2]).pairs[0]
        SliceLayouts(layouts).show(pair, PairView.SIDE_BY_SIDE)
        assert mrml.scene.GetNodeByID(RIGHT_VIEW).GetSliceToRAS().GetElement(0, 1) == 0.25

    def test_disagreement(self, mrml: MrmlScene, nodes: list[Any], layouts: Layouts) -> None:
        pair = compared(nodes[0], nodes[2]).pairs[0]
        views = SliceLayouts(layouts)
        views.show(pair, PairView.DISAGREEMENT)
        node = mrml.scene.GetFirstNodeByName("Disagreement of x1 and x1/4")
        assert self.shown(node, LEFT_VIEW)
        assert not any(self.shown(each, LEFT_VIEW) for each in nodes)
        views.show(pair, PairView.OVERLAY)
        assert node.GetScene() is None
        views.restore()

    def test_checkerboard(self, mrml: MrmlScene, nodes: list[Any], layouts: Layouts) -> None:
        pair = compared(nodes[0], nodes[2]).pairs[0]
        views = SliceLayouts(layouts)
        views.show(pair, PairView.CHECKERBOARD)
        node = mrml.scene.GetFirstNodeByName("Checkerboard of x1 and x1/4")
        assert self.shown(node, LEFT_VIEW)
        assert not any(self.shown(each, LEFT_VIEW) for each in nodes)
        views.restore()
        assert node.GetScene() is None
        assert self.shown(nodes[0], LEFT_VIEW)

    def test_a_checkerboard_does_without_the_volume(self, mrml: MrmlScene, nodes: list[Any], layouts: Layouts) -> None:
        """It was made with the comparison."""
        panel = compared(nodes[0], nodes[2])
        mrml.scene.RemoveNode(reference_volume(nodes[0]))
        nodes[0].GetSegmentation().GetNthSegment(0).SetName("renamed")
        SliceLayouts(layouts).show(panel.pairs[0], PairView.CHECKERBOARD)
        assert mrml.scene.GetFirstNodeByName("Checkerboard of x1 and x1/4") is not None

    def test_without_a_main_window(self, nodes: list[Any]) -> None:
        pair = compared(nodes[0], nodes[2]).pairs[0]
        SliceLayouts(None).show(pair, PairView.SIDE_BY_SIDE)
        assert self.shown(nodes[2], RIGHT_VIEW)

    def test_a_pair_that_was_removed(self, mrml: MrmlScene, nodes: list[Any], layouts: Layouts) -> None:
        pair = compared(nodes[0], nodes[2]).pairs[0]
        mrml.scene.RemoveNode(nodes[0])
        with pytest.raises(SceneError, match="was removed"):
            SliceLayouts(layouts).show(pair, PairView.OVERLAY)

    @pytest.mark.parametrize("first", list(PairView))
    @pytest.mark.parametrize("then", list(PairView))
    def test_everything_is_put_back(
        self, mrml: MrmlScene, nodes: list[Any], layouts: Layouts, first: PairView, then: PairView
    ) -> None:
        """Also what the pair has nothing to do with."""
        displays = [node.GetDisplayNode() for node in nodes]
        displays[0].SetVisibility2DFill(False)
        displays[0].AddViewNodeID(RIGHT_VIEW)
        displays[2].SetVisibility(False)
        displays[2].SetVisibility2DOutline(False)
        composites = mrml.scene.GetNodesByClass("vtkMRMLSliceCompositeNode")
        composites.GetItemAsObject(1).SetLinkedControl(True)
        crosshair = mrml.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")

        def state() -> list[Any]:
            shown = [
                (
                    display.GetVisibility(),
                    display.GetVisibility2DFill(),
                    display.GetVisibility2DOutline(),
                    [display.GetNthViewNodeID(n) for n in range(display.GetNumberOfViewNodeIDs())],
                )
                for display in displays
            ]
            links = [composites.GetItemAsObject(n).GetLinkedControl() for n in range(2)]
            turned = numpy_matrix(mrml.scene.GetNodeByID(RIGHT_VIEW).GetSliceToRAS()).tolist()
            return [shown, links, layouts.current(), turned, mrml.ids(), crosshair.GetCrosshairMode()]

        pair = compared(nodes[0], nodes[2]).pairs[0]
        before = state()
        views = SliceLayouts(layouts)
        views.show(pair, first)
        assert views.pair is pair
        views.show(pair, then)
        crosshair.SetCrosshairMode(crosshair.ShowBasic)  # as going to a disagreement does
        assert state() != before
        views.restore()
        assert state() == before
        assert views.pair is None

    def test_the_rest_is_put_back_if_one_was_removed(self, mrml: MrmlScene, nodes: list[Any], layouts: Layouts) -> None:
        pair = compared(nodes[0], nodes[2]).pairs[0]
        views = SliceLayouts(layouts)
        views.show(pair, PairView.SIDE_BY_SIDE)
        mrml.scene.RemoveNode(nodes[0])
        views.restore()
        assert layouts.current() == 3
        assert self.shown(nodes[1], LEFT_VIEW)
        assert self.shown(nodes[2], LEFT_VIEW)
