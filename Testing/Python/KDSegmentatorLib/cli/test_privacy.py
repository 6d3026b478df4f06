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
        (["packs", "list"], ""),
        (["packs", "show", "hippocampus-x1_4"], ""),
        ([*SEGMENT, "--engine", "openvino"], "openvino"),
        ([*SEGMENT, "--engine", "onnxruntime"], "onnxruntime"),
        (SEGMENT, "openvino"),
        (["compare", "{labels}", "{labels}"], ""),
        (["batch", "{scans}", "{results}", "--pack", "hippocampus", "--unchecked"], "openvino"),
    ],
    ids=["list", "show", "openvino", "onnxruntime", "auto", "compare", "batch"],
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
    arguments = [part.format(scan=scan, out=out, labels=labels, scans=scans, results=results) for part in command]
    run = [sys.executable, "-c", _WATCHED, str(tmp_path), *arguments]
    log = tmp_path / "strace"
    traced = shutil.which("strace") is not None and engines == "onnxruntime"  # its native code does not ask Python
    if traced:
        run = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(log), *run]
    finished = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert "NETWORK" not in finished.stderr
    assert "WRITTEN" not in finished.stderr, finished.stderr
    assert re.findall(r"^ENGINES ?(.*)$", finished.stderr, re.MULTILINE) == [engines]
    if traced:
        assert "AF_INET" not in log.read_text()
    files = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    assert [path for path in files if "KDSegmentator" not in path.parts] == []
