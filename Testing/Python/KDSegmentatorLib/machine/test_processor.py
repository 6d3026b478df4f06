from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from KDSegmentatorLib.machine.processor import parse_cpuinfo, processor_name

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 33
model name\t: AMD Ryzen 9 5900X 12-Core Processor
stepping\t: 2
processor\t: 1
cpu family\t: 26
model\t\t: 99
model name\t: another
"""


def test_the_model_of_the_first_core_with_its_numbers() -> None:
    assert parse_cpuinfo(CPUINFO) == "AMD Ryzen 9 5900X 12-Core Processor 25 33"


def test_generations_under_one_name_are_told_apart() -> None:
    name = "model name\t: Intel Xeon Processor\n"
    first, second = (parse_cpuinfo(f"cpu family\t: 6\nmodel\t\t: {model}\n{name}") for model in (85, 143))
    assert first != second


@pytest.mark.parametrize("text", ["", "processor\t: 0\nBogoMIPS\t: 50.00\n", "model name\t: \n"])
def test_a_processor_without_a_name(text: str) -> None:
    """As on ARM, where Linux gives none."""
    assert parse_cpuinfo(text) == ""


def test_this_machine() -> None:
    assert processor_name() == processor_name()
    assert platform.machine() in processor_name()


def test_another_system_asks_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert processor_name() == "arm (arm64)"


def test_it_is_never_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object, **__: object) -> str:
        raise PermissionError(13, "no")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "read_text", unreadable)
    monkeypatch.setattr(platform, "processor", str)
    monkeypatch.setattr(platform, "machine", str)
    assert processor_name() == "processor (unknown)"
