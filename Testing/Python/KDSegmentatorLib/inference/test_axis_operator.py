from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from KDSegmentatorLib.inference import axis_operator as module
from KDSegmentatorLib.inference.axis_operator import AxisOperator, axis_operator

LENGTHS = st.integers(1, 130)
"""Up to several blocks of rows, whose columns are a band of the matrix."""

ORDERS = st.sampled_from([0, 1, 3])


def reference(values: npt.NDArray[Any], after: int, order: int, axis: int, apart: bool) -> npt.NDArray[np.float64]:
    """Return what scipy makes of every line along an axis, in float64."""
    before = values.shape[axis]

    def line(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if apart:
            positions = (np.arange(after) + 0.5) * (before / after) - 0.5
            mapped: npt.NDArray[np.float64] = ndimage.map_coordinates(
                samples, positions[None], order=order, mode="nearest"
            )
            return mapped
        zoomed: npt.NDArray[np.float64] = ndimage.zoom(
            samples, after / before, order=order, mode="nearest", grid_mode=True
        )
        return zoomed

    return np.apply_along_axis(line, axis, values.astype(np.float64))


def random_values(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=80)
@given(
    before=LENGTHS,
    after=LENGTHS,
    others=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    axis=st.integers(0, 2),
    order=ORDERS,
    apart=st.booleans(),
    threads=st.integers(1, 3),
)
def test_an_axis_is_resampled_as_by_scipy(
    before: int, after: int, others: tuple[int, int], axis: int, order: int, apart: bool, threads: int
) -> None:
    shape = list(others)
    shape.insert(axis, before)
    values = random_values(*shape, seed=before)
    found = axis_operator(before, after, order, apart).apply(values, axis, threads=threads)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference(values, after, order, axis, apart), atol=1e-6)


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 4), LENGTHS, st.integers(1, 40)),
    after=LENGTHS,
    axis=st.sampled_from([1, 2]),
    order=ORDERS,
    apart=st.booleans(),
)
def test_a_plane_of_channels_is_resampled_the_same(
    shape: tuple[int, int, int], after: int, axis: int, order: int, apart: bool
) -> None:
    """In float32 and by other means, for speed."""
    values = random_values(*shape, seed=after)
    if axis == 2:
        values = np.ascontiguousarray(values.transpose(0, 2, 1))
    found = axis_operator(values.shape[axis], after, order, apart).apply_to_plane(values, axis)
    np.testing.assert_allclose(found, reference(values, after, order, axis, apart), atol=1e-5)


@settings(max_examples=60)
@given(before=LENGTHS, after=LENGTHS, order=ORDERS, apart=st.booleans())
def test_every_output_is_the_weighted_sum_of_its_inputs(before: int, after: int, order: int, apart: bool) -> None:
    """As restoring takes the rows of the first axis."""
    operator = axis_operator(before, after, order, apart)
    values = random_values(before, 3)
    found = np.stack([operator.weights(row) @ values[operator.inputs(row)] for row in range(after)])
    np.testing.assert_allclose(found, reference(values, after, order, 0, apart), atol=1e-5)
    inputs = [operator.inputs(row) for row in range(after)]
    assert all(0 <= touched.start < touched.stop <= before for touched in inputs)
    for row in range(after):
        assert operator.first_needed(row) == min(touched.start for touched in inputs[row:])


@pytest.mark.parametrize(("order", "widest"), [(0, 1), (1, 2), (3, 60)])
def test_what_is_next_to_nothing_is_left_out(order: int, widest: int) -> None:
    """A spline of order 3 reaches along the whole axis, but for a band it is below the rounding."""
    operator = axis_operator(400, 500, order, False)
    inputs = [operator.inputs(row) for row in range(500)]
    assert max(touched.stop - touched.start for touched in inputs) <= widest
    assert sum(block.weights.size for block in operator.blocks) < 400 * 500 / 3
    for block in operator.blocks:
        np.testing.assert_array_equal(block.weights, operator.matrix[block.rows, block.columns])
    covered = np.zeros((500, 400), bool)
    for block in operator.blocks:
        covered[block.rows, block.columns] = True
    assert covered[operator.matrix != 0].all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("threads", [1, 4])
def test_pieces_and_threads_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, axis: int, threads: int) -> None:
    values = random_values(41, 37, 43)
    operator = axis_operator(values.shape[axis], 70, 3, False)
    whole = operator.apply(values, axis)
    monkeypatch.setattr(module, "_PIECE_ELEMENTS", 5000)
    np.testing.assert_array_equal(operator.apply(values, axis, threads=threads), whole)


def test_views_with_any_strides() -> None:
    values = random_values(20, 30, 50).transpose(2, 0, 1)[::-1, ::2]
    for axis in range(3):
        operator = axis_operator(values.shape[axis], 33, 3, False)
        np.testing.assert_allclose(operator.apply(values, axis), reference(values, 33, 3, axis, False), atol=1e-6)


def test_sums_are_taken_in_float64() -> None:
    """Values that differ by less than float32 can add up around a large one."""
    values = (1e4 + random_values(64, 2, 2)).astype(np.float32)
    found = axis_operator(64, 100, 3, False).apply(values, 0)
    np.testing.assert_array_equal(found, reference(values, 100, 3, 0, False).astype(np.float32))


def test_it_stops_when_check_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the piece that is under way, not after all."""
    monkeypatch.setattr(module, "_PIECE_ELEMENTS", 1)
    done: list[int] = []
    apply_piece = AxisOperator._apply_piece

    def spy(self: AxisOperator, *arguments: Any) -> None:
        done.append(threading.get_ident())
        apply_piece(self, *arguments)

    monkeypatch.setattr(AxisOperator, "_apply_piece", spy)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        axis_operator(50, 60, 3, False).apply(random_values(50, 400, 50), 0, stop)
    assert 1 <= len(done) < 400


def test_a_failure_in_a_thread_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(AxisOperator, "_apply_piece", fail)
    with pytest.raises(MemoryError):
        axis_operator(5, 6, 1, False).apply(random_values(5, 5, 5), 0, threads=2)
