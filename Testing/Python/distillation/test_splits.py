import json

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.dataset import read_dataset
from distillation.splits import check_splits, grouped, write_splits
from KDSegmentatorLib.errors import TrainingError


def splits_of(folder):
    return json.loads((folder / "splits_final.json").read_text())


def test_split_is_nnunets_own_and_always_the_same(spheres, tmp_path):
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    raw = read_dataset(spheres)
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_splits(raw, folder)
    assert splits_of(tmp_path / "a") == splits_of(tmp_path / "b")
    expected = generate_crossval_split([case.name for case in raw.cases], seed=12345, n_splits=5)
    assert splits_of(tmp_path / "a") == [{half: [str(c) for c in split[half]] for half in split} for split in expected]


def test_an_existing_split_is_kept_if_it_fits(spheres, tmp_path):
    raw = read_dataset(spheres)
    write_splits(raw, tmp_path)
    own = [{"train": ["case_00"], "val": ["case_01"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(own))
    write_splits(raw, tmp_path)
    assert splits_of(tmp_path) == own
    for bad in ({"train": ["case_00"], "val": ["case_00"]}, {"train": ["case_00"], "val": ["case_77"]}):
        (tmp_path / "splits_final.json").write_text(json.dumps([bad]))
        with pytest.raises(TrainingError, match="does not fit the dataset"):
            write_splits(raw, tmp_path)


def test_too_few_cases_for_five_folds(spheres, tmp_path):
    raw = read_dataset(spheres)
    several = (("case_00", "case_01"), ("case_02", "case_03"))
    assert len(grouped([case.name for case in raw.cases], several)) == len(raw.cases) - 2 < 5
    with pytest.raises(TrainingError, match=r"groups of cases; a five-fold split needs at least 5"):
        write_splits(raw, tmp_path, several)
    description = json.loads((spheres / "dataset.json").read_text())
    del description["numTraining"]
    (spheres / "dataset.json").write_text(json.dumps(description))
    for number in (0, 1):
        (spheres / "imagesTr" / f"case_{number:02d}_0000.nii.gz").unlink()
        (spheres / "labelsTr" / f"case_{number:02d}.nii.gz").unlink()
    with pytest.raises(TrainingError, match="cases; a five-fold split needs at least 5"):
        write_splits(read_dataset(spheres), tmp_path)


def test_a_group_stays_in_one_fold(spheres, tmp_path):
    raw = read_dataset(spheres)
    names = {case.name for case in raw.cases}
    write_splits(raw, tmp_path, (("case_00", "case_03"),))
    splits = splits_of(tmp_path)
    assert len(splits) == 5
    assert sorted(name for split in splits for name in split["val"]) == sorted(names)
    for split in splits:
        assert set(split["train"]) | set(split["val"]) == names
        assert set(split["train"]).isdisjoint(split["val"])
        assert ("case_00" in split["val"]) == ("case_03" in split["val"])


def test_groups_by_names_and_patterns():
    names = ["head_01_0", "head_01_1", "head_02_0", "other", "OAS_1"]
    assert grouped(names, ()) == [(name,) for name in sorted(names)]
    assert grouped(names, (("head_01_*",), ("OAS_1", "other"))) == [
        ("head_01_0", "head_01_1"),
        ("OAS_1", "other"),
        ("head_02_0",),
    ]
    assert grouped(names, (("head_01_*", "head_01_0"),))[0] == ("head_01_0", "head_01_1")
    with pytest.raises(TrainingError, match=r"groups\[1\].*'head_03_\*'.*no case"):
        grouped(names, (("other",), ("head_03_*",)))
    with pytest.raises(TrainingError, match=r"head_01_1 is in groups\[0\] and groups\[1\]"):
        grouped(names, (("head_01_*",), ("head_01_1", "other")))


def test_a_split_that_tears_a_group_apart_is_refused(spheres, tmp_path):
    raw = read_dataset(spheres)
    write_splits(raw, tmp_path)
    first = splits_of(tmp_path)[0]
    torn = ((first["train"][0], first["val"][0]),)
    with pytest.raises(TrainingError, match=r"trains on a part of the group"):
        write_splits(raw, tmp_path, torn)
    names = [case.name for case in raw.cases]
    check_splits(tmp_path / "splits_final.json", names, grouped(names, ()))


def test_the_recipe_may_name_who_is_held_out(spheres, tmp_path):
    raw = read_dataset(spheres)
    names = [case.name for case in raw.cases]
    write_splits(raw, tmp_path, held_out=["case_00", "*_03"])
    (split,) = splits_of(tmp_path)
    assert split == {
        "train": [name for name in names if name not in ("case_00", "case_03")],
        "val": ["case_00", "case_03"],
    }
    with pytest.raises(TrainingError, match="holds out other cases than the recipe's held_out"):
        write_splits(raw, tmp_path, held_out=["case_01"])
    with pytest.raises(TrainingError, match="no case is named nobody"):
        write_splits(raw, tmp_path / "new", held_out=["nobody"])
    with pytest.raises(TrainingError, match="nothing is left to train on"):
        write_splits(raw, tmp_path / "new", held_out=["*"])
