from __future__ import annotations

import pytest

from KDSegmentatorLib.advisor.engine_costs import ENGINE_COSTS
from KDSegmentatorLib.options import ENGINES, PRECISIONS


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_that_can_be_chosen_has_costs_in_every_precision(engine: str) -> None:
    costs = ENGINE_COSTS[engine]
    assert set(costs.feature_maps) == set(PRECISIONS)
    assert min(costs.feature_maps.values()) > 1  # at least what goes in and what comes out
    assert costs.more_windows >= 1
    assert costs.parameter_bytes >= 4  # in float32, at least once
