from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from KDSegmentatorLib.analysis.comparison import compare
from KDSegmentatorLib.analysis.disagreement import checkerboard, disagreement_map
from KDSegmentatorLib.analysis.labels import TITLES, LabelMap, LabelPair, each_label, label_map, on_same_grid
from KDSegmentatorLib.analysis.surface_elements import reach
from KDSegmentatorLib.errors import CancelledError, GeometryError, InvalidSettingsError
from KDSegmentatorLib.geometry import Volume, matrix
from KDSegmentatorLib.inference.progress import Progress

SPACING = (0.5, 1.0, 3.0)  # i, j, k


def maps() -> tuple[LabelMap, LabelMap]:
    """Return label 1 in both, at a face of the array, label 2 in the first, label 4 in the second."""
    first, second = np.zeros((5, 6, 7), dtype=np.uint8), np.zeros((5, 6, 7), dtype=np.uint8)
    first[0, 1:3, 2:4] = 1
    second[0:2, 2:4, 6] = 1
    first[4, 5, 6] = 2
    second[3, 3, 3] = 4
    return label_map(Volume(first, SPACING)), label_map(Volume(second, SPACING))


def whole(pair: LabelPair) -> LabelPair:
    return pair


def test_the_masks_are_the_labels_in_the_box_of_both_with_a_border() -> None:
    first, second = maps()
    pairs = each_label(first, second, SPACING, [4, 1, 3, 2, 1], whole)
    assert list(pairs) == [4, 1, 2]  # in the order asked for, without the one that is in neither
    for value, pair in pairs.items():
        assert (pair.value, pair.spacing) == (value, SPACING[::-1])
        border = [voxels + 1 for voxels in reach(pair.spacing)]
        for mask, labels in ((pair.first, first), (pair.second, second)):
            assert mask.flags.c_contiguous
            found = np.argwhere(mask) + pair.corner
            np.testing.assert_array_equal(found, np.argwhere(labels.voxels == value))
        both = np.argwhere(pair.first | pair.second)
        np.testing.assert_array_equal(both.min(axis=0), border)
        np.testing.assert_array_equal(np.array(pair.first.shape) - 1 - both.max(axis=0), border)


@pytest.mark.parametrize("threads", [1, 3, None])
def test_any_number_of_threads_gives_the_same(threads: int | None) -> None:
    counts = each_label(*maps(), SPACING, [1, 2, 4], lambda pair: int(pair.first.sum()), threads=threads)
    assert counts == {1: 4, 2: 1, 4: 0}


def test_labels_are_worked_on_at_once() -> None:
    """Two labels that wait for each other."""
    meeting = threading.Barrier(2, timeout=20)
    each_label(*maps(), SPACING, [1, 2], lambda pair: meeting.wait(), threads=2)


def test_progress_counts_the_labels() -> None:
    seen: list[Progress] = []
    each_label(*maps(), SPACING, [1, 2, 3, 4], whole, threads=1, progress=seen.append)
    assert {step.stage for step in seen} == {"compare"}
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (0, 3, 3)


def test_cancelling_stops_before_the_next_label() -> None:
    begun: list[int] = []
    released = threading.Event()

    def work(pair: LabelPair) -> None:
        begun.append(pair.value)
        released.wait(timeout=20)

    def cancel() -> bool:
        released.set()
        return True

    with pytest.raises(CancelledError):
        each_label(*maps(), SPACING, [1, 2, 4], work, threads=1, cancel=cancel)
    assert len(begun) < 3


def test_an_error_of_one_label_is_raised() -> None:
    def work(pair: LabelPair) -> None:
        raise MemoryError(f"label {pair.value}")

    with pytest.raises(MemoryError, match="label 2"):
        each_label(*maps(), SPACING, [2], work)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: each_label(*maps(), SPACING, [1, 0], whole), "foreground"),
        (lambda: each_label(*maps(), SPACING, [-1], whole), "foreground"),
        (lambda: each_label(*maps(), SPACING, [1], whole, threads=0), "thread"),
    ],
)
def test_bad_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidSettingsError, match=message):
        call()


def test_the_message_has_both_grids() -> None:
    voxels = np.zeros((2, 3, 4), dtype=np.uint8)
    first, second = Volume(voxels, (1.0, 1.0, 1.0)), Volume(voxels, (1.0, 1.0, 1.25), (0.0, 0.0, -7.5))
    on_same_grid(first, first, TITLES)
    with pytest.raises(GeometryError) as caught:
        on_same_grid(first, second, ("a.nii", "b.nii"))
    message = str(caught.value)
    assert "a.nii (size 4 x 3 x 2, spacing 1 x 1 x 1 mm, origin (0, 0, 0) mm" in message
    assert "b.nii (size 4 x 3 x 2, spacing 1 x 1 x 1.25 mm, origin (0, 0, -7.5) mm" in message
    assert "resample" in message


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_the_same_voxels_in_another_axis_order_are_compared_exactly(codes: str) -> None:
    rng = np.random.default_rng(3)
    turn = matrix(Rotation.from_euler("xyz", (10, -20, 15), degrees=True).as_matrix())
    first = Volume(rng.integers(0, 3, size=(7, 9, 8)).astype(np.uint8), (1.0, 1.2, 2.5), (5.0, -3.0, 9.0), turn)
    other = first.with_voxels(rng.integers(0, 3, size=(7, 9, 8)).astype(np.uint8))
    plain, reordered = compare(first, other), compare(first, other.reoriented(codes))
    assert reordered == plain
    assert [label.dice for label in compare(first, first.reoriented(codes)).labels] == [1.0, 1.0]
    for make in (disagreement_map, checkerboard):
        made = make(first, other.reoriented(codes))
        assert made.same_grid(first)
        np.testing.assert_array_equal(made.voxels, make(first, other).voxels)
