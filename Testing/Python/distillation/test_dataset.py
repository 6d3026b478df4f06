import json

import pytest

SimpleITK = pytest.importorskip("SimpleITK")

from distillation.dataset import check_grids, find_dataset, read_dataset  # noqa: E402
from KDSegmentatorLib.errors import InvalidSettingsError, TrainingError  # noqa: E402


def rewrite(path, **header):
    image = SimpleITK.ReadImage(str(path))
    for name, value in header.items():
        getattr(image, f"Set{name}")(value)
    SimpleITK.WriteImage(image, str(path))


def describe(folder, **changes):
    path = folder / "dataset.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_good_dataset(spheres):
    dataset = read_dataset(spheres)
    assert [case.name for case in dataset.cases] == [f"case_{n:02d}" for n in range(6)]
    assert dataset.labels == {"background": 0, "Front": 1, "Back": 2}
    assert check_grids(dataset) == "RAS"
    assert find_dataset(spheres.parent, spheres.name) == dataset
    assert dataset.case("case_03").image.name == "case_03_0000.nii.gz"
    with pytest.raises(TrainingError, match="case_99"):
        dataset.case("case_99")


def test_unknown_dataset(spheres):
    with pytest.raises(InvalidSettingsError, match=r"Dataset901_Spheres.*--raw"):
        find_dataset(spheres.parent, "Dataset902_Cubes")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": {"0": "T1", "1": "T2"}}, "2 channels"),
        ({"channel_names": None}, "channel_names"),
        ({"file_ending": None}, "file_ending"),
        ({"labels": {"background": 0, "whole": [1, 2], "part": 2}}, "region"),
        ({"labels": {"background": 0, "a": 1, "ignore": 2}}, "ignore"),
        ({"labels": {"background": 0, "a": 2}}, "without gaps"),
        ({"labels": {"a": 1, "b": 2}}, "background"),
        ({"labels": {"background": 0}}, "labels must be"),
        ({"labels": {"background": 0, "a": 1.5}}, "whole number"),
        ({"numTraining": 7}, "numTraining = 7"),
    ],
)
def test_description_is_checked(spheres, changes, message):
    describe(spheres, **changes)
    with pytest.raises(TrainingError, match=message):
        read_dataset(spheres)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_unreadable_description(spheres, content):
    (spheres / "dataset.json").write_text(content)
    with pytest.raises(TrainingError, match=r"dataset\.json"):
        read_dataset(spheres)


def test_missing_parts(spheres):
    (spheres / "labelsTr" / "case_02.nii.gz").unlink()
    with pytest.raises(TrainingError, match="segmentation of case_02"):
        read_dataset(spheres)
    (spheres / "imagesTr" / "case_02_0000.nii.gz").unlink()
    (spheres / "imagesTr" / "case_04_0000.nii.gz").unlink()
    with pytest.raises(TrainingError, match="image of case_04"):
        read_dataset(spheres)
    (spheres / "dataset.json").unlink()
    with pytest.raises(TrainingError, match="no such file"):
        read_dataset(spheres)


def test_a_second_channel_on_disk(spheres):
    image = spheres / "imagesTr" / "case_00_0000.nii.gz"
    (spheres / "imagesTr" / "case_00_0001.nii.gz").write_bytes(image.read_bytes())
    with pytest.raises(TrainingError, match="case_00_0001"):
        read_dataset(spheres)


def test_wrong_folder_name(tmp_path):
    with pytest.raises(TrainingError, match="DatasetXXX_Name"):
        read_dataset(tmp_path)


def test_odd_axis_order_is_named(spheres):
    for folder, name in (("imagesTr", "case_01_0000.nii.gz"), ("labelsTr", "case_01.nii.gz")):
        rewrite(spheres / folder / name, Direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    with pytest.raises(TrainingError, match=r"RAS, but not case_01 \(LPS\)"):
        check_grids(read_dataset(spheres))


def test_label_on_another_grid(spheres):
    rewrite(spheres / "labelsTr" / "case_01.nii.gz", Origin=(5, 0, 0))
    with pytest.raises(TrainingError, match=r"case_01\.nii\.gz is not on the grid"):
        check_grids(read_dataset(spheres))


def test_unreadable_and_two_dimensional_images(spheres):
    path = spheres / "imagesTr" / "case_01_0000.nii.gz"
    path.write_bytes(b"no image")
    with pytest.raises(TrainingError, match=r"case_01_0000.*truncated"):
        check_grids(read_dataset(spheres))
    SimpleITK.WriteImage(SimpleITK.Image(4, 4, SimpleITK.sitkUInt8), str(path))
    with pytest.raises(TrainingError, match="2-D"):
        check_grids(read_dataset(spheres))


def test_sform_and_qform_that_disagree(spheres):
    nibabel = pytest.importorskip("nibabel", reason="install the extra 'distill'")
    path = spheres / "imagesTr" / "case_01_0000.nii.gz"
    image = nibabel.load(path)
    turned = image.affine.copy()
    turned[:3, 0] *= -1
    image.set_sform(turned, code=1)
    nibabel.save(image, path)
    with pytest.raises(TrainingError, match=r"case_01_0000.*sform"):
        check_grids(read_dataset(spheres))
