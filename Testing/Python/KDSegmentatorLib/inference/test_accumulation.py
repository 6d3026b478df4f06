from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.engines.engine import Engine
from KDSegmentatorLib.errors import CancelledError, EngineError
from KDSegmentatorLib.inference.accumulation import blended_slabs
from KDSegmentatorLib.inference.progress import Progress, Steps
from KDSegmentatorLib.inference.windows import gaussian_weights, mirrored_axes, padding, window_starts
from KDSegmentatorLib.packs.manifest import Precision
from KDSegmentatorLib.packs.pack import Head

Array = npt.NDArray[np.float32]
Shape = tuple[int, int, int]

FEATURES = 3
HEAD = Head(np.array([[1, 2, -1], [0, 1, 3]], np.float32), np.array([0.5, -1], np.float32))


class Ramps:
    """An engine whose features tell where in a window, and in which window, a voxel lies; its memory is used again."""

    name = "ramps"
    device = "cpu"
    precision: Precision = "float32"

    def __init__(self) -> None:
        self.calls = 0
        self._memory: Array | None = None

    def run(self, windows: Array, cancelled: Callable[[], bool]) -> Array:
        if cancelled():
            raise CancelledError("cancelled; nothing was written")
        self.calls += 1
        assert windows.flags.c_contiguous
        features = self.features(windows[0, 0])[None]
        if self._memory is None:
            self._memory = features
        self._memory[...] = features
        return self._memory

    @staticmethod
    def features(window: Array) -> Array:
        """Return features (3, z, y, x) of a window (z, y, x)."""
        z, y, x = (np.linspace(1, 2, length, dtype=np.float32) for length in window.shape)
        return np.stack([window, window * z[:, None, None] * y[:, None], np.tanh(window) + x + window.mean()])


class Broken(Ramps):
    """An engine that gives something else from a call on."""

    def __init__(self, output: Callable[[Array], Array], after: int = 0) -> None:
        super().__init__()
        self._output = output
        self._after = after

    def run(self, windows: Array, cancelled: Callable[[], bool]) -> Array:
        features = super().run(windows, cancelled)
        return features if self.calls <= self._after else self._output(features.copy())


def blended(
    image: Array,
    patch: Shape,
    *,
    engine: Engine | None = None,
    step: float = 0.5,
    mirroring: tuple[int, ...] = (),
    head: Head | None = None,
    threads: int = 1,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Array]:
    """Yield copies of the slabs."""
    padded = [n + low + high for n, (low, high) in zip(image.shape, padding(image.shape, patch), strict=True)]
    starts = window_starts(padded, patch, step)
    mirrorings = mirrored_axes(mirroring)
    for slab in blended_slabs(
        image,
        engine or Ramps(),
        patch_size=patch,
        starts=starts,
        mirrorings=mirrorings,
        features=FEATURES,
        early_head=head,
        steps=Steps("windows", len(starts) * len(mirrorings), progress, cancel),
        threads=threads,
    ):
        yield slab.copy()


def naive(
    image: Array, patch: Shape, *, step: float = 0.5, mirroring: tuple[int, ...] = (), head: Head | None = None
) -> npt.NDArray[np.float64]:
    """Return the mean of all windows, with arrays of the whole volume, in float64."""
    pads = padding(image.shape, patch)
    padded = np.pad(image, pads)
    weights = gaussian_weights(patch).astype(np.float64)
    rows = FEATURES if head is None else len(head.bias)
    sums, total = np.zeros((rows, *padded.shape)), np.zeros(padded.shape)
    for start in window_starts(padded.shape, patch, step):
        box = tuple(slice(first, first + length) for first, length in zip(start, patch, strict=True))
        outputs = []
        for flips in product(*[(False, True) if axis in mirroring else (False,) for axis in range(3)]):
            axes = tuple(axis for axis, flip in enumerate(flips) if flip)
            features = Ramps.features(np.ascontiguousarray(np.flip(padded[box], axes))).astype(np.float64)
            if head is not None:
                features = np.einsum("lf,fzyx->lzyx", head.weight, features) + head.bias[:, None, None, None]
            outputs.append(np.flip(features, [axis + 1 for axis in axes]))
        sums[(slice(None), *box)] += weights * np.mean(outputs, axis=0)
        total[box] += weights
    inside = tuple(slice(low, low + n) for (low, _), n in zip(pads, image.shape, strict=True))
    return (sums / total)[(slice(None), *inside)]


def random_image(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=80)
@given(
    shape=st.tuples(*[st.integers(3, 22)] * 3),
    patch=st.tuples(*[st.integers(4, 12)] * 3),
    step=st.sampled_from([0.25, 0.5, 0.8, 1.0]),
    mirroring=st.sampled_from([(), (0,), (1, 2), (0, 1, 2)]),
    early=st.booleans(),
    threads=st.integers(1, 3),
)
def test_rolling_slabs_equal_the_whole_volume(
    shape: Shape, patch: Shape, step: float, mirroring: tuple[int, ...], early: bool, threads: int
) -> None:
    image = random_image(*shape)
    head = HEAD if early else None
    slabs = list(blended(image, patch, step=step, mirroring=mirroring, head=head, threads=threads))
    found = np.concatenate(slabs, axis=1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive(image, patch, step=step, mirroring=mirroring, head=head), atol=2e-5)


def test_rows_that_no_later_window_touches_are_handed_on_at_once() -> None:
    """Windows of 8 rows in steps of 4: each step finishes 4 rows, the last window all of its own."""
    assert [slab.shape[1] for slab in blended(random_image(20, 9, 9), (8, 8, 8))] == [4, 4, 4, 8]


def test_the_next_windows_are_run_only_after_the_slab_was_taken() -> None:
    engine = Ramps()
    slabs = blended(random_image(20, 9, 9), (8, 8, 8), engine=engine)
    calls = []
    for _ in slabs:
        calls.append(engine.calls)
    assert calls == [4, 8, 12, 16]


def test_the_same_memory_serves_all_slabs() -> None:
    image, patch = random_image(40, 9, 9), (8, 8, 8)
    starts = window_starts(image.shape, patch, 0.5)
    first = None
    for slab in blended_slabs(
        image,
        Ramps(),
        patch_size=patch,
        starts=starts,
        mirrorings=[()],
        features=FEATURES,
        early_head=None,
        steps=Steps("windows", len(starts), None, None),
    ):
        first = slab if first is None else first
        assert np.shares_memory(slab, first)


def test_windows_of_one_value_are_run_once_and_counted_all() -> None:
    """As the air of a CT after clipping; a window of another value is another window."""
    image = np.full((32, 8, 8), -1, np.float32)
    image[20:] = 2
    engine, reports = Ramps(), list[Progress]()
    found = np.concatenate(list(blended(image, (8, 8, 8), engine=engine, progress=reports.append)), axis=1)
    np.testing.assert_allclose(found, naive(image, (8, 8, 8)), atol=1e-5)
    # starts 0, 4, ..., 24: 0, 4, 8, 12 are all -1; 16 holds both; 20 and 24 are all 2
    assert engine.calls == 3
    assert [report.done for report in reports] == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("mirroring", [(), (0, 1, 2)])
@pytest.mark.parametrize("early", [False, True])
def test_what_is_kept_of_a_constant_window_is_not_overwritten_by_the_next(
    mirroring: tuple[int, ...], early: bool
) -> None:
    image = np.full((44, 8, 8), -1, np.float32)
    image[16:28] = random_image(12, 8, 8)
    head = HEAD if early else None
    found = np.concatenate(list(blended(image, (8, 8, 8), mirroring=mirroring, head=head)), axis=1)
    np.testing.assert_allclose(found, naive(image, (8, 8, 8), mirroring=mirroring, head=head), atol=2e-5)


def test_mirrored_axes_are_all_subsets() -> None:
    assert mirrored_axes(()) == [()]
    assert mirrored_axes((0, 2)) == [(), (0,), (2,), (0, 2)]
    assert len(set(mirrored_axes((0, 1, 2)))) == 8


def put(value: float) -> Callable[[Array], Array]:
    def output(features: Array) -> Array:
        features[0, 1, 2, 3, 4] = value
        return features

    return output


@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(8, 8, 8), (14, 12, 9)])
def test_a_number_that_is_not_finite_is_an_error_wherever_it_comes_from(value: float, after: int, shape: Shape) -> None:
    slabs = blended(random_image(*shape), (8, 8, 8), engine=Broken(put(value), after), mirroring=(0, 1, 2))
    message = r"the engine ramps \(float32\) gave numbers that are not finite; take another engine or precision"
    with pytest.raises(EngineError, match=message):
        list(slabs)


@pytest.mark.filterwarnings("error")
def test_infinities_that_cancel_out_are_found_too_without_a_warning() -> None:
    def output(features: Array) -> Array:
        features[0, 2, 0, 0, :2] = np.inf, -np.inf
        return features

    with pytest.raises(EngineError, match="not finite"):
        list(blended(random_image(8, 8, 8), (8, 8, 8), engine=Broken(output)))


def test_large_numbers_are_finite() -> None:
    found = list(blended(random_image(8, 8, 8), (8, 8, 8), engine=Broken(lambda features: features * 1e30)))
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize(
    "output",
    [lambda features: features[:, :2], lambda features: features[..., :-1], lambda features: features[0]],
    ids=["channels", "voxels", "axes"],
)
def test_another_shape_is_an_error(output: Callable[[Array], Array]) -> None:
    with pytest.raises(EngineError, match=r"the pack's manifest promises \(3, 8, 8, 8\); the pack is damaged"):
        list(blended(random_image(8, 8, 8), (8, 8, 8), engine=Broken(output)))


def test_an_engines_own_error_comes_through() -> None:
    def crash(_: Array) -> Array:
        raise EngineError("OpenVINO failed on a window")

    with pytest.raises(EngineError, match="OpenVINO failed on a window"):
        list(blended(random_image(20, 9, 9), (8, 8, 8), engine=Broken(crash, 3), threads=2))


@pytest.mark.parametrize("calls", [0, 1, 5])
def test_it_stops_at_the_next_window(calls: int) -> None:
    engine = Ramps()
    with pytest.raises(CancelledError):
        list(blended(random_image(20, 9, 9), (8, 8, 8), engine=engine, cancel=lambda: engine.calls >= calls))
    assert engine.calls == calls
