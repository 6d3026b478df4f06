from __future__ import annotations

from typing import Any

import pytest

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.machine.threads import MOST_THREADS, check_threads


@pytest.mark.parametrize("threads", [None, 1, 2, MOST_THREADS])
def test_usable_numbers(threads: int | None) -> None:
    check_threads(threads)


@pytest.mark.parametrize("threads", [0, -1, MOST_THREADS + 1, True, 2.0])
def test_others_are_named(threads: Any) -> None:
    with pytest.raises(InvalidSettingsError, match=f"from 1 to 1024, got {threads}"):
        check_threads(threads)
