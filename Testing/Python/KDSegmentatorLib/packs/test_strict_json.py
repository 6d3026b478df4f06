from __future__ import annotations

import contextlib
import dataclasses
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from KDSegmentatorLib.packs.strict_json import FieldError, build, parse, shown, text

Name = Annotated[str, text("[^\n]+", "one line", max_length=10)]
Colour = Annotated[int, Meta(le=255)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    weight: Annotated[float, Meta(gt=0)]
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    name: Name
    count: Annotated[int, Meta(ge=1, le=9)]
    on: bool
    color: tuple[Colour, Colour, Colour]
    parts: Annotated[tuple[Part, ...], Meta(min_length=1)]
    table: Annotated[dict[Annotated[str, text("[a-z]+", "lower-case")], Part], Meta(min_length=1)]
    note: str | None
    limit: Annotated[float, Meta(ge=0)] | None = None
    extra: Part | None = None


def whole(**changes: Any) -> dict[str, Any]:
    return {
        "name": "n",
        "count": 3,
        "on": True,
        "color": [1, 2, 3],
        "parts": [{"weight": 1}, {"weight": 2.5, "kind": "b"}],
        "table": {"k": {"weight": 1.0}},
        "note": None,
        **changes,
    }


def test_a_document_becomes_the_dataclass() -> None:
    assert build(Whole, whole()) == Whole(
        name="n",
        count=3,
        on=True,
        color=(1, 2, 3),
        parts=(Part(weight=1.0), Part(weight=2.5, kind="b")),
        table={"k": Part(weight=1.0)},
        note=None,
    )
    assert type(build(Whole, whole()).parts[0].weight) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": True}, "count: must be a whole number, got True"),
        ({"count": 3.0}, "count: must be a whole number, got 3.0"),
        ({"count": "3"}, "count: must be a whole number, got '3'"),
        ({"count": 0}, "count: must be at least 1, got 0"),
        ({"count": 10}, "count: must be at most 9, got 10"),
        ({"count": None}, "count: must be a whole number, got None"),
        ({"on": 1}, "on: must be true or false, got 1"),
        ({"name": 5}, "name: must be text, got 5"),
        ({"name": ""}, "name: must be one line, got"),
        ({"name": "a\n"}, "name: must be one line, got"),
        ({"name": "x" * 11}, "name: must have at most 10 characters, has 11"),
        ({"note": 1}, "note: must be text, got 1"),
        ({"color": [1, 2]}, "color: must have 3 values, has 2"),
        ({"color": [1, 2, 3, 4]}, "color: must have 3 values, has 4"),
        ({"color": [1, True, 3]}, "color[1]: must be a whole number, got True"),
        ({"color": [1, 256, 3]}, "color[1]: must be at most 255, got 256"),
        ({"limit": -1}, "limit: must be at least 0, got -1"),
        ({"limit": float("inf")}, "limit: must be a finite number, got inf"),
        ({"color": {"0": 1}}, "color: must be a list"),
        ({"parts": []}, "parts: must have at least 1 values, has 0"),
        ({"parts": [{"weight": 1}, {}]}, "parts[1].weight: missing"),
        ({"parts": [{"weight": 0}]}, "parts[0].weight: must be above 0, got 0"),
        ({"parts": [{"weight": float("nan")}]}, "parts[0].weight: must be a finite number, got nan"),
        ({"parts": [{"weight": float("inf")}]}, "parts[0].weight: must be a finite number, got inf"),
        ({"parts": [{"weight": 10**400}]}, "parts[0].weight: is too large"),
        ({"parts": [{"weight": 1, "kind": "c"}]}, "parts[0].kind: must be 'a' or 'b', got 'c'"),
        ({"parts": [{"weight": 1, "wait": 1}]}, "parts[0].wait: unknown field"),
        ({"parts": [3]}, "parts[0]: must be an object, got 3"),
        ({"table": {}}, "table: must have at least 1 entries, has 0"),
        ({"table": {"K": {"weight": 1}}}, "table['K']: must be lower-case, got 'K'"),
        ({"table": {"k": {"weight": False}}}, "table['k'].weight: must be a number, got False"),
        ({"table": []}, "table: must be an object"),
        ({"extra": {"weight": "1"}}, "extra.weight: must be a number"),
        ({"\x1b[2J": 1}, r"'\x1b[2J': unknown field"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError) as caught:
        build(Whole, whole(**changes))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [None, [], 3, "text"])
def test_the_document_has_to_be_an_object(value: Any) -> None:
    with pytest.raises(FieldError, match=r"^must be an object"):
        build(Whole, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("{} {}", "not valid JSON"),
        ('{"a": 1, "a": 1}', "'a' occurs twice"),
        ('{"b": {"a": 1, "a": 2}}', "'a' occurs twice"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
    ],
)
def test_text_that_is_not_plain_json(text: str, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        parse(text)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(FieldError):
        parse(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@settings(deadline=None)
@given(st.sampled_from(sorted(whole())), _JSON)
def test_any_value_is_built_or_refused(field: str, value: Any) -> None:
    try:
        build(Whole, whole(**{field: value}))
    except FieldError as error:
        assert error.path.startswith(field)


def test_shown_values_are_short_and_printable() -> None:
    assert shown("\x1b]0;owned\x07") == "'\\x1b]0;owned\\x07'"
    assert len(shown(["x"] * 1000)) == 60


class Even:
    """Reads itself: no hint can say what it accepts."""

    def __init__(self, value: int) -> None:
        self.value = value

    @classmethod
    def from_document(cls, value: Any, path: str) -> Even:
        if not isinstance(value, int) or value % 2:
            raise FieldError(path, "must be even")
        return cls(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    numbers: dict[str, Even]


def test_a_class_may_read_itself() -> None:
    found = build(Holder, {"numbers": {"a": 2}})
    assert found.numbers["a"].value == 2
    with pytest.raises(FieldError, match=r"numbers\['a'\]: must be even"):
        build(Holder, {"numbers": {"a": 3}})
