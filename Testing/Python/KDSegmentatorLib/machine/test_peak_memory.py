from __future__ import annotations

from KDSegmentatorLib.machine.peak_memory import parse_status, peak_memory


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
