from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from KDSegmentatorLib.engines.head import VoxelMaps, background_maps, head_logits, label_values, read_off
from KDSegmentatorLib.machine.small_products import MOST_MULTIPLICATIONS
from KDSegmentatorLib.packs.pack import Head


def random_head(rows: int, features: int, seed: int = 0) -> Head:
    random = np.random.default_rng(seed)
    weight = random.normal(size=(rows, features)).astype(np.float32)
    return Head(weight, random.normal(size=rows).astype(np.float32))


def random_features(features: int, *shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(features, *shape)).astype(np.float32)


def exact_logits(head: Head, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return logits (labels, ...) in float64."""
    logits = np.einsum("lf,f...->l...", head.weight.astype(np.float64), features.astype(np.float64))
    return logits + head.bias.astype(np.float64).reshape(-1, *[1] * (features.ndim - 1))


def exact_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def exact_entropy(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the entropy in bits."""
    probabilities = exact_softmax(logits)
    return -(probabilities * np.log2(np.maximum(probabilities, 1e-300))).sum(axis=0)


def assert_labels_of(labels: npt.NDArray[Any], logits: npt.NDArray[np.float64]) -> None:
    """Check that every voxel has a label whose logit is the largest, but for the rounding of float32."""
    taken = np.take_along_axis(logits, labels[None].astype(np.intp), axis=0)[0]
    assert (logits.max(axis=0) - taken).max() <= 1e-4
    clear = np.diff(np.sort(logits, axis=0)[-2:], axis=0)[0] > 1e-4
    np.testing.assert_array_equal(labels[clear], logits.argmax(axis=0)[clear])


@settings(max_examples=60)
@given(
    rows=st.integers(2, 130),
    features=st.integers(1, 40),
    plane=st.tuples(st.integers(1, 40), st.integers(1, 60)),
    late=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_labels_entropy_and_probabilities_are_those_of_the_softmax(
    rows: int, features: int, plane: tuple[int, int], late: bool, seed: int
) -> None:
    head, values = random_head(rows, features, seed), random_features(features, *plane, seed=seed + 1)
    logits = exact_logits(head, values)
    wanted = (rows - 1, 1)
    maps = background_maps(plane, rows, entropy=True, probabilities=wanted)
    given_values = values if late else logits.astype(np.float32)
    before = given_values.copy()
    read_off(head if late else None, given_values, maps)
    np.testing.assert_array_equal(given_values, before)
    assert_labels_of(maps.labels, logits)
    assert maps.entropy is not None
    np.testing.assert_allclose(maps.entropy, exact_entropy(logits), atol=2e-5)
    assert maps.entropy.min() >= 0
    for value in wanted:
        np.testing.assert_allclose(maps.probabilities[value], exact_softmax(logits)[value], atol=2e-6)


def test_the_labels_alone_are_those_with_everything() -> None:
    head, values = random_head(30, 8), random_features(8, 20, 31)
    alone, everything = background_maps((20, 31), 30), background_maps((20, 31), 30, entropy=True, probabilities=[3])
    assert alone.entropy is None and alone.probabilities == {}
    for maps in (alone, everything):
        read_off(head, values, maps)
    np.testing.assert_array_equal(alone.labels, everything.labels)


def test_a_tie_goes_to_the_first_label() -> None:
    """As with argmax: the background, when all logits are equal."""
    weight = np.array([[0, 0], [1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    head = Head(weight, np.zeros(5, np.float32))
    values = np.array([[[0, 2, 1, 3, -1]], [[0, 1, 2, 3, -1]]], np.float32)
    maps = background_maps((1, 5), 5)
    for late, given_values in ((head, values), (None, head_logits(head, values))):
        read_off(late, given_values, maps)
        np.testing.assert_array_equal(maps.labels, [[0, 1, 2, 1, 0]])


@pytest.mark.parametrize(("rows", "kind"), [(2, "uint8"), (255, "uint8"), (256, "uint8"), (257, "uint16")])
def test_every_label_can_be_found(rows: int, kind: str) -> None:
    """Each voxel has a logit of its own that is the largest: the types must hold the last label too."""
    logits = np.zeros((rows, 1, rows), np.float32)
    logits[np.arange(rows), 0, np.arange(rows)] = 1
    maps = background_maps((1, rows), rows)
    read_off(None, logits, maps)
    assert maps.labels.dtype == kind
    np.testing.assert_array_equal(maps.labels[0], np.arange(rows))


def test_more_weights_than_fit_into_one_small_product() -> None:
    head, values = random_head(1100, 500), random_features(500, 2, 3)
    maps = background_maps((2, 3), 1100)
    read_off(head, values, maps)
    assert_labels_of(maps.labels, exact_logits(head, values))


def test_maps_may_be_views_with_any_strides() -> None:
    head, values = random_head(5, 4), random_features(4, 9, 11)
    whole = background_maps((11, 9, 3), 5, entropy=True, probabilities=[1])
    view = VoxelMaps(
        labels=whole.labels[..., 1].T,
        entropy=None if whole.entropy is None else whole.entropy[..., 1].T,
        probabilities={1: whole.probabilities[1][..., 1].T},
    )
    plain = background_maps((9, 11), 5, entropy=True, probabilities=[1])
    read_off(head, values, view)
    read_off(head, values, plain)
    for filled, expected in zip(whole, plain, strict=True):
        np.testing.assert_array_equal(filled[..., 1].T, expected)
        assert not filled[..., (0, 2)].any()


def test_extreme_logits_have_no_doubt_and_no_warning() -> None:
    logits = np.array([[[1e30, -1e38, 0.0]], [[-1e30, 1e38, 0.0]]], np.float32)
    maps = background_maps((1, 3), 2, entropy=True, probabilities=[1])
    with np.errstate(invalid="raise", divide="raise"):
        read_off(None, logits, maps)
    np.testing.assert_array_equal(maps.labels, [[0, 1, 0]])
    np.testing.assert_allclose(maps.entropy, [[0, 0, 1]], atol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_allclose(maps.probabilities[1], [[0, 1, 0.5]], atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_several_threads_fill_planes_of_one_map(threads: int) -> None:
    head, values = random_head(40, 8), random_features(8, 12, 30, 33)
    maps = background_maps((12, 30, 33), 40, entropy=True)
    assert maps.entropy is not None
    entropy = maps.entropy
    with ThreadPoolExecutor(max_workers=threads) as executor:
        list(
            executor.map(
                lambda z: read_off(head, values[:, z], VoxelMaps(labels=maps.labels[z], entropy=entropy[z])), range(12)
            )
        )
    np.testing.assert_array_equal(maps.labels, label_values(head, values))
    np.testing.assert_allclose(entropy, exact_entropy(exact_logits(head, values)), atol=2e-5)


def test_the_logits_of_all_labels_never_exist_at_once() -> None:
    """With 200 labels they would take 200 times the 0.25 MB of the labels."""
    head, values = random_head(200, 4), random_features(4, 512, 512)
    maps = background_maps((512, 512), 200, entropy=True)
    tracemalloc.start()
    try:
        read_off(head, values, maps)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 200 * 512 * 512 / 10


def test_logits_of_a_head_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="the head takes 4 features, got 8"):
        head_logits(random_head(3, 4), random_features(8, 2, 2, 2))


def test_logits() -> None:
    head, values = random_head(7, 5), random_features(5, 3, 4, 6)
    np.testing.assert_allclose(head_logits(head, values), exact_logits(head, values), atol=1e-5)


def test_logits_stay_in_the_threads_they_are_given() -> None:
    """BLAS starts no threads of its own for products as small as these."""
    sizes: list[int] = []

    class Watched(np.ndarray):  # type: ignore[type-arg]
        """An array that notes how many multiplications each of its products needs."""

        def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **named: Any) -> Any:
            plain = [np.asarray(each) for each in inputs]
            if ufunc is np.matmul:
                sizes.append(plain[0].shape[-2] * plain[0].shape[-1] * plain[1].shape[-1])
            return getattr(ufunc, method)(*plain, **named)

    head, values = random_head(14, 32), random_features(32, 5, 70, 90)
    watched = Head(head.weight.view(Watched), head.bias)
    with ThreadPoolExecutor(max_workers=3) as executor:
        found = head_logits(watched, values, executor)
    np.testing.assert_allclose(found, exact_logits(head, values), atol=1e-4)
    assert len(sizes) >= 5
    assert max(sizes) <= MOST_MULTIPLICATIONS
    np.testing.assert_array_equal(head_logits(head, values), found)
