import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install kdsegmentator[distill]")
pytest.importorskip("nnunetv2", reason="needs nnU-Net: pip install kdsegmentator[distill]")

from distillation.dataset import read_dataset  # noqa: E402
from distillation.recipe import TeachingRecipe  # noqa: E402
from distillation.soft_labels import check_soft_labels, expanded  # noqa: E402
from distillation.students import TeacherSource  # noqa: E402
from distillation.teaching import TeachingNetwork, _networks, probabilities, teach  # noqa: E402
from KDSegmentatorLib.errors import TeacherError  # noqa: E402

ABOUT = {"dataset": "Dataset901_Spheres", "data_identifier": "nnUNetPlans_3d_fullres"}


class Brightness(torch.nn.Module):
    """Says 'foreground' the more, the brighter a voxel is; the answer of a window depends on no other voxel."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, window):
        return torch.cat([torch.zeros_like(window), self.factor * window], dim=1)


class LeftOfWindow(torch.nn.Module):
    """Answers by the place in the window, so that mirroring changes it."""

    def forward(self, window):
        ramp = torch.linspace(-1, 1, window.shape[-1]).expand_as(window)
        return torch.cat([torch.zeros_like(window), ramp], dim=1)


def image(shape=(1, 9, 14, 7)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_windows_are_blended_to_the_whole_case_whatever_its_size():
    scan = image()
    found = probabilities(Brightness(), scan, (4, 16, 6))
    torch.testing.assert_close(found, torch.softmax(Brightness()(scan[None])[0], dim=0))


def test_mirrored_windows_are_averaged_and_turned_back():
    scan = image((1, 4, 4, 6))
    plain = probabilities(LeftOfWindow(), scan, (4, 4, 6))
    mirrored = probabilities(LeftOfWindow(), scan, (4, 4, 6), mirroring_axes=(2,))
    assert plain[1, 0, 0, 0] < plain[1, 0, 0, -1]
    torch.testing.assert_close(mirrored, torch.full_like(mirrored, 0.5))


def test_teachers_are_averaged_and_leave_cases_that_they_were_trained_on_to_others(tmp_path):
    scans = {name: image() + number for number, name in enumerate(("a", "b", "c"))}
    teachers = [
        TeachingNetwork(network=Brightness(1), sha256="1" * 64, trained_on=frozenset({"a", "c"})),
        TeachingNetwork(network=Brightness(2), sha256="2" * 64, trained_on=frozenset({"b", "c"})),
    ]
    done = []
    teach(
        teachers,
        list(scans),
        lambda name: scans[name].numpy(),
        patch_size=(4, 8, 6),
        about=ABOUT,
        into=tmp_path / "soft",
        progress=lambda *counts: done.append(counts),
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
    one, two = (probabilities(each.network, scans["c"], (4, 8, 6)) for each in teachers)
    expected = {
        "a": probabilities(Brightness(2), scans["a"], (4, 8, 6)),
        "b": probabilities(Brightness(1), scans["b"], (4, 8, 6)),
        "c": (one + two) / 2,  # both saw it
    }
    for name, wanted in expected.items():
        found = expanded(np.load(tmp_path / "soft" / f"{name}.npy"), 2)
        torch.testing.assert_close(found, wanted, rtol=0, atol=2.1 / 255)
    index = json.loads((tmp_path / "soft" / "soft_labels.json").read_text())
    assert index == {**ABOUT, "teachers": ["1" * 64, "2" * 64], "mirroring_axes": []}


def test_finished_cases_are_left_out_and_a_killed_run_goes_on(tmp_path):
    asked = []

    def load(name):
        asked.append(name)
        return image().numpy()

    options = {"patch_size": (4, 8, 6), "about": ABOUT, "into": tmp_path}
    teachers = [TeachingNetwork(network=Brightness(), sha256="1" * 64)]
    teach(teachers, ["a"], load, **options)
    teach(teachers, ["a", "b"], load, **options)
    assert asked == ["a", "b"]
    assert not [path.name for path in tmp_path.iterdir() if path.name not in {"a.npy", "b.npy", "soft_labels.json"}]


def test_soft_labels_of_other_teachers_or_another_preprocessing_are_refused(tmp_path):
    options = {"patch_size": (4, 8, 6), "into": tmp_path}
    first = [TeachingNetwork(network=Brightness(), sha256="1" * 64)]
    teach(first, ["a"], lambda _: image().numpy(), about=ABOUT, **options)
    other = [TeachingNetwork(network=Brightness(), sha256="2" * 64)]
    with pytest.raises(TeacherError, match=r"teachers.*remove the folder"):
        teach(other, ["a"], lambda _: image().numpy(), about=ABOUT, **options)
    with pytest.raises(TeacherError, match="data_identifier 'nnUNetPlans_3d_fullres', wanted is 'other'"):
        check_soft_labels(tmp_path, {"data_identifier": "other"})
    with pytest.raises(TeacherError, match="holds no soft labels"):
        check_soft_labels(tmp_path / "nothing", ABOUT)


def test_a_network_of_which_nobody_knows_what_it_saw_does_not_silence_the_others(tmp_path):
    teachers = [
        TeachingNetwork(network=Brightness(1), sha256="1" * 64, trained_on=frozenset({"a"})),
        TeachingNetwork(network=Brightness(2), sha256="2" * 64),
    ]
    teach(teachers, ["a"], lambda _: image().numpy(), patch_size=(4, 8, 6), about=ABOUT, into=tmp_path)
    one, two = (probabilities(each.network, image(), (4, 8, 6)) for each in teachers)
    found = expanded(np.load(tmp_path / "a.npy"), 2)
    torch.testing.assert_close(found, (one + two) / 2, rtol=0, atol=2.1 / 255)


@pytest.fixture
def prepared(plans, spheres, tmp_path):
    """The spheres, as if they were prepared."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    (folder / "dataset.json").write_text((spheres / "dataset.json").read_text())
    (folder / "splits_final.json").write_text('[{"train": ["case_02"], "val": ["case_00"]}]')
    return SimpleNamespace(plans=plans(), raw=read_dataset(spheres), folder=folder)


def networks(recipe, prepared, *folders):
    taught = replace(recipe, teaching=TeachingRecipe(networks=tuple(map(str, folders))))
    return _networks(taught, prepared, TeacherSource(folder=prepared.folder), torch.device("cpu"))


def test_packs_and_model_folders_teach_together(recipe, prepared, teacher_pack, plans, model_folder):
    folder = model_folder(plans(), name="another", seed=1)
    pack, model = networks(recipe, prepared, teacher_pack.folder, folder)
    assert pack.sha256 == teacher_pack.manifest.provenance.checkpoint_sha256
    assert (pack.trained_on, model.trained_on) == (None, {"case_02"})
    window = torch.from_numpy(teacher_pack.probe().window)
    labels = pack.network(window).argmax(1)[0].numpy()
    assert (labels == teacher_pack.probe().labels).mean() > 0.999


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "Front", "with": "Nose"}, "has other labels than the recipe: Nose, Back; take a pack of this task"),
        ({"name": "axis_codes", "with": "LPS"}, "in the axis order LPS, the dataset is in RAS: left could be taken"),
        (
            {"name": "spacing", "with": [2.0, 1.0, 1.0]},
            r"trained at \[2.0, 1.0, 1.0\] mm and the dataset is prepared at",
        ),
    ],
)
def test_a_pack_of_other_labels_axes_or_voxels_does_not_teach(recipe, prepared, teacher_pack, change, problem):
    path = teacher_pack.folder / "manifest.json"
    content = json.loads(path.read_text())
    if change["name"] == "Front":
        content["labels"][0]["name"] = change["with"]
    else:
        content["preprocessing"][change["name"]] = change["with"]
    path.write_text(json.dumps(content))
    with pytest.raises(TeacherError, match=problem):
        networks(recipe, prepared, teacher_pack.folder)


def test_a_missing_fold_of_a_teacher_is_named(recipe, prepared, plans, model_folder):
    folder = model_folder(plans(), name="another", fold=1)
    with pytest.raises(TeacherError, match=r"fold_0.*no such file; train this fold first"):
        networks(recipe, prepared, folder)
