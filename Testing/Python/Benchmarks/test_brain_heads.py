"""The heads that brain extraction is tried on lie where the original lies; the script runs on small ones."""

import csv

import brain_structures
import numpy as np
import pytest
import SimpleITK
from brain_heads import main, read_series, variants
from brain_structures import Chain, HeldOutCase, compare_with_aal, compare_with_reference

from KDSegmentatorLib.errors import GeometryError, ImageReadError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import write_volume
from KDSegmentatorLib.packs.store import PackStore
from support.chained_packs import after_earlier, install_earlier, install_later
from support.labels import label

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


def box(corner, size):
    """Return where a box of voxels is, by its first (z, y, x) and its size."""
    mask = np.zeros((SIZE,) * 3, bool)
    mask[tuple(slice(first, first + length) for first, length in zip(corner, size, strict=True))] = True
    return mask


def write_heads(folder, image, brain, **others):
    folder.mkdir()
    volume = Volume(np.zeros((SIZE,) * 3, np.uint8), *GRID)
    for name, voxels in {"ch2": image, "ch2bet": brain, **others}.items():
        write_volume(volume.with_voxels(voxels.astype(np.uint8)), folder / f"{name}.nii.gz")
    return folder


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_script(tmp_path, capsys):
    """The pack finds what is bright, a box; the reference is the same box, 2 of its 8 rows lower."""
    store = PackStore(tmp_path / "user", tmp_path / "shipped")
    pack = install_earlier(store, tmp_path / "packs", threshold=0.3)
    bright, brain = box((10, 8, 7), (8, 8, 10)), box((8, 8, 7), (8, 8, 10))
    noise = np.random.default_rng(0).integers(1, 36, bright.shape)  # a flat image is refused as a label map
    heads = write_heads(tmp_path / "mricron", noise + 220 * bright, brain)
    output, page = tmp_path / "pictures", tmp_path / "page.md"
    arguments = [str(pack.folder), "--output", str(output), "--threads", "1", "--page", str(page)]
    assert main([*arguments, "--mricron", str(heads)]) == 0
    rows = {row["head"]: row for row in read_table(output / "heads.csv")}
    assert len(rows) == len(list(output.glob("x1_4-*.png"))) == 8
    # Dice, and ml: 640 voxels of 1 mm, 6 of 8 rows in common; of i, 5 of 10 columns lie in the right half
    expected = {
        "ch2": (0.75, 0.6, 0.6),
        "ch2 stripped": (2 * 480 / (640 + 480), 0.6, 0.5),
        "ch2 right half": (0.75, 0.3, 0.3),
        "ch2 upper part": (0.75, 0.6, 0.6),
    }
    for name, (dice, reference_ml, volume_ml) in expected.items():
        row = rows[name]
        assert float(row["dice"]) == pytest.approx(dice, abs=1e-4), name
        assert (float(row["reference_ml"]), float(row["volume_ml"])) == (reference_ml, volume_ml), name
        assert row["pieces"] == "1"
    text = page.read_text(encoding="utf-8")
    assert "- ch2 is the head of" in text
    assert "pydeface" not in text and "nilearn" not in text
    assert main([*arguments, "--mricron", str(tmp_path / "nothing")]) == 1
    assert "ch2.nii.gz" in capsys.readouterr().err


BLOCKS = {
    37: "Left hippocampus",
    38: "Right hippocampus",
    41: "Left amygdala",
    42: "Right amygdala",
    71: "Left caudate",
    72: "Right caudate",
    73: "Left putamen",
    74: "Right putamen",
    75: "Left pallidum",
    76: "Right pallidum",
    77: "Left thalamus",
    78: "Right thalamus",
}
"""AAL's values (Tzourio-Mazoyer et al. 2002)."""


def aal_blocks():
    """Return an AAL with a block of 2 n x 2 x 2 voxels for its n-th value, the left ones at small i of ``GRID``."""
    aal = np.zeros((48, 48, 12), np.uint8)
    for n, (value, name) in enumerate(BLOCKS.items(), start=1):
        i = 2 if name.startswith("Left") else 8
        aal[2 : 2 + 2 * n, 4 * (n - 1) : 4 * (n - 1) + 2, i : i + 2] = value
    return Volume(aal, *GRID)


def test_structures_are_compared_with_the_right_values_of_aal(capsys):
    aal = aal_blocks()
    ours = np.zeros_like(aal.voxels)
    labels = [label(value, name) for value, name in enumerate(reversed(BLOCKS.values()), start=1)]
    values = {each.name: each.value for each in labels}
    for aal_value, name in BLOCKS.items():
        ours[1:][aal.voxels[:-1] == aal_value] = values[name]  # each lies 1 mm higher
    rows = list(compare_with_aal(aal.with_voxels(ours), labels, aal))
    assert [row["structure"] for row in rows] == list(BLOCKS.values())
    for n, row in enumerate(rows, start=1):
        assert row["dice"] == pytest.approx((2 * n - 1) / (2 * n), abs=6e-4)
        assert row["centre_mm"] == 1.0
        assert row["reference_ml"] == row["volume_ml"] == round(8 * n / 1000, 2)
    capsys.readouterr()
    rows = list(compare_with_aal(aal.with_voxels(ours), labels[1:], aal))
    assert [row["structure"] for row in rows] == list(BLOCKS.values())[:-1]
    assert "Right thalamus: the pack does not have it" in capsys.readouterr().out
    shifted = Volume(aal.voxels, aal.spacing, (12.0, 21.0, -7.0), aal.direction)
    with pytest.raises(GeometryError, match=r"AAL .* is not on the grid of ch2"):
        next(compare_with_aal(aal.with_voxels(ours), labels, shifted))


def test_the_script_with_structures(tmp_path):
    """The earlier pack finds what is bright; the later one calls it all by the names that AAL has."""
    store = PackStore(tmp_path / "user", tmp_path / "shipped")
    earlier = install_earlier(store, tmp_path / "packs")
    later = install_later(store, tmp_path / "packs", region=after_earlier(), labels=list(BLOCKS.values()))
    k, j, i = np.indices((SIZE,) * 3)
    ball = (k - 12) ** 2 + (j - 11) ** 2 + (i - 12) ** 2 < 60
    noise = np.random.default_rng(0).integers(1, 60, (SIZE,) * 3)
    aal = np.where(ball & (i >= 12), 37, 0)
    heads = write_heads(tmp_path / "mricron", noise + 150 * ball, ball, aal=aal)
    output, page = tmp_path / "pictures", tmp_path / "page.md"
    arguments = [str(earlier.folder), "--structures", str(later.folder), "--output", str(output), "--threads", "1"]
    assert main([*arguments, "--mricron", str(heads), "--page", str(page)]) == 0
    chain = read_table(output / "chain.csv")
    assert [row["outcome"] for row in chain] == ["segmented"] * 8
    assert len(list(output.glob("structures-*.png"))) == 8
    rows = read_table(output / "aal.csv")
    assert [row["structure"] for row in rows] == list(BLOCKS.values())
    assert float(rows[0]["reference_ml"]) == round(np.count_nonzero(aal) / 1000, 2)
    assert {float(row["reference_ml"]) for row in rows[1:]} == {0.0}
    text = page.read_text(encoding="utf-8")
    assert text.count("| ch2 |") == 1 + 1
    assert f"| {rows[0]['structure']} | {rows[0]['dice']} |" in text


def test_a_refused_ch2_costs_only_the_comparison(tmp_path, capsys):
    store = PackStore(tmp_path / "user", tmp_path / "shipped")
    earlier = install_earlier(store, tmp_path / "packs", threshold=1000.0)  # nothing is so bright
    later = install_later(store, tmp_path / "packs", region=after_earlier())
    image = np.random.default_rng(0).integers(1, 200, (SIZE,) * 3)
    heads = write_heads(tmp_path / "mricron", image, image > 100, aal=np.where(image > 100, 37, 0))
    output, page = tmp_path / "pictures", tmp_path / "page.md"
    arguments = [str(earlier.folder), "--structures", str(later.folder), "--output", str(output), "--threads", "1"]
    assert main([*arguments, "--mricron", str(heads), "--page", str(page)]) == 0
    assert all(row["outcome"].startswith("refused: ") for row in read_table(output / "chain.csv"))
    assert not (output / "aal.csv").exists()
    assert "AAL" not in page.read_text(encoding="utf-8")
    assert "ch2 was refused and is not compared with AAL" in capsys.readouterr().out


def held_out_chain(tmp_path):
    store = PackStore(tmp_path / "user", tmp_path / "shipped")
    earlier = install_earlier(store, tmp_path / "packs", threshold=0.3)
    later = install_later(store, tmp_path / "packs", region=after_earlier(), labels=["One"])
    return Chain(extraction=earlier, structures=later, threads=1)


def held_out_case(name, *, flat=False):
    brain = box((6, 8, 7), (8, 8, 10))
    noise = np.random.default_rng(0).integers(1, 36, brain.shape)
    grid = Volume(np.zeros((SIZE,) * 3, np.uint8), *GRID)
    image = np.where(brain, 220 + (0 if flat else noise), 0).astype(np.uint8)
    return HeldOutCase(name=name, image=grid.with_voxels(image), reference=grid.with_voxels(brain.astype(np.uint8)))


def test_a_refused_held_out_scan_has_a_row(tmp_path):
    """The second scan is flat, as a label map is."""
    cases = [held_out_case(name, flat=name == "B") for name in "ABC"]
    first, refused, third, mean = compare_with_reference(held_out_chain(tmp_path), cases)
    assert [row["case"] for row in (first, refused, third, mean)] == ["A", "B", "C", "mean"]
    assert refused["outcome"].startswith("refused: ")
    assert (refused["alone"], refused["difference"]) == ("", "")
    assert first["outcome"] == third["outcome"] == "segmented"
    assert mean["outcome"] == "2 of 3 segmented"
    assert mean["alone"] == first["alone"] == third["alone"]
    (row,) = compare_with_reference(held_out_chain(tmp_path / "other"), cases[1:2])
    assert row == refused  # there is no mean of nothing


def test_held_out_scans_are_run_in_float32_with_networks_that_are_loaded_once(tmp_path, monkeypatch):
    asked = []
    original = brain_structures.choose_engine

    def choose(pack, request):
        asked.append((pack.manifest.id, request.precision, request.threads))
        return original(pack, request)

    monkeypatch.setattr(brain_structures, "choose_engine", choose)
    chain = held_out_chain(tmp_path)
    list(compare_with_reference(chain, [held_out_case(name) for name in "AB"]))
    packs = (chain.extraction.manifest.id, chain.structures.manifest.id)
    assert asked == [(pack, "float32", 1) for pack in packs]


def test_a_reference_on_another_grid_is_refused():
    image = Volume(np.zeros((SIZE,) * 3, np.uint8), *GRID)
    flipped = Volume(image.voxels, image.spacing, image.origin)
    with pytest.raises(GeometryError, match=r"OAS_1: the reference .* is not on the grid of the image"):
        HeldOutCase(name="OAS_1", image=image, reference=flipped)


def test_held_out_scans_are_compared_alone_and_after_extraction(tmp_path, capsys):
    """Extraction leaves the dimmer half of a stripped scan away, and with it the structures of that half."""
    store = PackStore(tmp_path / "user", tmp_path / "shipped")
    earlier = install_earlier(store, tmp_path / "packs", threshold=0.3)
    later = install_later(store, tmp_path / "packs", region=after_earlier(), labels=["One"])
    bright, dim = box((6, 8, 7), (8, 8, 10)), box((14, 8, 7), (4, 8, 10))
    noise = np.random.default_rng(0).integers(1, 36, bright.shape)
    image = np.where(bright | dim, noise + 220 * bright, 0)
    dataset = tmp_path / "Dataset101_Brains"
    for folder, name, voxels in (("imagesTr", "A_0000", image), ("labelsTr", "A", bright | dim)):
        (dataset / folder).mkdir(parents=True)
        volume = Volume(voxels.astype(np.uint8), *GRID)
        write_volume(volume, dataset / folder / f"{name}.nii.gz")
    output, page = tmp_path / "pictures", tmp_path / "page.md"
    arguments = [str(earlier.folder), "--output", str(output), "--threads", "1", "--page", str(page)]
    held_out = ["--dataset", str(dataset), "--held-out", "A"]
    assert main([*arguments, "--structures", str(later.folder), *held_out]) == 0
    row, mean = read_table(output / "held-out.csv")
    assert (row.pop("case"), mean.pop("case")) == ("A", "mean")
    assert (row.pop("outcome"), mean.pop("outcome")) == ("segmented", "1 of 1 segmented")
    assert row == mean
    assert float(row["extraction"]) == pytest.approx(2 * 640 / (640 + 960), abs=1e-4)
    assert float(row["after_extraction"]) < float(row["alone"])
    assert float(row["difference"]) == pytest.approx(float(row["after_extraction"]) - float(row["alone"]), abs=2e-4)
    assert "## Held-out scans" in page.read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main([*arguments, *held_out])
    assert "--structures" in capsys.readouterr().err


def test_tables_that_were_complete_stay(tmp_path):
    store = PackStore(tmp_path / "user", tmp_path / "shipped")
    earlier = install_earlier(store, tmp_path / "packs")
    later = install_later(store, tmp_path / "packs", region=after_earlier())
    image = np.random.default_rng(0).integers(1, 200, (SIZE,) * 3)
    heads = write_heads(tmp_path / "mricron", image, image > 100)  # no AAL
    output, page = tmp_path / "pictures", tmp_path / "page.md"
    arguments = [str(earlier.folder), "--structures", str(later.folder), "--output", str(output), "--threads", "1"]
    assert main([*arguments, "--mricron", str(heads), "--page", str(page)]) == 1
    assert len(read_table(output / "heads.csv")) == 8
    assert not page.exists()


def write_series(folder, count, *, slices=3):
    """Write DICOM series of increasing intensity into one folder."""
    folder.mkdir()
    for number in range(1, count + 1):
        for k in range(slices):
            image = SimpleITK.GetImageFromArray(np.full((1, 4, 5), 10 * number + k, np.int16))
            image.SetSpacing((1.0, 1.0, 5.0))
            tags = {
                "0008|0060": "MR",
                "0020|000d": "1.2.3",
                "0020|000e": f"1.2.3.{number}",
                "0020|0032": f"0\\0\\{5 * k}",
                "0020|0037": "1\\0\\0\\0\\1\\0",
                "0020|0013": str(k + 1),
            }
            for tag, value in tags.items():
                image.SetMetaData(tag, value)
            writer = SimpleITK.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetFileName(str(folder / f"{number}-{k}.dcm"))
            writer.Execute(image)
    return folder


def test_a_folder_has_to_hold_one_series(tmp_path):
    volume = read_series(write_series(tmp_path / "one", 1))
    np.testing.assert_array_equal(volume.voxels[:, 0, 0], [10, 11, 12])
    assert volume.spacing == pytest.approx((1.0, 1.0, 5.0))
    with pytest.raises(ImageReadError, match=r"two holds 2 DICOM series \(1\.2\.3\.1.*, 1\.2\.3\.2.*exactly one"):
        read_series(write_series(tmp_path / "two", 2))
    with pytest.raises(ImageReadError, match=r"holds 0 DICOM series \(none\)"):
        read_series(write_series(tmp_path / "none", 0))
