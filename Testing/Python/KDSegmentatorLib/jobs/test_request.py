from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from KDSegmentatorLib.errors import JobError
from KDSegmentatorLib.jobs.request import (
    REQUEST_NAME,
    BatchRequest,
    Request,
    SegmentRequest,
    Settings,
    parse_request,
    read_request,
    request_text,
    write_request,
)

SETTINGS = Settings(
    task="hippocampus",
    user_packs="/home/Jürgen Müller/packs 中文",
    shipped_packs="C:\\Program Files\\Slicer",
    engine="openvino",
    precision="int8",
    device="cpu",
    threads=3,
    mirroring=True,
    labels=("Anterior hippocampus", "Hippocampe postérieur"),
    entropy=True,
    check_input=False,
    region="given",
)
SEGMENT = SegmentRequest(settings=SETTINGS, sizes=("x1", "x1/4"), input="/data/ß scan.nrrd")
BATCH = BatchRequest(
    settings=SETTINGS,
    size="auto",
    input_folder="/in",
    inputs=("a.nii", "b/ü.nrrd"),
    output_folder="/out",
    suffix=".mha",
    resume=False,
)


def document(request: Request = SEGMENT) -> Any:
    return json.loads(request_text(request))


@pytest.mark.parametrize("request_", [SEGMENT, BATCH])
def test_a_request_comes_back_as_it_was(tmp_path: Path, request_: Request) -> None:
    write_request(request_, tmp_path)
    assert read_request(tmp_path / REQUEST_NAME) == request_
    assert [path.name for path in tmp_path.iterdir()] == [REQUEST_NAME]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": 2}, "two versions of KDSegmentator"),
        ({"protocol": None}, "two versions of KDSegmentator"),
        ({"extra": 1}, "extra: unknown field"),
        ({"segment": None}, "one of 'segment' and 'batch'"),
        ({"batch": document(BATCH)["batch"]}, "one of 'segment' and 'batch'"),
    ],
)
def test_what_is_no_request_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse_request(json.dumps({**document(), **change}), "request.json")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"protocol": 1'])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(JobError, match=r"^request\.json: "):
        parse_request(text, "request.json")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (replace(SEGMENT, sizes=()), r"segment\.sizes: must have at least 1"),
        (replace(SEGMENT, sizes=("x1", "x1")), r"segment\.sizes: must not have a value twice"),
        (replace(SEGMENT, settings=replace(SETTINGS, threads=0)), r"settings\.threads: must be at least 1"),
        (replace(SEGMENT, settings=replace(SETTINGS, labels=())), r"settings\.labels: must have at least 1"),
        (replace(SEGMENT, settings=replace(SETTINGS, mirroring=1)), r"settings\.mirroring: must be true or false"),  # type: ignore[arg-type]
        (replace(BATCH, inputs=()), r"batch\.inputs: must have at least 1"),
        (replace(BATCH, inputs=("a.nii", "a.nii")), r"batch\.inputs: must not have a value twice"),
        (replace(BATCH, suffix=".png"), r"batch\.suffix: must be '\.nii\.gz' or"),  # type: ignore[arg-type]
    ],
)
def test_a_request_that_makes_no_sense_is_not_written(tmp_path: Path, request_: Request, message: str) -> None:
    with pytest.raises(JobError, match=message):
        write_request(request_, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_request_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be read"):
        read_request(tmp_path / REQUEST_NAME)


def test_reading_a_request_does_not_load_numpy() -> None:
    """Its libraries look at the number of threads when they are loaded: too early would be for ever."""
    code = "import sys, KDSegmentatorLib.jobs.worker; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
