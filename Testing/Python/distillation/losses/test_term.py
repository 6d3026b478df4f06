import math

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.losses.cwd import CwdLoss
from KDSegmentatorLib.errors import InvalidSettingsError


def test_the_weight_ramps_up_linearly_and_stays():
    loss = CwdLoss(weight=0.01, ramp=0.6)
    assert [loss.weight_at(each) for each in (0, 0.15, 0.3, 0.6, 0.61, 1)] == pytest.approx(
        [0, 0.0025, 0.005, 0.01, 0.01, 0.01]
    )


def test_without_a_ramp_the_weight_is_constant():
    assert [CwdLoss(weight=0.5).weight_at(each) for each in (0, 0.5, 1)] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("weight", [-1, math.nan])
def test_a_weight_is_not_negative(weight):
    with pytest.raises(InvalidSettingsError, match="weight"):
        CwdLoss(weight=weight)


@pytest.mark.parametrize("ramp", [-0.1, 1.1, math.nan])
def test_a_ramp_is_a_share(ramp):
    with pytest.raises(InvalidSettingsError, match="ramp"):
        CwdLoss(weight=1, ramp=ramp)


@pytest.mark.parametrize("temperature", [0, -1, math.nan])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(InvalidSettingsError, match="temperature"):
        CwdLoss(weight=1, temperature=temperature)
