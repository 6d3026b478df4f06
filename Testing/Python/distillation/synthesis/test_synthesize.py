import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("yaml", reason="install the extra 'distill'")

import distillation.synthesis.label_maps as brain_mask
import distillation.synthesis.synthesize as module
from distillation.cli import main
from distillation.dataset import check_grids, read_dataset
from distillation.recipe_file import read_recipe
from distillation.synthesis.synthesis_recipe import SynthesisRecipe
from distillation.synthesis.synthesize import find_label_maps, make_image, synthesize
from KDSegmentatorLib.errors import InvalidSettingsError, TrainingError
from KDSegmentatorLib.io.images import read_volume
from support.phantom_heads import BRAIN_RADII_MM, phantom_voxels, write_label_map, write_phantoms

PLAIN = SynthesisRecipe(spacing=2.0, random_contrast=0, skull_stripped=0, thick_slices=0, cropped=0)


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def made(phantom, settings, seed):
    return make_image(*phantom, settings, np.random.default_rng(seed))


def test_an_image_and_its_truth(phantom):
    result = made(phantom, PLAIN, 0)
    assert result.image.axis_codes == result.truth.axis_codes == "RAS"
    assert result.image.spacing == (2.0, 2.0, 2.0)
    assert result.image.same_grid(result.truth)
    assert result.image.voxels.dtype == np.int16
    assert result.image.voxels.min() >= 0
    assert set(np.unique(result.truth.voxels)) == {0, 1}


def test_the_same_seed_gives_the_same_image(phantom):
    first, second, other = (made(phantom, PLAIN, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image.voxels, second.image.voxels)
    np.testing.assert_array_equal(first.truth.voxels, second.truth.voxels)
    assert first.image.voxels.shape != other.image.voxels.shape or (first.image.voxels != other.image.voxels).any()


@pytest.mark.parametrize("thick", [0, 1])
@pytest.mark.parametrize("seed", range(2))
def test_the_truth_lies_where_the_brain_is_seen(phantom, seed, thick):
    """What is left of a skull-stripped image shows where the brain was painted, on a grid of another spacing."""
    result = made(phantom, replace(PLAIN, skull_stripped=1, thick_slices=thick), seed)
    seen, truth = result.image.voxels > 0, result.truth.voxels > 0
    assert 0.5 < truth.sum() * 8 / (4 / 3 * np.pi * np.prod(BRAIN_RADII_MM)) < 2
    assert overlap(seen, truth) > 0.85  # stripped 1 mm inside to 3 mm outside the surface
    for axis in range(3):
        middles = [np.average(np.arange(m.shape[axis]), weights=m.sum((axis - 2, axis - 1))) for m in (seen, truth)]
        # voxels of 2 mm: slices of up to 7 mm are resampled by nearest neighbour, the rest by splines
        assert abs(middles[0] - middles[1]) < (0.6 if thick else 0.25)


def test_left_stays_left(phantom):
    """The phantom's ventricle, dark, lies in the left half of its brain."""
    darker = 0
    for seed in range(3):
        result = made(phantom, PLAIN, seed)
        image, truth = result.image.voxels.astype(float), result.truth.voxels > 0
        z, y, x = (round(float(np.mean(places))) for places in np.nonzero(truth))
        left, right = (
            image[z - 5 : z + 6, y - 5 : y + 6, x - 7 : x - 2],
            image[z - 5 : z + 6, y - 5 : y + 6, x + 3 : x + 8],
        )
        darker += left.mean() < right.mean()
    assert darker == 3


def test_other_spacings(phantom):
    fine, coarse = (made(phantom, replace(PLAIN, spacing=spacing), 1) for spacing in (1.5, 3.0))
    assert coarse.image.spacing == (3.0, 3.0, 3.0)
    assert fine.truth.voxels.sum() * 1.5**3 == pytest.approx(coarse.truth.voxels.sum() * 27, rel=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing": 0.1}, "spacing must be 0.5 to 10 mm"),
        ({"seed": -1}, "seed"),
        ({"cropped": 1.5}, "cropped is a share"),
        ({"thick_slices": -0.1}, "thick_slices is a share"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(InvalidSettingsError, match=message):
        replace(PLAIN, **change)


COUNT = 3


@pytest.fixture
def maps(tmp_path):
    return write_phantoms(tmp_path / "maps", 2)


@pytest.fixture
def recipe():
    """The shipped recipe for the phantoms, with coarse images."""
    shipped = read_recipe("brain_extraction")
    return replace(
        shipped,
        dataset=replace(shipped.dataset, groups=(("head_0_*",), ("head_1_*",))),
        synthesis=replace(shipped.synthesis, spacing=4.0),
    )


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*/*.nii.gz")}


class BrokenOffError(Exception):
    pass


def test_it_can_be_broken_off_and_go_on(maps, recipe, tmp_path):
    def break_off(done, total):
        if done == 1:
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        synthesize(recipe, maps, tmp_path / "raw", COUNT, break_off)
    folder = tmp_path / "raw" / "Dataset102_BrainExtraction"
    assert not (folder / "dataset.json").exists()
    first = hashes(folder)
    assert len(first) == 2
    steps = []
    assert synthesize(recipe, maps, tmp_path / "raw", COUNT, lambda *step: steps.append(step)) == folder
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert first.items() <= hashes(folder).items()
    synthesize(recipe, maps, tmp_path / "other", COUNT)
    assert hashes(tmp_path / "other" / folder.name) == hashes(folder)

    raw = read_dataset(folder)
    assert [case.name for case in raw.cases] == ["head_0_0000", "head_0_0001", "head_1_0000"]
    assert raw.labels == {"background": 0, "Brain": 1}
    assert raw.description["channel_names"] == {"0": "T1w"}
    assert check_grids(raw) == "RAS"
    assert {case.name: set(np.unique(read_volume(case.label).voxels)) for case in raw.cases} == {
        case.name: {0, 1} for case in raw.cases
    }

    # two heads that are alike give other images, and more images leave the first as they are
    assert hashes(folder)["head_0_0000_0000.nii.gz"] != hashes(folder)["head_1_0000_0000.nii.gz"]
    before = hashes(folder)
    synthesize(recipe, maps, tmp_path / "raw", COUNT + 1)
    assert before.items() <= hashes(folder).items()
    assert len(read_dataset(folder).cases) == COUNT + 1

    changed = replace(recipe, synthesis=replace(recipe.synthesis, seed=1))
    with pytest.raises(TrainingError, match="other settings or label maps"):
        synthesize(changed, maps, tmp_path / "raw", COUNT)
    voxels = phantom_voxels()
    voxels[30, 30, 30] = 3
    write_label_map(maps / "head_1.nii.gz", voxels)
    with pytest.raises(TrainingError, match="other settings or label maps"):
        synthesize(recipe, maps, tmp_path / "raw", COUNT)
    (folder / "synthesis.json").write_text("{")
    with pytest.raises(TrainingError, match=r"synthesis\.json cannot be read"):
        synthesize(recipe, maps, tmp_path / "raw", COUNT)


def test_a_dataset_is_not_continued_by_code_that_makes_others(maps, recipe, tmp_path, monkeypatch):
    folder = synthesize(recipe, maps, tmp_path / "raw", COUNT - 1)
    path = folder / "synthesis.json"
    record = json.loads(path.read_text())
    assert record.pop("generator_version") == 1
    path.write_text(json.dumps(record))  # as the first version wrote it
    synthesize(recipe, maps, tmp_path / "raw", COUNT)
    monkeypatch.setattr(module, "GENERATOR_VERSION", 2)
    made = synthesize(recipe, maps, tmp_path / "other", COUNT)
    assert json.loads((made / "synthesis.json").read_text())["generator_version"] == 2
    before = hashes(folder)
    with pytest.raises(TrainingError, match=r"begun by version 1 of the code .*this is version 2.*remove it"):
        synthesize(recipe, maps, tmp_path / "raw", COUNT + 1)
    assert hashes(folder) == before
    monkeypatch.setattr(module, "GENERATOR_VERSION", 1)
    with pytest.raises(TrainingError, match="begun by version 2"):
        synthesize(recipe, maps, tmp_path / "other", COUNT)
    path.write_text("[]")
    with pytest.raises(TrainingError, match=r"synthesis\.json cannot be read"):
        synthesize(recipe, maps, tmp_path / "raw", COUNT)


def test_the_truth_has_a_version():
    """Raise GENERATOR_VERSION with these numbers: datasets are continued by it, and must not hold two truths."""
    assert (brain_mask.CLOSING_MM, brain_mask.OPENING_MM, brain_mask.SMOOTHING_MM) == (8.0, 2.0, 0.7)
    assert set(brain_mask.BETWEEN) == {24, 30, 62, 72, 85, 514}
    assert module.GENERATOR_VERSION == 1


def test_images_are_shared_out_evenly(maps):
    assert [len(each.cases) for each in find_label_maps(maps, 5)] == [3, 2]
    assert find_label_maps(maps, 5)[0].cases == ("head_0_0000", "head_0_0001", "head_0_0002")


def test_what_does_not_fit(maps, recipe, tmp_path):
    raw = tmp_path / "raw"
    with pytest.raises(InvalidSettingsError, match="at least 2 images are needed, got 1"):
        synthesize(recipe, maps, raw, 1)
    with pytest.raises(InvalidSettingsError, match="no section 'synthesis'"):
        synthesize(replace(recipe, synthesis=None), maps, raw, COUNT)
    with pytest.raises(InvalidSettingsError, match="the recipe's pack has 2"):
        pack = replace(recipe.pack, labels=recipe.pack.labels * 2)
        synthesize(replace(recipe, pack=pack), maps, raw, COUNT)
    with pytest.raises(InvalidSettingsError, match=r"images of head_0\.nii\.gz in one fold; add \[head_0_\*\]"):
        synthesize(replace(recipe, dataset=replace(recipe.dataset, groups=())), maps, raw, COUNT)
    with pytest.raises(TrainingError, match="there is no folder"):
        synthesize(recipe, tmp_path / "nothing", raw, COUNT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="holds no label map"):
        synthesize(recipe, tmp_path / "empty", raw, COUNT)
    write_label_map(maps / "head_0.nrrd")
    with pytest.raises(TrainingError, match="have one name"):
        synthesize(recipe, maps, raw, COUNT)
    (maps / "head_0.nrrd").unlink()
    foreign = raw / recipe.dataset.name / "imagesTr" / "mine_0000.nii.gz"
    foreign.parent.mkdir(parents=True)
    write_label_map(foreign)
    with pytest.raises(TrainingError, match="not made by this command"):
        synthesize(recipe, maps, raw, COUNT)


def test_the_command(maps, tmp_path, capsys, recipe_text):
    path = tmp_path / "own.yaml"
    path.write_text(recipe_text)
    arguments = ["--label-maps", str(maps), "--raw", str(tmp_path / "raw"), "--count", "2"]
    assert main(["synthesize", str(path), *arguments]) == 2
    assert "no section 'synthesis'" in capsys.readouterr().err
    second = "    - {value: 2, name: Back, color: [0, 255, 0], terminology: *thing}\n"
    assert second in recipe_text
    text = recipe_text.replace(second, "")
    text += "synthesis: {spacing: 4, random_contrast: 0.5, skull_stripped: 0.1, thick_slices: 0.5, cropped: 0.2}\n"
    path.write_text(text)
    assert main(["synthesize", str(path), *arguments]) == 0
    output = capsys.readouterr().out
    assert "0/2 images are there" in output
    assert "2/2 images, 0 s left" in output
    described = json.loads((tmp_path / "raw" / "Dataset901_Spheres" / "dataset.json").read_text())
    assert described["numTraining"] == 2
    assert main(["synthesize", str(path), *arguments]) == 0
    assert "2/2 images are there" in capsys.readouterr().out
    (maps / "labels.json").unlink()
    assert main(["synthesize", str(path), *arguments]) == 2
    assert "labels.json" in capsys.readouterr().err
