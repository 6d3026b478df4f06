import colorsys
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="install the extra 'distill'")

from distillation.plans import alpha_of
from distillation.recipe_file import RECIPES_FOLDER, read_recipe, shipped_recipes
from KDSegmentatorLib.errors import InvalidSettingsError
from KDSegmentatorLib.packs.manifest import Region


def changed(tmp_path, text, old, new):
    assert old in text
    path = tmp_path / "changed.yaml"
    path.write_text(text.replace(old, new))
    return str(path)


def test_the_hippocampus_recipe():
    assert "hippocampus" in shipped_recipes()
    recipe = read_recipe("hippocampus")
    assert recipe.dataset.name == "Dataset004_Hippocampus"
    assert [(student.size, student.methods[0]) for student in recipe.students] == [
        ("x1/2", "plain"),
        ("x1/4", "plain"),
        ("x1/8", "plain"),
    ]
    assert recipe.student("x1/8").minimum_width == 4
    optimizers = [recipe.student_settings(student, 1).optimizer for student in recipe.students]
    assert optimizers == ["sgd", "sgd", "adamw"]
    logit = recipe.methods["logit"].terms["logit"]
    assert (logit.temperature, logit.weight, logit.ramp) == (2.0, 1.0, 0.0)
    mix, control = (recipe.methods[name] for name in ("mix", "control"))
    assert (mix.soft_labels.weight, mix.soft_labels.ramp_start, mix.needs_soft_labels) == (0.9, 0.3, True)
    assert (control.soft_labels.hard, control.needs_soft_labels, control.terms) == (True, False, {})
    assert [Path(each).name for each in recipe.teaching.networks] == ["hippocampus-x1_2", "hippocampus-x1_4"]
    assert all(Path(each).is_dir() for each in recipe.teaching.networks)
    assert set(recipe.methods["logit-reco"].terms) == {"logit", "ms_sard", "ms_ca"}
    assert all((term.weight, term.ramp) == (0.01, 0.6) for term in recipe.methods["reco"].terms.values())
    settings = recipe.settings(20)
    assert (settings.epochs, settings.iterations_per_epoch, settings.batch_size) == (20, 100, 2)
    codes = [label.terminology.type_modifier.value for label in recipe.pack.labels]
    assert codes == ["255549009", "255551008"]
    assert {label.terminology.type.value for label in recipe.pack.labels} == {"5366008"}
    assert recipe.pack.data.license == "CC-BY-SA-4.0"


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_valid(name):
    assert read_recipe(name).pack.task


def test_the_brain_extraction_recipe():
    recipe = read_recipe("brain_extraction")
    assert [label.terminology.type.value for label in recipe.pack.labels] == ["12738006"]
    assert recipe.synthesis.spacing == 2.0
    assert recipe.dataset.spacing == (2.0, 2.0, 2.0)
    assert recipe.dataset.groups == tuple((f"labels_{number:02d}_*",) for number in range(1, 21))
    assert recipe.pack.data.license == recipe.pack.weights.license == "Apache-2.0"
    assert {student.size for student in recipe.students} == {"x1/4"}


def test_the_brain_structures_recipe():
    recipe = read_recipe("brain_t1")
    assert recipe.pack.region == Region(pack="brain-extraction-x1_4", minimum_version="1.1.0", margin_mm=1.0)
    labels = recipe.pack.labels
    assert [label.value for label in labels] == list(range(1, 46))
    assert len({label.name for label in labels}) == len({label.color for label in labels}) == 45
    coded = {(label.terminology.type.scheme, label.terminology.type.value, side(label)) for label in labels}
    assert len(coded) == 45
    for label in labels:
        expected = next((name for name in ("Left", "Right") if label.name.startswith(f"{name} ")), None)
        assert side(label) == expected
        assert label.terminology.category.value == "123037004"
    lefts = {label.name.partition(" ")[2]: label for label in labels if side(label) == "Left"}
    rights = {label.name.partition(" ")[2]: label for label in labels if side(label) == "Right"}
    assert lefts.keys() == rights.keys()
    assert len(lefts) == 20
    for name, left in lefts.items():
        right = rights[name]
        assert right.value == left.value + 1
        assert right.terminology.type == left.terminology.type
        assert hue_distance(left.color, right.color) < 15
        assert sum(right.color) > sum(left.color) + 60
    assert recipe.training.mirroring_axes == ()
    shares = asdict(recipe.training.augmentation)
    assert shares.pop("label_interpolation") == "nearest"
    assert min(shares.values()) >= 0.25
    assert recipe.dataset.groups == (("OAS_1003", "OAS_1023"), ("OAS_1004", "OAS_1024"), ("OAS_1005", "OAS_1025"))
    assert recipe.pack.data.license == recipe.pack.weights.license == "CC-BY-NC-3.0"
    for text in (recipe.pack.intended_use, recipe.pack.limits, recipe.pack.weights.text):
        assert "no commercial use" in text


def side(label):
    modifier = label.terminology.type_modifier
    if modifier is None:
        return None
    assert (modifier.value, modifier.meaning) in {("7771000", "Left"), ("24028007", "Right")}
    return modifier.meaning


def hue_distance(first, second):
    a, b = (360 * colorsys.rgb_to_hsv(*(channel / 255 for channel in color))[0] for color in (first, second))
    return min(abs(a - b), 360 - abs(a - b))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("spacing: [1.5, 0, 1.5]", "dataset: spacing must be > 0"),
        ("spacing: [1.5, 1.5]", r"dataset\.spacing: must have 3 values"),
        ("groups: [case_00]", r"dataset\.groups\[0\]: must be a list"),
    ],
)
def test_mistakes_in_spacing_and_groups(tmp_path, recipe_text, line, message):
    with pytest.raises(InvalidSettingsError, match=message):
        read_recipe(changed(tmp_path, recipe_text, "fold: 0}", f"fold: 0, {line}}}"))


def test_mistakes_in_synthesis(tmp_path, recipe_text):
    section = (
        "synthesis: {spacing: 2.0, random_contrast: 0.5, skull_stripped: 0.1, thick_slices: 0.5, cropped: 2}\nteacher"
    )
    with pytest.raises(InvalidSettingsError, match="synthesis: cropped is a share"):
        read_recipe(changed(tmp_path, recipe_text, "\nteacher", "\n" + section))
    with pytest.raises(InvalidSettingsError, match=r"synthesis\.spacing: missing"):
        read_recipe(changed(tmp_path, recipe_text, "\nteacher", "\n" + section.replace("spacing: 2.0, ", "")))


def test_unknown_recipe_and_unreadable_file(tmp_path):
    with pytest.raises(InvalidSettingsError, match="hippocampus"):
        read_recipe("no-such-recipe")
    with pytest.raises(InvalidSettingsError, match="cannot be read"):
        read_recipe(str(tmp_path / "missing.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(InvalidSettingsError, match="cannot be read"):
        read_recipe(str(tmp_path / "bad.yaml"))
    (tmp_path / "code.yaml").write_text("a: !!python/object/apply:os.getcwd []")
    with pytest.raises(InvalidSettingsError, match="cannot be read"):
        read_recipe(str(tmp_path / "code.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "epochs: 2, methods",
            "epoch: 2, methods",
            r"students\[0\]\.epoch: unknown field; known are: epochs, learning_rate_factor",
        ),
        ("fold: 0", "fold: 7", "dataset: fold must be 0 to 4"),
        ("name: Dataset901_Spheres", "name: Spheres", "dataset: name must be that of nnU-Net's folder"),
        ("fold: 0", "fold: 0, configuration: 3d_cascade_fullres", "dataset: configuration must be one of 3d_fullres"),
        ("batch_size: 2", "batch_size: 0", "batch_size"),
        ("seed: 7", "seed: -1", "seed must be a whole number from 0"),
        ("seed: 7", "seed: 5000000000", "seed must be a whole number from 0"),
        ("seed: 7", "seed: 7, continued_learning_rate: -1.0", "training: continued_learning_rate must be > 0"),
        ("size: x1/2", "size: x1/2, learning_rate_factor: 0", r"learning_rate_factor must be > 0, got 0"),
        ("teacher: {epochs: 2}", "teacher: {epochs: 0}", "teacher: epochs must be a whole number of at least 1"),
        ("epochs: 2, methods", "epochs: 0, methods", r"students\[0\]: epochs must be a whole number of at least 1"),
        ("[plain, logit]", "[plain]", "pack: method 'logit' is to be shipped, but no student is trained with it"),
        ("temperature: 2.0", "temperature: warm", r"methods\['logit'\]\.logit\.temperature: must be a number"),
        (
            "temperature: 2.0",
            "temperature: '1e-2'",
            r"methods\['logit'\]\.logit\.temperature: must be a number, got '1e-2'",
        ),
        ("temperature: 2.0", "temperature: .nan", r"methods\['logit'\]\.logit\.temperature: must be a finite number"),
        ("temperature: 2.0", "temperature: -.inf", r"methods\['logit'\]\.logit\.temperature: must be a finite number"),
        ("temperature: 2.0, ", "", r"methods\['logit'\]\.logit\.temperature: missing"),
        ("temperature: 2.0", "temperature: 2.0, temperature: 3.0", "the key 'temperature' occurs twice.*line"),
        ("temperature: 2.0", "1: 2.0", "the key '1' is not text.*line"),
        ("seed: 7", "seed: true", r"training\.seed: must be a whole number"),
        ("version: 0.1.0", "version: 0.1", r"pack\.version: must be text"),
        ("version: 0.1.0", "version: 0.1.0b", r"pack\.version: must be major\.minor\.patch"),
        ("task: spheres", "task: Spheres!", r"pack\.task: must be lower-case"),
        ("color: [255, 0, 0]", "color: [256, 0, 0]", r"pack\.labels\[0\]\.color\[0\]: must be at most 255"),
        ("size: x1/2", "size: x1", "x1 is the teacher"),
        ("size: x1/2", "size: half", "x1/2"),
        ("[plain, logit]", "[plain, plain]", "at most once"),
        ("[plain, logit]", "[teacher]", "at most once"),
        ("methods: {logit: {logit: {temperature: 2.0, weight: 1.0}}}", "methods: {}", "'methods' does not set"),
        ("modality: MR", "modality: PET", "modality: must be 'CT' or 'MR'"),
        ("color: [255, 0, 0]", "color: [255, 0]", "color: must have 3 values"),
    ],
)
def test_mistakes_are_named(tmp_path, recipe_text, old, new, message):
    with pytest.raises(InvalidSettingsError, match=message):
        read_recipe(changed(tmp_path, recipe_text, old, new))


def test_two_students_of_one_size(tmp_path, recipe_text):
    line = "  - {size: x1/2, epochs: 2, methods: [plain, logit]}\n"
    with pytest.raises(InvalidSettingsError, match="once"):
        read_recipe(changed(tmp_path, recipe_text, line, line * 2))


def test_unknown_student(recipe):
    with pytest.raises(InvalidSettingsError, match="x1/2"):
        recipe.student("x1/8")


def test_sizes():
    assert [alpha_of(size) for size in ("x1", "x1/2", "x1/4", "x1/16")] == [1, 0.5, 0.25, 0.0625]
    for wrong in ("", "x2", "x1/1", "x1/0", "x1/04", "1/2", "x1/2 "):
        with pytest.raises(InvalidSettingsError, match="x1/2"):
            alpha_of(wrong)


def test_a_teachers_folder_is_relative_to_the_recipe(tmp_path, recipe_text):
    path = changed(tmp_path, recipe_text, "teacher: {epochs: 2}", "teacher: {epochs: 2, folder: models/T}")
    assert read_recipe(path).teacher.folder == str(tmp_path / "models" / "T")
    absolute = (tmp_path / "T").as_posix()
    path = changed(tmp_path, recipe_text, "teacher: {epochs: 2}", f"teacher: {{epochs: 2, folder: {absolute!r}}}")
    assert read_recipe(path).teacher.folder == str(tmp_path / "T")


def test_numbers_with_an_exponent_need_no_point(tmp_path, recipe_text):
    path = changed(tmp_path, recipe_text, "seed: 7", "seed: 7, initial_learning_rate: 1e-2")
    assert read_recipe(path).training.initial_learning_rate == 0.01


def test_an_empty_recipe(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(InvalidSettingsError, match=r"^empty\.yaml: must be an object"):
        read_recipe(str(tmp_path / "empty.yaml"))


METHODS = "methods: {logit: {logit: {temperature: 2.0, weight: 1.0}}}"
RECO = "methods: {logit: {logit: {temperature: 2.0, weight: 1.0}}, reco: {ms_sard: {weight: 0.01, ramp: 0.6}}}"
TEACHER = "teacher: {epochs: 2}"


def test_a_method_is_any_sum_of_losses(tmp_path, recipe_text):
    recipe = read_recipe(changed(tmp_path, recipe_text, METHODS, RECO))
    assert not recipe.methods["logit"].uses_features
    assert recipe.methods["reco"].uses_features
    assert recipe.methods["reco"].terms["ms_sard"].weight_at(0.3) == pytest.approx(0.005)
    without = changed(
        tmp_path,
        recipe_text.replace("[plain, logit]", "[plain]").replace("method: logit", "method: plain"),
        METHODS,
        "methods: {}",
    )
    assert read_recipe(without).methods == {}  # each one is optional


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plain", "'plain' cannot name a distillation method"),
        ("teacher", "'teacher' cannot name"),
        ("warmup", "'warmup' cannot name"),
        ("Logit", "must be a method's name"),
        ("../x", "must be a method's name"),
    ],
)
def test_names_of_methods(tmp_path, recipe_text, name, message):
    new = f"methods: {{logit: {{logit: {{temperature: 2.0, weight: 1.0}}}}, '{name}': {{cwd: {{weight: 1.0}}}}}}"
    with pytest.raises(InvalidSettingsError, match=message):
        read_recipe(changed(tmp_path, recipe_text, METHODS, new))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("folds: []", "one or more of 0 to 4"),
        ("folds: [0, 0]", "each once"),
        ("folds: [0, 5]", "0 to 4"),
        ("folds: [1]", "lack the dataset's fold 0"),
        ("folds: [0, 1]", "several folds need a given 'folder'"),
        ("folder: T, folds: [0, 1]", "have seen cases that fold 0 holds out"),
    ],
)
def test_folds_of_the_teacher(tmp_path, recipe_text, teacher, message):
    with pytest.raises(InvalidSettingsError, match=message):
        read_recipe(changed(tmp_path, recipe_text, TEACHER, f"teacher: {{epochs: 2, {teacher}}}"))


def test_several_folds_teach_logits_only(tmp_path, recipe_text):
    several = "teacher: {epochs: 2, folder: T, folds: [0, 1, 4], accept_leakage: true}"
    path = changed(tmp_path, recipe_text, TEACHER, several)
    assert read_recipe(path).teacher_folds() == (0, 1, 4)
    assert "have seen" in read_recipe(path).held_out_text()
    assert "seen" not in read_recipe(changed(tmp_path, recipe_text, TEACHER, TEACHER)).held_out_text()
    with pytest.raises(InvalidSettingsError, match="'reco' compares encoder features, which an average of 3 folds"):
        read_recipe(changed(tmp_path, recipe_text.replace(METHODS, RECO), TEACHER, several))


def test_the_minimum_width_is_a_students_own(tmp_path, recipe_text):
    path = changed(tmp_path, recipe_text, "size: x1/2, ", "size: x1/2, minimum_width: 4, ")
    recipe = read_recipe(path)
    assert recipe.student_settings(recipe.student("x1/2"), 1).minimum_width == 4
    with pytest.raises(InvalidSettingsError, match="minimum_width"):
        read_recipe(changed(tmp_path, recipe_text, "size: x1/2, ", "size: x1/2, minimum_width: 0, "))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{weight: 2}", "weight of soft labels must be 0 to 1"),
        ("{ramp_start: 0.6}", "ramp_start and ramp_end are shares"),
        ("{strength: 1}", r"soft_labels\.strength: unknown field"),
    ],
)
def test_settings_of_soft_labels_are_checked(tmp_path, value, problem):
    text = (RECIPES_FOLDER / "hippocampus.yaml").read_text()
    recipe = changed(tmp_path, text, "soft_labels: {weight: 0.9}", f"soft_labels: {value}")
    with pytest.raises(InvalidSettingsError, match=problem):
        read_recipe(recipe)
