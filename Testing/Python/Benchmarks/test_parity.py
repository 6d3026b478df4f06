"""The comparison with stock nnU-Net: what it counts, what it writes, and that it fails where it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")
pytest.importorskip("onnx", reason="install the extra 'distill'")

import kdbench.parity as comparison
import parity
from kdbench.fitted import HEAD_NECK_CT
from kdbench.parity import CaseParity, Difference, is_equal, with_section
from KDSegmentatorLib.inference.segmentation import Segmentation

LABELS = ("Brainstem", "Spinal Cord", "Left Parotid Gland", "Right Parotid Gland", "Mandible")
TINY = replace(HEAD_NECK_CT, patch_size=(16, 16, 16), spacing=(2.2, 2.0, 2.2), features=(8, 16))


def test_only_foreground_counts() -> None:
    ours, reference = np.zeros((2, 10, 10, 10), dtype=np.uint8)
    ours[0, 0, :3], reference[0, 0, :2] = 1, 1
    reference[0, 0, 0] = 2
    found = Difference.of(ours, reference)
    assert (found.foreground, found.different) == (3, 2)
    assert found.equal == pytest.approx(1 / 3)
    assert Difference.of(0 * ours, 0 * ours).equal == 0  # nothing was compared


@pytest.mark.parametrize(("stock", "float32", "expected"), [(1, 1, True), (2, 0, False), (0, 2, False)])
def test_both_sums_have_to_be_equal(stock: int, float32: int, expected: bool) -> None:
    differences = [Difference(foreground=1000, different=different) for different in (stock, float32)]
    case = CaseParity(
        name="case", shape=(10, 10, 10), windows=1, labels=1, stock=differences[0], float32=differences[1]
    )
    assert is_equal([case]) is expected
    assert not is_equal([])


def test_sections_are_replaced_by_their_heading() -> None:
    page = with_section(with_section("# Title\n\nWords.\n", "## One\n\nold"), "## Two\n\nother")
    assert page == "# Title\n\nWords.\n\n## One\n\nold\n\n## Two\n\nother\n"
    assert with_section(page, "## One\n\nnew") == page.replace("old", "new")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four CTs of bright blocks, stored in PLI as the real ones are."""
    folder = tmp_path / "Dataset201_Blocks"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        labels = np.zeros((26, 30, 28), dtype=np.uint8)
        for value in range(1, 6):
            corner = random.integers(3, 16, size=3)
            labels[tuple(slice(start, start + 7) for start in corner)] = value
        for value in range(1, 6):  # the last ones must not hide the first
            labels[2 * value : 2 * value + 2, 20:26, 3:9] = value
        image = np.where(labels, 150 * labels.astype(int), -400) + random.normal(0, 30, size=labels.shape)
        image[:2] = -1000
        for array, name in ((image.astype(np.int16), "imagesTr/c{}_0000"), (labels, "labelsTr/c{}")):
            written = SimpleITK.GetImageFromArray(array)
            written.SetSpacing((2.1, 2.1, 1.6))
            written.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
            SimpleITK.WriteImage(written, str(folder / f"{name.format(number)}.nii.gz"))
    description: dict[str, Any] = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{name: value for value, name in enumerate(LABELS, start=1)}},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def test_the_script_compares_writes_and_fails_where_voxels_differ(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "HEAD_NECK_CT", TINY)
    page = tmp_path / "parity.md"
    command = ["head_neck_ct", str(dataset), "--fit", "--cases", "1", "--page", str(page)]
    assert parity.main(command) == 0
    text = page.read_text()
    assert "| c0 | 26 x 30 x 28 | 18 |" in text
    assert "100.0000% with its sums in float32" in text
    assert "enough" in text

    monkeypatch.setattr(comparison, "segment", one_voxel_off(comparison.segment))
    assert parity.main(command) == 1
    text = page.read_text()
    assert "too little" in text
    assert text.count("## ") == 1


def one_voxel_off(segment: Callable[..., Segmentation]) -> Callable[..., Segmentation]:
    def shifted(*arguments: Any, **options: Any) -> Segmentation:
        found = segment(*arguments, **options)
        return replace(found, volume=found.volume.with_voxels(np.roll(found.volume.voxels, 1, axis=0)))

    return shifted
