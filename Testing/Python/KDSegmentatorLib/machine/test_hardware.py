from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from KDSegmentatorLib.machine import hardware
from KDSegmentatorLib.machine.hardware import (
    detect_hardware,
    parse_cgroups,
    parse_cpu_quota,
    parse_cpuinfo,
    parse_memory_limit,
    parse_status,
    peak_memory,
    processor_name,
    usable_cores,
    windows_affinity,
)


def test_this_machine() -> None:
    found = detect_hardware()
    assert 1 <= found.logical_cores <= (os.cpu_count() or 1)
    assert found.available_memory is not None
    assert found.total_memory is not None
    assert 10_000_000 < found.available_memory <= found.total_memory < 1 << 50
    assert found.physical_cores is None or 1 <= found.physical_cores <= found.logical_cores


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("50000 100000", 0.5),
        ("max 100000\n", None),
        ("-1 100000", None),
        ("", None),
        ("1 0", None),
    ],
)
def test_cpu_quota(text: str, cores: float | None) -> None:
    assert parse_cpu_quota(text) == cores


def test_memory_limit() -> None:
    statistics = "anon 100\ninactive_file 300\nactive_file 50\n"
    assert parse_memory_limit("4000\n", "1000\n", statistics) == 3300
    assert parse_memory_limit("4000", "1000", "total_inactive_file 200\n") == 3200
    assert parse_memory_limit("4000", "5000", "") == 0
    assert parse_memory_limit("max\n", "1000\n", statistics) is None
    assert parse_memory_limit("9223372036854771712", "1000", "") is None
    assert parse_memory_limit("", "", "") is None


def test_cgroup_version_2_with_its_parents() -> None:
    root = Path("/sys/fs/cgroup")
    found = parse_cgroups("0::/user.slice/job-7.scope\n", root)
    assert found == [(root / "user.slice" / "job-7.scope", ""), (root / "user.slice", ""), (root, "")]


def test_cgroup_version_1() -> None:
    root = Path("/sys/fs/cgroup")
    found = parse_cgroups("5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n3:pids:/docker/a\n", root)
    assert found[0] == (root / "cpu,cpuacct" / "docker" / "a", "cpu")
    assert (root / "memory" / "docker" / "a", "memory") in found
    assert not [folder for folder, _ in found if "pids" in folder.parts]


@pytest.mark.parametrize("text", ["", "nonsense\n", "0::\n", "0::/../../etc\n"])
def test_odd_cgroup_files_do_no_harm(text: str) -> None:
    assert isinstance(parse_cgroups(text), list)


@pytest.mark.parametrize(
    ("process", "system", "worked", "found"),
    [
        (0b0101, 0b1111, True, 2),
        (1 << 63, (1 << 64) - 1, True, 1),
        (0b1111, 0b1111, True, None),  # all of its group; there may be more groups
        (0, 0, True, None),  # in several groups
        (0b0101, 0b1111, False, None),
    ],
)
def test_windows_affinity(process: int, system: int, worked: bool, found: int | None) -> None:
    def fill(process_mask: ctypes.c_size_t, system_mask: ctypes.c_size_t) -> bool:
        process_mask.value, system_mask.value = process, system
        return worked

    assert windows_affinity(fill) == found


def test_usable_cores_heed_the_affinity_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(process_mask: ctypes.c_size_t, system_mask: ctypes.c_size_t) -> bool:
        process_mask.value, system_mask.value = 0b0111, 0b11111111
        return True

    monkeypatch.setattr(hardware.sys, "platform", "win32")
    monkeypatch.setattr(hardware, "_fill_affinity", fill, raising=False)
    monkeypatch.setattr(hardware.os, "process_cpu_count", lambda: 8, raising=False)
    assert usable_cores() == 3


def test_usable_cores_heed_what_python_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    monkeypatch.setattr(hardware.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(hardware.os, "process_cpu_count", lambda: 5, raising=False)
    assert usable_cores() == 5
    monkeypatch.delattr(hardware.os, "process_cpu_count")
    assert usable_cores() == 8


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' control groups")
def test_limits_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/cgroup": "0::/box\n",
        "/sys/fs/cgroup/box/cpu.max": "150000 100000",
        "/sys/fs/cgroup/box/memory.max": "2000000000",
        "/sys/fs/cgroup/box/memory.current": "500000000",
    }
    monkeypatch.setattr(hardware, "_read", lambda path: files.get(path.as_posix(), ""))
    found = detect_hardware()
    assert found.logical_cores == 1
    assert found.available_memory == min(1_500_000_000, psutil.virtual_memory().available)
    assert found.total_memory == 2_000_000_000


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(hardware, "_read", lambda _: "")
    monkeypatch.setattr(psutil, "virtual_memory", unknown)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: None)
    found = detect_hardware()
    assert found.logical_cores >= 1
    assert (found.available_memory, found.total_memory, found.physical_cores) == (None, None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v of Linux")
def test_a_limit_of_the_address_space_counts_as_memory() -> None:
    code = (
        "import psutil, resource\n"
        "from KDSegmentatorLib.machine.hardware import detect_hardware\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "found = detect_hardware()\n"
        "print(found.available_memory, found.total_memory)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    available, total = map(int, finished.stdout.split())
    assert 0 < available < total <= 1 << 30


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


def test_the_name_of_this_processor() -> None:
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


def test_this_process_grows() -> None:
    before = peak_memory()
    assert before is not None and before > 5_000_000
    block = bytearray(before + 50_000_000)  # more than ever before, whatever was freed meanwhile
    block[::4096] = b"x" * len(block[::4096])
    after = peak_memory()
    assert after is not None and after >= before + 40_000_000


def test_status_file() -> None:
    assert parse_status("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t  1234 kB\nVmRSS:\t  1000 kB\n") == 1234 * 1024
    assert parse_status("Name:\tpython\n") is None
