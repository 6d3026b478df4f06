"""Commands look up nothing on a network, and write nothing but their results and what lies in our own folders."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import write_volume

PACK = Path(__file__).parents[4] / "Resources" / "Packs" / "hippocampus-x1_4"
SEGMENT = ["segment", "{scan}", "{out}", "--pack", "hippocampus", "--unchecked"]

_WATCHED = """
import os, sys
mine = sys.argv.pop(1)
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        print("NETWORK", event, arguments, file=sys.stderr)
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and isinstance(arguments[0], str):
        if not arguments[0].startswith((mine, "/dev/", "nul", "/proc/self")) and "__pycache__" not in arguments[0]:
            print("WRITTEN", arguments[0], file=sys.stderr)
sys.addaudithook(watch)
from KDSegmentatorLib.cli.main import main
code = main(sys.argv[1:])
engines = ("onnxruntime", "openvino", "torch", "onnx")
print("ENGINES", *[name for name in engines if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("command", "engines"),
    [
        (["--help"], ""),
        (["packs", "list"], ""),
        (["packs", "install", "{pack}"], ""),
        (["packs", "verify", "hippocampus-x1_4"], ""),
        ([*SEGMENT, "--engine", "openvino"], "openvino"),
        ([*SEGMENT, "--engine", "onnxruntime"], "onnxruntime"),
        ([*SEGMENT, "--size", "auto"], "openvino"),
        (["compare", "{labels}", "{labels}", "--labels", "hippocampus"], ""),
        (["batch", "{scans}", "{results}", "--pack", "hippocampus", "--unchecked"], "openvino"),
    ],
    ids=["help", "list", "install", "verify", "openvino", "onnxruntime", "auto", "compare", "batch"],
)
def test_a_command_reports_to_nobody_and_leaves_nothing_behind(
    tmp_path: Path, command: list[str], engines: str
) -> None:
    for engine in engines.split():
        pytest.importorskip(engine)
    scans, results, home = (tmp_path / name for name in ("scans", "results", "home"))
    scan, out, labels = scans / "scan.nii.gz", tmp_path / "out.nii.gz", tmp_path / "labels.nii.gz"
    home.mkdir()
    scans.mkdir()
    voxels = np.random.default_rng(0).normal(100, 10, (36, 50, 35)).astype(np.float32)
    write_volume(Volume(voxels, (1.0, 1.0, 1.0)), scan)
    write_volume(Volume((voxels > 100).astype(np.uint8), (1.0, 1.0, 1.0)), labels)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "KDSEGMENTATOR_"))}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home), "TMPDIR": str(tmp_path)}
    places = {"scan": scan, "out": out, "labels": labels, "scans": scans, "results": results, "pack": PACK}
    arguments = [part.format(**places) for part in command]
    run = [sys.executable, "-c", _WATCHED, str(tmp_path), *arguments]
    log = tmp_path / "strace"
    traced = shutil.which("strace") is not None  # native code does not ask Python
    if traced:
        calls = "connect,sendto,sendmsg,openat,creat,mkdir,rename"
        run = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", f"trace={calls}", "-o", str(log), *run]
    finished = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert "NETWORK" not in finished.stderr
    assert "WRITTEN" not in finished.stderr, finished.stderr
    assert re.findall(r"^ENGINES ?(.*)$", finished.stderr, re.MULTILINE) == ([engines] if command != ["--help"] else [])
    if traced:
        assert native_calls(log.read_text(errors="replace"), tmp_path) == []
    files = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    assert [path for path in files if "KDSegmentator" not in path.parts] == []


def native_calls(log: str, mine: Path) -> list[str]:
    """Return the system calls of a log of strace that reach a network, or write anywhere but in a folder."""
    writes = re.compile(r"(?:creat|mkdir|rename)\(\"|openat\([^,]*, \".*(?:O_WRONLY|O_RDWR|O_CREAT)")
    allowed = (f'"{mine}', '"/dev/', '"/proc/self', "__pycache__", "ENOENT", "EEXIST")
    return [
        line
        for line in log.splitlines()
        if "AF_INET" in line or (writes.search(line) and not any(place in line for place in allowed))
    ]


def test_the_watch_sees_what_it_is_there_for(tmp_path: Path) -> None:
    log = """\
1 connect(3, {sa_family=AF_INET, sin_port=htons(443)}, 16) = -1 ENETUNREACH
1 openat(AT_FDCWD, "/root/.cache/Microsoft/deviceid", O_WRONLY|O_CREAT, 0666) = 3
1 mkdir("/root/.cache/Microsoft", 0777) = 0
1 openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3
1 connect(3, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT
"""
    mine = f'1 openat(AT_FDCWD, "{tmp_path}/out.nii.gz", O_RDWR|O_CREAT, 0600) = 4\n'
    assert native_calls(mine + log, tmp_path) == log.splitlines()[:3]
