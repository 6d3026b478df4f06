"""Matrix products that stay in the thread that asks for them.

BLAS libraries compute a large product in threads of their own. Those wait for each other by turning in circles: where
several of our threads compute products, or another program takes one of the cores, a product takes up to a hundred
times as long. There is no portable call to forbid it, but all of them compute small products in one thread: so a large
one is asked for as many small ones, in a single call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MOST_MULTIPLICATIONS = 1 << 19
"""Of one small product. OpenBLAS was seen to start threads from a million on."""

Array = npt.NDArray[np.floating[Any]]


def multiply_columns(matrix: Array, values: Array, result: Array) -> None:
    """Write ``matrix @ values`` into ``result``, for every entry of the first axis.

    Args:
        matrix: (r, c), small.
        values: (n, c, length), contiguous along its last axis; the length may be large.
        result: (n, r, length), contiguous along its last axis; it may have another type.
    """
    rows, columns = matrix.shape
    batch, _, length = values.shape
    group = max(1, min(length, MOST_MULTIPLICATIONS // (rows * columns)))
    whole = length // group * group
    products = matrix @ values[:, :, :whole].reshape(batch, columns, -1, group).transpose(0, 2, 1, 3)
    result[:, :, :whole].reshape(batch, rows, -1, group)[...] = products.transpose(0, 2, 1, 3)
    if whole < length:
        result[:, :, whole:] = matrix @ values[:, :, whole:]


def multiply_rows(values: Array, matrix: Array, result: Array) -> None:
    """Write ``values @ matrix`` into ``result``.

    Args:
        values: (n, c), contiguous along its last axis; n may be large.
        matrix: (c, r), small.
        result: (n, r); it may have another type.
    """
    columns, rows = matrix.shape
    length = len(values)
    group = max(1, min(length, MOST_MULTIPLICATIONS // (rows * columns)))
    whole = length // group * group
    result[:whole] = (values[:whole].reshape(-1, group, columns) @ matrix).reshape(whole, rows)
    if whole < length:
        result[whole:] = values[whole:] @ matrix
