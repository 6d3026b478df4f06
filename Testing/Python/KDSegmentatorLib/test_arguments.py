"""Whatever a Python user passes by mistake is an error of ours that says what to give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib import RunOptions, Segmenter, Volume, read_volume, write_volume
from KDSegmentatorLib.arguments import close_names, described, meant
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.packs.store import PackStore
from support.generated_packs import write_pack

SMALL = Volume(np.random.default_rng(0).normal(100, 10, (8, 9, 10)).astype(np.float32), (1.0, 1.0, 1.0))


def wrong(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: RunOptions(lables=["Liver"]), r"no option 'lables' \(do you mean 'labels'\?\); there are: size"),
        (lambda: RunOptions(wrong("x1/4")), r"name the options: RunOptions\(size='x1/4'\)"),
        (lambda: RunOptions(device="tpu"), "no device 'tpu'.*'cpu'"),
        (lambda: RunOptions(engine="openvnio"), r"do you mean 'openvino'"),
        (lambda: Segmenter("generated", lables=[]), r"a Segmenter has no option 'lables' \(do you mean 'labels'\?\)"),
        (lambda: Segmenter("generated", foo=1), "no option 'foo'; there are: size, engine"),
        (lambda: Segmenter("generated", "x1/4", size="x1"), "the size was given twice, 'x1/4' and 'x1'"),
        (lambda: Segmenter(wrong(None)), "the task must be a name, .* not None"),
        (lambda: Segmenter(wrong(Path("generated"))), "the task must be a name, .* not a PosixPath|WindowsPath"),
        (lambda: Segmenter("generated", store=wrong("packs")), "store must be a PackStore or None, not 'packs'"),
        (lambda: Segmenter("generated", regions=wrong(3)), "regions must be a Regions or None, not 3"),
        (lambda: Segmenter("generated", cancel=wrong(True)), "cancel must be a function, .* not True"),
        (lambda: read_volume(wrong(None)), "give the name of an image, .* not None"),
        (lambda: read_volume(""), "give the name of an image, .* not ''"),
        (lambda: read_volume(wrong(b"t1.nii")), "give the name of an image"),
        (lambda: read_volume(wrong([])), "give the name of an image, .* not a list"),
        (lambda: read_volume(wrong(SMALL)), "give the name of an image, .* not a KDSegmentatorLib.geometry.Volume"),
        (lambda: write_volume(SMALL, wrong(None)), "give the name of the file to write"),
        (
            lambda: write_volume(wrong(SMALL.voxels), "a.nii"),
            r"a Volume, not a numpy.ndarray of shape \(8, 9, 10\)",
        ),
        (lambda: write_volume(wrong("a.nii"), wrong(SMALL)), "give the name of the file to write"),
        (lambda: write_volume(SMALL, "a.nii", like=wrong(3)), r"\(like\), as text or pathlib.Path, not 3"),
        (lambda: write_volume(SMALL, "a.nii", labels=wrong(["Liver"])), "labels must be like .* not a list"),
        (lambda: SMALL.with_voxels(wrong(None)), "voxels must be a numpy array"),
        (lambda: SMALL.reoriented(wrong(3)), "axis codes must name .* got 3"),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[], object], said: str) -> None:
    with pytest.raises(KDSegmentatorError, match=said):
        call()


@pytest.mark.parametrize("frame", ["a", 1.0, True, [0]])
def test_a_frame_that_is_no_number(tmp_path: Path, frame: Any) -> None:
    write_volume(SMALL, tmp_path / "scan.nii")
    with pytest.raises(KDSegmentatorError, match="frame must be a whole number"):
        read_volume(tmp_path / "scan.nii", frame=frame)
    assert read_volume(tmp_path / "scan.nii", frame=wrong(np.int64(0))).size == SMALL.size


def test_what_cannot_be_called_is_named_before_the_work(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    store = PackStore(tmp_path / "user", tmp_path / "shipped")
    store.install(write_pack(tmp_path / "generated-x1_4").folder)
    segmenter = Segmenter("Generated", "X1/4", store=store, engine="OnnxRuntime", threads=wrong(np.int64(1)))
    assert (segmenter.options.engine, segmenter.options.threads) == ("onnxruntime", 1)
    with pytest.raises(KDSegmentatorError, match="progress must be a function"):
        segmenter(SMALL, progress=wrong(3))
    with pytest.raises(KDSegmentatorError, match="cancel must be a function"):
        segmenter(SMALL, cancel=wrong(True))
    with pytest.raises(KDSegmentatorError, match="a scan, not a Segmentation"):
        segmenter(wrong(segmenter(SMALL)))


def test_names_that_are_nearly_right() -> None:
    tasks = ["brain-extraction", "brain-t1", "head-neck-ct", "hippocampus"]
    assert close_names("hipocampus", tasks) == ["hippocampus"]
    assert close_names("BRAIN", tasks) == ["brain-extraction", "brain-t1"]
    assert close_names("brain_t1", tasks) == ["brain-t1"]
    assert close_names("prostate", tasks) == close_names("", tasks) == close_names("-", tasks) == []
    assert meant("hipocampus", tasks) == " (do you mean 'hippocampus'?)"


def test_a_value_is_described_without_all_its_content() -> None:
    assert described(np.zeros((2, 3))) == "a numpy.ndarray of shape (2, 3)"
    assert described({"size": "x1"}) == "a dict"
