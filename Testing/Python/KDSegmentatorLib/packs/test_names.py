from __future__ import annotations

import pytest

from KDSegmentatorLib.packs.names import is_reserved


@pytest.mark.parametrize("name", ["nul", "NUL.txt", "Com1.foo.json", "lpt9.csv", "aux.md", "CON"])
def test_names_that_windows_opens_as_devices(name: str) -> None:
    assert is_reserved(name)


@pytest.mark.parametrize("name", ["null.txt", "com10.txt", "body.nul", "console.md"])
def test_ordinary_names(name: str) -> None:
    assert not is_reserved(name)
