from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from KDSegmentatorLib.engines.head import VoxelMaps, background_maps, read_off
from KDSegmentatorLib.errors import CancelledError, InsufficientMemoryError
from KDSegmentatorLib.inference import restoration as module
from KDSegmentatorLib.inference.axis_operator import AxisOperator
from KDSegmentatorLib.inference.resampling import axis_operators
from KDSegmentatorLib.inference.restoration import Restoration
from KDSegmentatorLib.packs.manifest import Resampling
from KDSegmentatorLib.packs.pack import Head

Array = npt.NDArray[np.float32]
Shape = tuple[int, int, int]

ROWS, FEATURES = 6, 3
HEAD = Head(
    np.random.default_rng(1).normal(size=(ROWS, FEATURES)).astype(np.float32),
    np.random.default_rng(2).normal(size=ROWS).astype(np.float32),
)
LINEAR = Resampling(order=1, order_z=0)


def random_values(channels: int, shape: Shape, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)


def whole_volume_logits(values: Array, after: Shape, order: int, head: Head | None) -> npt.NDArray[np.float64]:
    """Return the logits (labels, z, y, x) of all voxels: first the head, then scipy's resampling, in float64."""
    logits = values.astype(np.float64)
    if head is not None:
        logits = np.einsum("lf,fzyx->lzyx", head.weight.astype(np.float64), logits) + head.bias[:, None, None, None]
    factors = [new / old for new, old in zip(after, values.shape[1:], strict=True)]
    return np.stack([ndimage.zoom(each, factors, order=order, mode="nearest", grid_mode=True) for each in logits])


def restored(
    values: Array,
    after: Shape,
    slabs: Sequence[int],
    *,
    resampling: Resampling = LINEAR,
    head: Head | None = HEAD,
    threads: int = 1,
    entropy: bool = False,
) -> tuple[VoxelMaps, list[int]]:
    """Return the maps, and how many of their rows were finished after each slab.

    Args:
        values: (channels, z, y, x).
        after: (z, y, x).
        slabs: number of rows of each slab; the last one takes what is left.
        resampling: orders.
        head: as for :class:`Restoration`.
        threads: as well.
        entropy: whether it is wanted.
    """
    maps = background_maps(after, ROWS, entropy=entropy)
    finished = [0]
    memory = np.full_like(values[:, : max([*slabs, values.shape[1]])], np.nan)

    def count(rows: int) -> None:
        finished[-1] += rows

    operators = axis_operators(values.shape[1:], after, resampling, None)
    with Restoration(maps, operators, head, threads=threads, restored=count) as restoration:
        first = 0
        for rows in [*slabs, values.shape[1]]:
            rows = min(rows, values.shape[1] - first)
            if rows == 0:
                break
            slab = memory[:, :rows]  # as in the pipeline, the next slab takes the place of the last one
            slab[...] = values[:, first : first + rows]
            restoration.push(slab)
            first += rows
            finished.append(finished[-1])
    return maps, finished[:-1]


def assert_labels_of(labels: npt.NDArray[Any], logits: npt.NDArray[np.float64]) -> None:
    """Check the labels of all voxels, but for ties that float32 cannot tell apart."""
    best = np.sort(logits, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    assert clear.mean() > 0.99 or labels.size < 1000
    np.testing.assert_array_equal(labels[clear], logits.argmax(axis=0)[clear])


SHAPES = st.tuples(*[st.integers(1, 14)] * 3)


@settings(max_examples=100)
@given(
    before=SHAPES,
    after=SHAPES,
    slabs=st.lists(st.integers(1, 6), max_size=6),
    threads=st.integers(1, 3),
    late=st.booleans(),
    seed=st.integers(0, 100),
)
def test_slabs_give_what_the_whole_volume_gives(
    before: Shape, after: Shape, slabs: list[int], threads: int, late: bool, seed: int
) -> None:
    values = random_values(FEATURES if late else ROWS, before, seed)
    head = HEAD if late else None
    maps, finished = restored(values, after, slabs, head=head, threads=threads)
    assert_labels_of(maps.labels, whole_volume_logits(values, after, 1, head))
    assert finished[-1] == after[0]


@settings(max_examples=30)
@given(
    before=st.integers(2, 60),
    after=st.integers(1, 60),
    slabs=st.lists(st.integers(1, 9), max_size=20),
    order=st.sampled_from([0, 2, 3]),
)
def test_logits_can_be_resampled_with_any_order(before: int, after: int, slabs: list[int], order: int) -> None:
    values = random_values(ROWS, (before, 3, 4), before)
    maps, finished = restored(values, (after, 3, 5), slabs, head=None, resampling=Resampling(order=order, order_z=0))
    assert_labels_of(maps.labels, whole_volume_logits(values, (after, 3, 5), order, None))
    assert finished[-1] == after


def test_an_output_may_reach_further_back_than_the_one_before() -> None:
    """The slab ends where row 84 is not complete: it needs input 75 and on, but row 85 needs input 74."""
    values = random_values(ROWS, (114, 2, 2))
    (along_z, _, _) = axis_operators((114, 2, 2), (103, 2, 2), Resampling(order=3, order_z=0), None)
    assert along_z is not None
    assert along_z.inputs(84).start > along_z.inputs(85).start
    for cut in range(100, 114):
        maps, _ = restored(values, (103, 2, 2), [cut], head=None, resampling=Resampling(order=3, order_z=0))
        assert_labels_of(maps.labels, whole_volume_logits(values, (103, 2, 2), 3, None))


@pytest.mark.parametrize(("before", "after"), [((20, 9, 8), (20, 9, 8)), ((20, 9, 8), (20, 12, 7))])
def test_rows_are_finished_as_soon_as_their_planes_are_there(before: Shape, after: Shape) -> None:
    _, finished = restored(random_values(FEATURES, before), after, [1, 5, 7])
    assert finished == [1, 6, 13, 20]


def test_rows_between_two_planes_wait_for_the_second() -> None:
    """Output n of 10 from 5 lies at (n + 0.5) / 2 - 0.5: outputs 0 and 1 need planes 0 and 1, output 3 plane 2."""
    _, finished = restored(random_values(FEATURES, (5, 4, 4)), (10, 4, 4), [1, 1, 1, 1])
    assert finished == [1, 3, 5, 7, 10]


def test_rows_are_reported_one_after_the_other_and_never_twice() -> None:
    maps = background_maps((23, 6, 6), ROWS)
    counts: list[int] = []
    operators = axis_operators((17, 6, 6), (23, 6, 6), LINEAR, None)
    values = random_values(FEATURES, (17, 6, 6))
    with Restoration(maps, operators, HEAD, threads=2, restored=counts.append) as restoration:
        restoration.push(values[:, :9])
        restoration.push(values[:, 9:])
    assert sum(counts) == 23
    assert all(1 <= count <= 4 for count in counts)


def test_the_entropy_is_that_of_the_resampled_logits() -> None:
    values = random_values(FEATURES, (9, 8, 7))
    maps, _ = restored(values, (12, 10, 9), [4], entropy=True)
    logits = whole_volume_logits(values, (12, 10, 9), 1, HEAD)
    exponentials = np.exp(logits - logits.max(axis=0))
    probabilities = exponentials / exponentials.sum(axis=0)
    assert maps.entropy is not None
    np.testing.assert_allclose(maps.entropy, -(probabilities * np.log2(probabilities)).sum(axis=0), atol=1e-5)


def test_the_maps_may_be_a_part_of_larger_ones() -> None:
    values = random_values(FEATURES, (9, 8, 7))
    expected, _ = restored(values, (12, 8, 7), [4])
    whole = background_maps((14, 10, 11), ROWS)
    part = VoxelMaps(labels=whole.labels[1:13, 2:, 3:10])
    operators = axis_operators((9, 8, 7), (12, 8, 7), LINEAR, None)
    with Restoration(part, operators, HEAD, threads=2, restored=lambda _: None) as restoration:
        restoration.push(values)
    np.testing.assert_array_equal(whole.labels[1:13, 2:, 3:10], expected.labels)
    whole.labels[1:13, 2:, 3:10] = 0
    assert not whole.labels.any()


def test_memory_does_not_grow_with_the_volume() -> None:
    """No more planes are held than the next outputs need."""
    values = random_values(FEATURES, (60, 4, 4))
    maps = background_maps((75, 4, 4), ROWS)
    operators = axis_operators((60, 4, 4), (75, 4, 4), LINEAR, None)
    with Restoration(maps, operators, HEAD, threads=1, restored=lambda _: None) as restoration:
        for row in range(0, 60, 5):
            restoration.push(values[:, row : row + 5])
            assert len(restoration._planes) <= 2


# ---- too little memory ----


class Short:
    """Wraps a function that runs out of memory a number of times, and notes the threads it is called in."""

    def __init__(self, function: Any, failures: int) -> None:
        self._function = function
        self._failures = failures
        self._lock = threading.Lock()
        self.threads: list[int] = []

    def __call__(self, *arguments: Any) -> Any:
        with self._lock:
            self.threads.append(threading.get_ident())
            if self._failures > 0:
                self._failures -= 1
                raise MemoryError
        return self._function(*arguments)


@pytest.mark.parametrize("where", ["the head", "resampling a plane"])
def test_when_memory_is_short_it_goes_on_with_one_plane_at_a_time(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    values = random_values(FEATURES, (16, 8, 7))
    expected, _ = restored(values, (20, 10, 9), [5])
    if where == "the head":
        short = Short(read_off, 1)
        monkeypatch.setattr(module, "read_off", short)
    else:
        short = Short(AxisOperator.apply_to_plane, 1)
        # a function, so that it is bound to its operator
        monkeypatch.setattr(AxisOperator, "apply_to_plane", lambda self, *rest: short(self, *rest))
    maps, finished = restored(values, (20, 10, 9), [5], threads=3)
    np.testing.assert_array_equal(maps.labels, expected.labels)
    assert finished[-1] == 20
    here = threading.get_ident()
    assert short.threads[0] != here
    assert short.threads[-20:] == [here] * 20  # after what was under way with the first


@pytest.mark.parametrize(("threads", "calls"), [(1, 1), (3, None)])
def test_when_not_even_one_plane_fits_it_is_an_error(
    monkeypatch: pytest.MonkeyPatch, threads: int, calls: int | None
) -> None:
    short = Short(read_off, 1_000_000)
    monkeypatch.setattr(module, "read_off", short)
    with pytest.raises(InsufficientMemoryError, match="not enough memory to restore one plane of the result; close"):
        restored(random_values(FEATURES, (16, 8, 7)), (20, 10, 9), [5], threads=threads)
    assert calls is None or len(short.threads) == calls


def test_when_it_is_stopped_nothing_goes_on() -> None:
    maps = background_maps((20, 6, 6), ROWS)

    def stop(_: int) -> None:
        raise CancelledError("cancelled; nothing was written")

    operators = axis_operators((20, 6, 6), (20, 6, 6), LINEAR, None)
    with (
        pytest.raises(CancelledError),
        Restoration(maps, operators, HEAD, threads=2, restored=stop) as restoration,
    ):
        restoration.push(random_values(FEATURES, (20, 6, 6)))
    assert not maps.labels[4:].any()


def test_it_is_tried_again_only_when_nothing_else_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    here, lock = threading.get_ident(), threading.Lock()
    live, alone, failed = 0, list[bool](), False

    def slow(*arguments: Any) -> None:
        nonlocal live, failed
        again = threading.get_ident() == here
        with lock:
            live += 1
            fails, failed = not failed, True
            if again:
                alone.append(live == 1)
        try:
            if fails:
                raise MemoryError
            if not again:
                time.sleep(0.2)
            read_off(*arguments)
        finally:
            with lock:
                live -= 1

    monkeypatch.setattr(module, "read_off", slow)
    values = random_values(FEATURES, (12, 8, 7))
    maps, _ = restored(values, (12, 8, 7), [], threads=4)
    assert_labels_of(maps.labels, whole_volume_logits(values, (12, 8, 7), 1, HEAD))
    assert len(alone) == 12
    assert all(alone)


def test_planes_that_are_kept_are_copied_once() -> None:
    """From 20 rows to 2: the first output needs rows 4 and 5, the second one rows 14 and 15."""
    maps = background_maps((2, 4, 4), ROWS)
    operators = axis_operators((20, 4, 4), (2, 4, 4), Resampling(order=3, order_z=0), None)
    values = random_values(ROWS, (20, 4, 4))
    with Restoration(maps, operators, None, threads=1, restored=lambda _: None) as restoration:
        kept: list[Array] = []
        longest = 0
        for row in range(0, 20, 2):
            slab = values[:, row : row + 2].copy()
            restoration.push(slab)
            old, kept = kept, list(restoration._planes)
            assert all(any(plane is other for other in old) for plane in kept[:-2])
            longest = max(longest, len(kept))
            assert not any(np.shares_memory(plane, slab) for plane in kept)
    assert longest > 4
    assert_labels_of(maps.labels, whole_volume_logits(values, (2, 4, 4), 3, None))


def test_when_a_kept_plane_does_not_fit_it_is_an_error() -> None:
    class Large(np.ndarray):  # type: ignore[type-arg]
        """An array that cannot be copied."""

        def copy(self, order: Any = "C") -> Any:
            raise MemoryError(order)

    maps = background_maps((4, 4, 4), ROWS)
    operators = axis_operators((8, 4, 4), (4, 4, 4), LINEAR, None)
    with Restoration(maps, operators, HEAD, threads=2, restored=lambda _: None) as restoration:
        slab = random_values(FEATURES, (3, 4, 4)).view(Large)
        with pytest.raises(InsufficientMemoryError, match="not enough memory to keep a plane"):
            restoration.push(slab)
