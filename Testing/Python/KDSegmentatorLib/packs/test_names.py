from __future__ import annotations

import pytest

from KDSegmentatorLib.packs.names import divisor, is_reserved, pack_id, version_key


@pytest.mark.parametrize("name", ["nul", "NUL.txt", "Com1.foo.json", "lpt9.csv", "aux.md", "CON"])
def test_names_that_windows_opens_as_devices(name: str) -> None:
    assert is_reserved(name)


@pytest.mark.parametrize("name", ["null.txt", "com10.txt", "body.nul", "console.md"])
def test_ordinary_names(name: str) -> None:
    assert not is_reserved(name)


@pytest.mark.parametrize(
    ("size", "number", "identity"),
    [("x1", 1, "brain-t1-x1"), ("x1/2", 2, "brain-t1-x1_2"), ("x1/16", 16, "brain-t1-x1_16")],
)
def test_sizes(size: str, number: int, identity: str) -> None:
    assert divisor(size) == number
    assert pack_id("brain-t1", size) == identity


def test_versions_are_ordered_as_numbers() -> None:
    assert sorted(["1.10.0", "1.2.0", "0.9.9", "1.2.10"], key=version_key) == ["0.9.9", "1.2.0", "1.2.10", "1.10.0"]
