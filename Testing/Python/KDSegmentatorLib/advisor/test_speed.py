from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from KDSegmentatorLib.advisor.speed import NOMINAL_FLOPS, Speed, nominal_speed

THREE = Speed(flops=((8, 10e9), (32, 40e9), (96, 60e9)), arrays=1.0)


@pytest.mark.parametrize(("width", "rate"), [(8, 10e9), (32, 40e9), (96, 60e9)])
def test_a_measured_width_has_the_measured_rate(width: int, rate: float) -> None:
    assert THREE.flops_at(width) == pytest.approx(rate)


def test_between_two_widths_the_logarithm_is_interpolated() -> None:
    assert THREE.flops_at(16) == pytest.approx(20e9)  # half way from 8 to 32, half way from 10 to 40


@pytest.mark.parametrize(("width", "rate"), [(1, 10e9), (7.9, 10e9), (96.1, 60e9), (640, 60e9)])
def test_beyond_the_measured_widths_the_rate_stays(width: float, rate: float) -> None:
    assert THREE.flops_at(width) == rate


def test_one_width_is_enough() -> None:
    alone = Speed(flops=((8, 10e9),), arrays=1.0)
    assert {alone.flops_at(width) for width in (4, 8, 16)} == {10e9}


@given(st.floats(min_value=1, max_value=1000), st.floats(min_value=1, max_value=1000))
def test_wider_is_never_slower_where_no_measured_width_is(first: float, second: float) -> None:
    narrow, wide = sorted((first, second))
    assert THREE.flops_at(narrow) <= THREE.flops_at(wide) * (1 + 1e-12)


def test_the_guess_grows_with_threads_and_with_numpy() -> None:
    guess = nominal_speed(3, arrays=2.0)
    assert not guess.measured
    assert guess.arrays == 2.0
    assert guess.flops == tuple((width, 6 * rate) for width, rate in NOMINAL_FLOPS)
