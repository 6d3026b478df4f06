import numpy as np
import pytest

from distillation.synthesis.deformation import REACH_MM, Deformation, SmoothField, random_deformation


def still():
    return SmoothField(control=np.zeros((4, 4, 4), np.float32), start=(-REACH_MM,) * 3, step=(2 * REACH_MM,) * 3)


def own_axes(head):
    """Return the positions of the label map's planes, from the brain's middle."""
    return [
        np.arange(count) * length - middle
        for count, length, middle in zip(head.classes.shape, head.spacing, head.centre, strict=True)
    ]


def test_none_at_all(phantom):
    head, _ = phantom
    nothing = Deformation(matrix=np.eye(3), elastic=(still(),) * 3)
    np.testing.assert_array_equal(nothing.classes(head, own_axes(head)), head.classes)
    np.testing.assert_allclose(nothing.distance(head, own_axes(head)), head.distance, atol=1e-3)


def test_beyond_the_label_map_is_air(phantom):
    head, _ = phantom
    nothing = Deformation(matrix=np.eye(3), elastic=(still(),) * 3)
    far = np.array([-190.0, 190.0])
    assert not nothing.classes(head, [far, far, far]).any()
    assert (nothing.distance(head, [far, far, far]) > 0).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_and_a_scale_go_the_right_way(phantom, axis):
    head, _ = phantom
    moved = SmoothField(control=np.full((4, 4, 4), 10, np.float32), start=(-REACH_MM,) * 3, step=(2 * REACH_MM,) * 3)
    elastic = [still(), still(), still()]
    elastic[axis] = moved
    axes = own_axes(head)
    shifted = Deformation(matrix=np.eye(3), elastic=tuple(elastic)).classes(head, axes)
    # a point of the image shows what lies 10 mm = 5 voxels further on in the label map
    inner = [slice(None)] * 3
    inner[axis] = slice(0, -5)
    later = [slice(None)] * 3
    later[axis] = slice(5, None)
    np.testing.assert_array_equal(shifted[tuple(inner)], head.classes[tuple(later)])
    scale = np.eye(3)
    scale[axis, axis] = 2.0
    halved = Deformation(matrix=scale, elastic=(still(),) * 3).distance(head, axes) < 0
    assert halved.sum() == pytest.approx((head.distance < 0).sum() / 2, rel=0.02)


def test_the_planes_are_the_same_however_many_are_asked_for(phantom):
    head, _ = phantom
    deformation = random_deformation(np.random.default_rng(0))
    axes = own_axes(head)
    whole = deformation.classes(head, axes)
    np.testing.assert_array_equal(deformation.classes(head, [axes[0][37:41], axes[1], axes[2]]), whole[37:41])


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_folded_or_mirrored(seed):
    """The determinant of the Jacobian is positive everywhere: left stays left, and no place is shown twice."""
    deformation = random_deformation(np.random.default_rng(seed))
    assert np.linalg.det(deformation.matrix) > 0
    step = 4.0
    axis = np.arange(-100, 101, step)
    jacobian = np.stack(
        [np.stack(np.gradient(field.on([axis] * 3), step), axis=-1) for field in deformation.elastic], axis=-2
    ) + np.eye(3)
    assert np.linalg.det(jacobian).min() > 0


def test_seeds():
    def drawn(seed):
        return random_deformation(np.random.default_rng(seed)).matrix

    np.testing.assert_array_equal(drawn(5), drawn(5))
    assert not np.array_equal(drawn(5), drawn(6))
