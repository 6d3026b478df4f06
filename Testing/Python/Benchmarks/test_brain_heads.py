"""The heads that brain extraction is tried on lie where the original lies; the script runs on small ones."""

import csv

import numpy as np
import pytest
from brain_heads import main, variants
from brain_structures import AAL

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import write_volume
from KDSegmentatorLib.packs.store import PackStore
from support.chained_packs import after_earlier, install_earlier, install_later
from support.generated_packs import manifest, write_pack

SIZE = 24
GRID = ((1.0, 1.0, 1.0), (12.0, 20.0, -7.0), ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)))


def places(volume):
    """Return L + 10 P + 100 S in mm of every voxel."""
    k, j, i = np.indices(volume.voxels.shape)
    left, posterior, superior, _ = np.tensordot(volume.affine, np.stack([i, j, k, np.ones_like(i)]), axes=1)
    return left + 10 * posterior + 100 * superior


def test_every_variant_lies_where_the_original_does():
    empty = Volume(np.zeros((SIZE,) * 3, np.float32), *GRID)
    image = empty.with_voxels(places(empty).astype(np.float32))
    brain = empty.with_voxels((image.voxels > 500).astype(np.uint8))
    heads = list(variants(image, brain))
    assert len({head.name for head in heads}) == len(heads) == 8
    for head in heads:
        assert head.brain.same_grid(head.image)
        if head.name != "ch2 stripped":
            # linear interpolation and means keep a linear function; beyond the last voxel it is held
            inner = (slice(0, -1),) * 3 if "mm" in head.name else (slice(None),) * 3
            np.testing.assert_allclose(head.image.voxels[inner], places(head.image)[inner], atol=0.05)
            assert head.brain.voxels[inner][places(head.image)[inner] > 1200].all()
            assert not head.brain.voxels[inner][places(head.image)[inner] < -200].any()
        else:
            assert not head.image.voxels[brain.voxels == 0].any()
    right = next(head for head in heads if head.name == "ch2 right half")
    assert right.image.affine[0, 3] == pytest.approx(GRID[1][0] - SIZE // 2)  # RAS: i runs to the right


def test_the_script(tmp_path, capsys):
    random = np.random.default_rng(0)
    image = Volume(random.integers(1, 200, (SIZE,) * 3).astype(np.uint8), *GRID)
    (tmp_path / "mricron").mkdir()
    write_volume(image, tmp_path / "mricron" / "ch2.nii.gz")
    write_volume(image.with_voxels(image.voxels // 2), tmp_path / "mricron" / "ch2bet.nii.gz")
    pack = write_pack(tmp_path / "generated-x1_4", manifest=manifest(labels=1))
    output = tmp_path / "pictures"
    arguments = [str(pack.folder), "--output", str(output), "--threads", "1"]
    assert main([*arguments, "--mricron", str(tmp_path / "mricron")]) == 0
    with (output / "heads.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert all(0 <= float(row["dice"]) <= 1 and float(row["reference_ml"]) > 0 for row in rows)
    assert len(list(output.glob("x1_4-*.png"))) == 8
    assert main([*arguments, "--mricron", str(tmp_path / "nothing")]) == 1
    assert "ch2.nii.gz" in capsys.readouterr().err


def test_the_script_with_structures(tmp_path):
    """The earlier pack finds what is bright; the later one calls it all by the names that AAL has."""
    names = [f"{side} {structure}" for structure in AAL for side in ("Left", "Right")]
    store = PackStore(tmp_path / "user", tmp_path / "shipped")
    earlier = install_earlier(store, tmp_path / "packs")
    later = install_later(store, tmp_path / "packs", region=after_earlier(), labels=names)
    k, j, i = np.indices((SIZE,) * 3)
    ball = (k - 12) ** 2 + (j - 11) ** 2 + (i - 12) ** 2 < 60
    noise = np.random.default_rng(0).integers(1, 60, (SIZE,) * 3)
    image = Volume((noise + 150 * ball).astype(np.uint8), *GRID)
    (tmp_path / "mricron").mkdir()
    write_volume(image, tmp_path / "mricron" / "ch2.nii.gz")
    write_volume(image.with_voxels(ball.astype(np.uint8)), tmp_path / "mricron" / "ch2bet.nii.gz")
    write_volume(image.with_voxels(np.where(ball, 37, 0).astype(np.uint8)), tmp_path / "mricron" / "aal.nii.gz")
    output, page = tmp_path / "pictures", tmp_path / "page.md"
    arguments = [str(earlier.folder), "--structures", str(later.folder), "--output", str(output), "--threads", "1"]
    assert main([*arguments, "--mricron", str(tmp_path / "mricron"), "--page", str(page)]) == 0
    with (output / "chain.csv").open(newline="") as file:
        chain = list(csv.DictReader(file))
    assert [row["outcome"] for row in chain] == ["segmented"] * 8
    assert len(list(output.glob("structures-*.png"))) == 8
    with (output / "aal.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["structure"] for row in rows] == names
    voxel_ml = 0.001
    assert float(rows[0]["reference_ml"]) == pytest.approx(ball.sum() * voxel_ml, abs=0.006)
    assert {float(row["reference_ml"]) for row in rows[1:]} == {0.0}
    text = page.read_text(encoding="utf-8")
    assert text.count("| ch2 |") == 1 + 1
    assert f"| {rows[0]['structure']} | {rows[0]['dice']} |" in text
