"""RunOptions: what is possible, and what a mistake is told."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.options import RunOptions


@pytest.mark.parametrize("written", ["x1/4", "X1/4", "1/4"])
def test_a_size_may_be_written_as_people_write_it(written: str) -> None:
    assert RunOptions(size=written).size == "x1/4"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "x2"),
        ("size", 4),
        ("engine", "torch"),
        ("precision", "float64"),
        ("device", "tpu"),
        ("threads", 0),
        ("threads", True),
        ("threads", 2.5),
        ("labels", 19),
        ("labels", ""),
        ("labels", [None]),
        ("labels", [""]),
        ("probabilities", 3),
        ("mirroring", "yes"),
        ("region", "brain"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_and_its_field_named(field: str, value: object) -> None:
    with pytest.raises(InvalidSettingsError, match=field):
        RunOptions(**{field: value})  # type: ignore[arg-type]


def test_lists_become_tuples_without_repetitions_and_values_become_text() -> None:
    options: Any = {"labels": ["Left-Hippocampus", 17, "Left-Hippocampus"]}

    assert RunOptions(**options).labels == ("Left-Hippocampus", "17")


def test_one_name_is_a_list_of_one() -> None:
    one: Any = "Left-Hippocampus"

    assert RunOptions(labels=one).labels == ("Left-Hippocampus",)


def test_options_survive_the_way_through_a_file() -> None:
    options = RunOptions(size="x1/4", threads=2, labels=("Left",), probabilities=("Left",), region="given")

    assert msgspec.json.decode(msgspec.json.encode(options), type=RunOptions) == options


@pytest.mark.parametrize("text", ['{"sise": "x1"}', '{"threads": "two"}'])
def test_a_file_with_an_unknown_field_or_another_type_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=RunOptions)


def test_a_value_in_a_file_is_checked_as_one_in_python_is() -> None:
    with pytest.raises(InvalidSettingsError, match="threads"):
        msgspec.json.decode('{"threads": 0}', type=RunOptions)


def test_numpy_is_not_imported_for_options() -> None:
    code = "import sys; import KDSegmentatorLib.options; sys.exit('numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
