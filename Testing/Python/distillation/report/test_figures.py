from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("matplotlib", reason="install the extra 'distill'")

import distillation.report.qualitative as module
from distillation.evaluation.paired_statistics import summarise
from distillation.evaluation.scores import SurfaceSettings
from distillation.report.plots import accuracy_plot, difference_plot, label_plot, training_plot
from distillation.report.qualitative import Column, qualitative_figure
from distillation.report.task_results import TaskResults
from distillation.report.write import median_case
from distillation.training_log import TrainingCurves
from KDSegmentatorLib.analysis.planes import planes
from KDSegmentatorLib.errors import GeometryError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.packs.manifest import Code, Label, Terminology
from support.scores import score

THING = Code(scheme="SCT", value="1", meaning="Thing")
LABELS = [
    Label(value=value, name=f"Part {value}", color=color, terminology=Terminology(category=THING, type=THING))
    for value, color in ((1, (230, 159, 0)), (2, (86, 180, 233)))
]


def scan(axis_codes: str) -> tuple[Volume, Volume, Volume]:
    """Return image, reference and a student that misses what is left, anterior and superior of the patient's middle."""
    shape = (24, 30, 20)  # LPS: z, y, x
    image = Volume(np.random.default_rng(0).normal(100, 10, shape).astype(np.float32), (1.0, 1.0, 1.0))
    reference = np.zeros(shape, dtype=np.uint8)
    reference[8:16, 10:20, 6:14] = 1
    student = reference.copy()
    student[14:16, 10:12, 12:14] = 0
    found = (image, image.with_voxels(reference), image.with_voxels(student))
    first, second, third = (volume.reoriented(axis_codes) for volume in found)
    return first, second, third


@pytest.mark.parametrize("axis_codes", ["LPS", "RAS", "SPR", "AIL"])
def test_the_patients_left_is_on_the_right(axis_codes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, Any]] = []
    original: Callable[..., None] = module._draw

    def watched(axes: Any, view: Any, *arguments: Any) -> None:
        original(axes, view, *arguments)
        drawn.append((axes, view))

    monkeypatch.setattr(module, "_draw", watched)
    image, reference, student = scan(axis_codes)
    missed = reference.with_voxels((reference.voxels != student.voxels).astype(np.uint8))
    monkeypatch.setattr(module, "planes", cut_through(missed))
    columns = [Column(title="reference", segmentation=reference), Column(title="student", segmentation=student)]
    picture = qualitative_figure(image, columns, LABELS, case="c", chosen="the only one", modality="MR")
    assert Image.open(BytesIO(picture.content)).mode == "RGBA"
    assert [view.name for _, view in drawn] == ["Coronal"] * 2 + ["Sagittal"] * 2 + ["Axial"] * 2
    for axes, view in drawn:
        left, right = axes.get_xlim()
        bottom, top = axes.get_ylim()
        assert left < right
        assert bottom > top  # row 0 is on top
        letters = [text.get_text() for text in axes.texts]
        assert letters == list(view.edges)
        layer = axes.images[1].get_array()
        label = np.argwhere(layer[..., 3] > 0)
        magenta = np.argwhere((layer[..., :3] == (1, 0, 1)).all(axis=-1) & (layer[..., 3] > 0))
        if axes in [each for each, _ in drawn[::2]]:
            assert len(magenta) == 0  # the reference does not differ from itself
            continue
        (row, column), (middle_row, middle_column) = magenta.mean(axis=0), label.mean(axis=0)
        # L is on the right and A on top of the axial picture, S on top of the others, A on the left of the sagittal one
        assert row < middle_row
        assert (column < middle_column) if view.name == "Sagittal" else (column > middle_column)


def cut_through(corner: Volume) -> Callable[[Volume, Volume], Any]:
    """Return ``planes`` that go through a corner: only there the codes have most labelled voxels."""
    k, j, i = np.argwhere(corner.reoriented("LPS").voxels)[0]

    def cut(scan: Volume, codes: Volume) -> Any:
        codes = codes.reoriented("LPS")
        only = np.zeros_like(codes.voxels)
        for place in ((k,), (slice(None), j), (slice(None), slice(None), i)):
            only[place] = codes.voxels[place]
        return planes(scan.reoriented("LPS"), codes.with_voxels(only))

    return cut


def test_a_segmentation_on_another_grid_is_refused() -> None:
    image, reference, _ = scan("LPS")
    other = Volume(reference.voxels, (1.0, 1.0, 2.0))
    with pytest.raises(GeometryError, match="student: the segmentation is not on the grid of c"):
        columns = [Column(title="reference", segmentation=reference), Column(title="student", segmentation=other)]
        qualitative_figure(image, columns, LABELS, case="c", chosen="the only one", modality="CT")


@pytest.fixture
def results() -> TaskResults:
    models = ("x1 teacher", "x1/4 plain", "x1/4 logit")
    rows = tuple(
        score(model=model, case=f"c{case}", label=label, dice=0.7 + 0.02 * n + 0.01 * case + 0.03 * label)
        for n, model in enumerate(models)
        for case in range(5)
        for label in (1, 2)
    )
    return TaskResults(
        task="t",
        title="T",
        dataset="D",
        split="S",
        surface=SurfaceSettings(),
        labels={1: "Front", 2: "Back"},
        seeds=(0,),
        models=models,
        scores=(rows,),
        efficiency=(),
    )


def test_plots_are_drawn_the_same_every_time(results: TaskResults) -> None:
    logs = {"x1/4 plain": TrainingCurves(epochs=(0, 1), curves={"loss": (1.0, 0.5), "logit": (0.2, 0.1)})}
    for draw in (lambda: difference_plot(results), lambda: label_plot(results), lambda: training_plot(logs)):
        first, second = draw(), draw()
        assert first is not None
        assert first == second
        assert ElementTree.fromstring(first.content).tag.endswith("svg")


def test_the_case_shown_is_the_median_of_the_networks_shown() -> None:
    nan = math.nan
    tables = {
        "x1/4 plain": {"a": 0.9, "b": 0.5, "c": 0.8, "d": nan, "e": nan},
        "x1/4 logit": {"a": 0.5, "b": 0.6, "c": 0.8, "d": nan, "e": 0.0},
    }
    shown = [
        summarise(model, [score(model=model, case=case, dice=dice) for case, dice in table.items()])
        for model, table in tables.items()
    ]
    # means: a 0.7, b 0.55, c 0.8; d is empty for both, e is rightly empty for plain: 0.5
    assert median_case(shown) == ("a", 4)
    assert median_case(shown[:1]) == ("c", 3)


def test_what_is_not_known_is_not_drawn(results: TaskResults) -> None:
    assert accuracy_plot(results) is None  # no parameters
    assert training_plot({}) is None
