import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from distillation.synthesis.deformation import SmoothField, random_field


def field(control, step=10.0, start=-20.0):
    return SmoothField(control=np.asarray(control, np.float32), start=(start,) * 3, step=(step,) * 3)


def test_a_constant_stays_constant():
    axes = [np.linspace(-20, 20, n) for n in (3, 5, 7)]
    values = field(np.full((7, 7, 7), 2.5)).on(axes)
    assert values.shape == (3, 5, 7)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, 2.5, rtol=1e-6)


def test_it_is_scipys_cubic_spline_along_every_axis():
    control = np.random.default_rng(0).normal(size=7)
    positions = np.linspace(-20, 19.9, 23)
    knots = -20 + 10.0 * np.arange(-3, 8)
    expected = BSpline(knots, control, 3)(positions)
    middle = np.array([0.0])
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = 7
        axes = [middle, middle, middle]
        axes[axis] = positions
        values = field(np.broadcast_to(control.reshape(shape), (7, 7, 7))).on(axes)
        np.testing.assert_allclose(values.ravel(), expected, atol=1e-5)


def test_two_grids_see_one_function():
    made = random_field(np.random.default_rng(1), [(-50, 50)] * 3, 25.0, std=1.0)
    fine = made.on([np.arange(-40, 41, 5.0)] * 3)
    coarse = made.on([np.arange(-40, 41, 20.0)] * 3)
    np.testing.assert_allclose(fine[::4, ::4, ::4], coarse, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), limit=st.floats(0.1, 20), step=st.floats(5, 200))
def test_a_limit_holds_everywhere_also_outside(seed, limit, step):
    made = random_field(np.random.default_rng(seed), [(-50, 30), (-60, 60), (0, 20)], step, std=10.0, limit=limit)
    values = made.on([np.linspace(-90, 90, 19)] * 3)
    assert np.abs(values).max() <= limit * (1 + 1e-5)


@pytest.mark.parametrize("std", [0.0, 3.0])
def test_the_spread_is_that_of_the_control_values(std):
    made = random_field(np.random.default_rng(2), [(-100, 100)] * 3, 10.0, std=std)
    assert made.control.std() == pytest.approx(std, rel=0.05)
