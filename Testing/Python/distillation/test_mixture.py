import json

import numpy as np
import pytest

pytest.importorskip("yaml", reason="needs PyYAML: pip install kdsegmentator[distill]")

from distillation.mixture import MixturePart, write_mixture
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import read_volume, write_volume

LABELS = {"Left": 1, "Right": 2}


def dataset(raw, name, case, axis_codes="LPS", extra=None):
    """Two boxes, the left one brighter, in a head of other voxels, stored in any axis order."""
    for folder in ("imagesTr", "labelsTr"):
        (raw / name / folder).mkdir(parents=True, exist_ok=True)
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[8:12, 8:14, 16:20] = 1  # i grows to the left
    labels[8:12, 8:14, 8:12] = 2
    if extra is not None:
        labels[7, 8:14, 8:20] = extra
    image = np.full(labels.shape, 10, np.int16)
    image[labels == 1], image[labels == 2], image[labels == 3] = 200, 100, 50
    for voxels, path in ((image, f"imagesTr/{case}_0000.nii.gz"), (labels, f"labelsTr/{case}.nii.gz")):
        volume = Volume(voxels, (1.0, 1.5, 2.0), (-12.0, 5.0, 30.0)).reoriented(axis_codes)
        write_volume(volume, raw / name / path)
    names = {"background": 0, **LABELS, **({"Other": 3} if extra else {})}
    description = {"channel_names": {"0": "MRI"}, "labels": names, "numTraining": 1, "file_ending": ".nii.gz"}
    (raw / name / "dataset.json").write_text(json.dumps(description))


def place(volume, values):
    """Return the centre of voxels with these values in patient mm."""
    k, j, i = (axis.mean() for axis in np.nonzero(np.isin(volume.voxels, values)))
    return (volume.affine @ [i, j, k, 1])[:3]


def test_cases_of_other_axis_orders_keep_their_places_and_sides(tmp_path):
    dataset(tmp_path, "Dataset001_One", "a")
    dataset(tmp_path, "Dataset002_Two", "b", "PSR", extra=3)
    parts = (
        MixturePart(dataset="Dataset001_One"),
        MixturePart(dataset="Dataset002_Two", region_only=True, dropped=(3,)),
    )
    folder = write_mixture(parts, tmp_path, "Dataset003_Both", LABELS)
    first, second = (read_volume(folder / "imagesTr" / f"{name}_0000.nii.gz") for name in "ab")
    left, right = (read_volume(folder / "labelsTr" / f"{name}.nii.gz") for name in "ab")
    assert {each.axis_codes for each in (first, second, left, right)} == {"LPS"}
    for image, labels in ((first, left), (second, right)):
        assert image.same_grid(labels)
        assert set(image.voxels[labels.voxels == 1]) == {200}
        assert set(image.voxels[labels.voxels == 2]) == {100}
        np.testing.assert_allclose(place(labels, [1]), place(left, [1]), atol=1e-4)
        np.testing.assert_allclose(place(labels, [2]), place(left, [2]), atol=1e-4)
    assert first.voxels.min() == 10
    assert second.size < first.size
    assert set(np.unique(second.voxels)) == {0, 50, 100, 200}  # what was dropped belongs to the region
    assert set(np.unique(right.voxels)) == {0, 1, 2}
    description = json.loads((folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, **LABELS}
    assert description["numTraining"] == 2


def test_labels_may_be_joined_to_one(tmp_path):
    dataset(tmp_path, "Dataset001_One", "a", extra=3)
    part = MixturePart(dataset="Dataset001_One", joined=True)
    folder = write_mixture([part], tmp_path, "Dataset003_Mask", {"Brain": 1})
    labels = read_volume(folder / "labelsTr" / "a.nii.gz").voxels
    assert np.count_nonzero(labels == 1) == 2 * 4 * 6 * 4 + 6 * 12
    assert labels.max() == 1


def test_unknown_labels_names_that_occur_twice_and_an_existing_folder_are_refused(tmp_path):
    dataset(tmp_path, "Dataset001_One", "a", extra=3)
    dataset(tmp_path, "Dataset002_Two", "a")
    one, two = MixturePart(dataset="Dataset001_One"), MixturePart(dataset="Dataset002_Two")
    with pytest.raises(InvalidSettingsError, match=r"labels \[3\], which the recipe does not list"):
        write_mixture([one], tmp_path, "Dataset003_Both", LABELS)
    large = tmp_path / "Dataset001_One" / "labelsTr" / "a.nii.gz"
    labels = read_volume(large)
    wide = labels.voxels.astype(np.uint16)
    wide[wide == 1] = 257
    write_volume(labels.with_voxels(wide), large)
    with pytest.raises(InvalidSettingsError, match=r"labels \[3, 257\]"):  # and not 257 - 256
        write_mixture([one], tmp_path, "Dataset003_Both", LABELS)
    with pytest.raises(InvalidSettingsError, match="have a case a; rename one"):
        write_mixture([one, two], tmp_path, "Dataset003_Both", LABELS)
    assert not (tmp_path / "Dataset003_Both").exists()
    with pytest.raises(InvalidSettingsError, match="is there already"):
        write_mixture([two], tmp_path, "Dataset001_One", LABELS)
