from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from KDSegmentatorLib.machine import small_products
from KDSegmentatorLib.machine.small_products import Array, multiply_columns, multiply_rows

COUNTS = st.integers(1, 9)
LENGTHS = st.integers(1, 200)
LIMITS = st.sampled_from([1, 50, 700, 1 << 19])
"""Most multiplications: they cut products of the sizes above into many, with and without a rest, or not at all."""


def whole_numbers(*shape: int, kind: str = "float64") -> Array:
    """Return an array whose products are exact in whatever order they are added up."""
    return np.random.default_rng(sum(shape)).integers(-50, 50, size=shape).astype(kind)


@given(batch=st.integers(1, 4), rows=COUNTS, columns=COUNTS, length=LENGTHS, limit=LIMITS)
def test_columns(batch: int, rows: int, columns: int, length: int, limit: int) -> None:
    matrix, values = whole_numbers(rows, columns), whole_numbers(batch, columns, length)
    result = np.full((batch, rows, length), np.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_products, "MOST_MULTIPLICATIONS", limit)
        multiply_columns(matrix, values, result)
    np.testing.assert_array_equal(result, np.einsum("rc,ncl->nrl", matrix, values))


@given(rows=COUNTS, columns=COUNTS, length=LENGTHS, limit=LIMITS)
def test_rows(rows: int, columns: int, length: int, limit: int) -> None:
    matrix, values = whole_numbers(columns, rows), whole_numbers(length, columns)
    result = np.full((length, rows), np.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_products, "MOST_MULTIPLICATIONS", limit)
        multiply_rows(values, matrix, result)
    np.testing.assert_array_equal(result, np.einsum("lc,cr->lr", values, matrix))


@pytest.mark.parametrize("limit", [1, 60, 1 << 19])
def test_parts_of_larger_arrays(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """As resampling gives them: the rows and columns of a block, and a result of another type."""
    monkeypatch.setattr(small_products, "MOST_MULTIPLICATIONS", limit)
    matrix = whole_numbers(3, 4)
    values, result = whole_numbers(2, 9, 31), np.zeros((2, 8, 31), np.float32)
    multiply_columns(matrix, values[:, 2:6], result[:, 4:7])
    np.testing.assert_array_equal(result[:, 4:7], np.einsum("rc,ncl->nrl", matrix, values[:, 2:6]))
    assert not result[:, :4].any() and not result[:, 7:].any()

    lines, out = whole_numbers(31, 9), np.zeros((31, 8), np.float32)
    multiply_rows(lines[:, 2:6], matrix.T, out[:, 4:7])
    np.testing.assert_array_equal(out[:, 4:7], np.einsum("lc,rc->lr", lines[:, 2:6], matrix))
    assert not out[:, :4].any() and not out[:, 7:].any()


def test_no_product_is_larger_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Watched(np.ndarray):  # type: ignore[type-arg]
        """An array that notes how many multiplications each of its products needs."""

        def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Array, **named: object) -> object:
            plain = [np.asarray(each) for each in inputs]
            if ufunc is np.matmul:
                sizes.append(plain[0].shape[-2] * plain[0].shape[-1] * plain[1].shape[-1])
            return getattr(ufunc, method)(*plain, **named)

    monkeypatch.setattr(small_products, "MOST_MULTIPLICATIONS", 100)
    matrix, values = whole_numbers(3, 4), whole_numbers(2, 4, 50)
    multiply_columns(matrix.view(Watched), values, np.empty((2, 3, 50)))
    multiply_rows(values[0].T.copy(), matrix.T.view(Watched), np.empty((50, 3)))
    assert len(sizes) == 4  # the whole ones and the rest
    assert max(sizes) <= 100
