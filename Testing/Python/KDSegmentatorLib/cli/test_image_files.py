"""``kdseg segment`` and image files: a volume of a series, what a result keeps of its image, Slicer's own format."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from KDSegmentatorLib.io.images import read_volume, write_volume

PACK = ["--pack", "generated", "--size", "x1/4"]


@pytest.fixture
def series(scan: Path) -> Path:
    """A 4-D file of which the second volume is the scan."""
    image = SimpleITK.ReadImage(str(scan))
    path = scan.with_name("series.nii.gz")
    SimpleITK.WriteImage(SimpleITK.JoinSeries([image * 0, image, image * 2]), str(path))
    return path


def test_one_volume_of_a_series_is_segmented(kdseg: Any, scan: Path, series: Path) -> None:
    one, other = scan.with_name("one.nii.gz"), scan.with_name("other.nii.gz")
    assert kdseg("segment", scan, one, *PACK)[0] == 0
    record = scan.with_name("record.json")
    code, _, err = kdseg("segment", series, other, *PACK, "--frame", 1, "--record", record)
    assert code == 0, err
    assert json.loads(record.read_text(encoding="utf-8"))["input_frame"] == 1
    np.testing.assert_array_equal(read_volume(one).voxels, read_volume(other).voxels)
    assert read_volume(other).same_grid(read_volume(scan))


@pytest.mark.parametrize(("frame", "message"), [([], "choose one with --frame"), (["--frame", 3], "no volume 3")])
def test_a_series_without_a_volume_that_is_there_is_refused(
    kdseg: Any, scan: Path, series: Path, frame: list[Any], message: str
) -> None:
    code, _, err = kdseg("segment", series, scan.with_name("labels.nii"), *PACK, *frame)
    assert code == 2
    assert message in err
    assert "0 to 2" in err
    assert not scan.with_name("labels.nii").exists()


def test_a_result_stays_in_the_space_of_its_image(kdseg: Any, scan: Path) -> None:
    path = scan.with_name("mni.nii")
    write_volume(read_volume(scan), path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<2h", data, 252, 4, 4)  # qform and sform code: MNI
    path.write_bytes(data)
    labels, entropy = scan.with_name("labels.nii"), scan.with_name("entropy.nii")
    code, _, err = kdseg("segment", path, labels, *PACK, "--entropy", entropy)
    assert code == 0, err
    for written in (labels, entropy):
        assert struct.unpack_from("<2h", written.read_bytes(), 252) == (4, 4)
        assert written.read_bytes()[256:328] == data[256:328]
    assert b"<![CDATA[structure 2]]>" in labels.read_bytes()[352:2000]


def test_slicers_own_format_has_names_and_codes(kdseg: Any, scan: Path) -> None:
    path, plain = scan.with_name("result.seg.nrrd"), scan.with_name("plain.nrrd")
    for output in (path, plain):
        code, _, err = kdseg("segment", scan, output, *PACK)
        assert code == 0, err
    image = SimpleITK.ReadImage(str(path))
    keys = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert [keys[f"Segment{n}_Name"] for n in range(3)] == ["structure 1", "structure 2", "structure 3"]
    assert keys["Segment1_LabelValue"] == "2"
    assert "TerminologyEntry:Segmentation category and type" in keys["Segment0_Tags"]
    np.testing.assert_array_equal(read_volume(path).voxels, read_volume(plain).voxels)
