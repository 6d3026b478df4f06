from dataclasses import dataclass, field
from typing import Literal

import pytest

from distillation.strict import read_dataclass
from KDSegmentatorLib.errors import InvalidSettingsError


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int
    share: float = 0.5

    def __post_init__(self):
        if self.size > 9:
            raise InvalidSettingsError("size must be at most 9")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    on: bool = False
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    table: dict[str, int] = field(default_factory=dict)


def test_reads_everything():
    value = {
        "name": "n",
        "kind": "b",
        "on": True,
        "inner": {"size": 1},
        "many": [{"size": 2, "share": 1}],
        "pair": [3, 4],
        "table": {"x": 5},
    }
    assert read_dataclass(Outer, value, "it") == Outer(
        name="n",
        kind="b",
        on=True,
        inner=Inner(size=1),
        many=(Inner(size=2, share=1.0),),
        pair=(3, 4.0),
        table={"x": 5},
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "it must be a mapping"),
        ([1], "it must be a mapping"),
        ({}, "it lacks the setting 'name'"),
        ({"name": "n", "nmae": 1}, "it has the unknown setting 'nmae'; known are: .*name"),
        ({"name": 1}, r"it\.name must be a value of type str, got 1"),
        ({"name": None}, r"it\.name .* got nothing"),
        ({"name": "n", "kind": "c"}, r"it\.kind must be one of a, b"),
        ({"name": "n", "kind": ["a"]}, r"it\.kind must be one of a, b"),
        ({"name": "n", "on": 1}, r"it\.on must be a value of type bool"),
        ({"name": "n", "inner": {"size": True}}, r"it\.inner\.size must be a value of type int"),
        ({"name": "n", "inner": {"size": 1, "share": "x"}}, r"it\.inner\.share must be a value of type float"),
        ({"name": "n", "many": {"size": 1}}, r"it\.many must be a list"),
        ({"name": "n", "many": [{"size": 1}, {"size": 10}]}, r"it\.many\[1\]: size must be at most 9"),
        ({"name": "n", "pair": [1]}, r"it\.pair must have 2 entries, got 1"),
        ({"name": "n", "table": {1: 2}}, r"it\.table must be a mapping"),
        ({"name": "n", "table": {"x": "y"}}, r"it\.table\.x must be"),
    ],
)
def test_errors_name_the_place(value, message):
    with pytest.raises(InvalidSettingsError, match=message):
        read_dataclass(Outer, value, "it")
