import pytest

pytest.importorskip("yaml", reason="install the extra 'distill'")

from distillation.recipe import read_recipe, shipped_recipes
from distillation.sizes import alpha_of, name_part
from KDSegmentatorLib.errors import InvalidSettingsError


def changed(tmp_path, text, old, new):
    assert old in text
    path = tmp_path / "changed.yaml"
    path.write_text(text.replace(old, new))
    return str(path)


def test_the_hippocampus_recipe():
    assert "hippocampus" in shipped_recipes()
    recipe = read_recipe("hippocampus")
    assert recipe.dataset.name == "Dataset004_Hippocampus"
    lengths = {student.size: (student.warm_up_epochs, student.epochs) for student in recipe.students}
    assert lengths == {"x1/2": (8, 7), "x1/4": (20, 10)}
    assert all(student.methods == ("plain", "logit") for student in recipe.students)
    assert (recipe.methods.logit.temperature, recipe.methods.logit.weight) == (2.0, 1.0)
    settings = recipe.settings(20)
    assert (settings.epochs, settings.iterations_per_epoch, settings.batch_size) == (20, 100, 2)
    codes = [label.terminology.type_modifier.value for label in recipe.pack.labels]
    assert codes == ["255549009", "255551008"]
    assert {label.terminology.type.value for label in recipe.pack.labels} == {"5366008"}
    assert recipe.pack.data.license == "CC-BY-SA-4.0"


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_valid(name):
    assert read_recipe(name).pack.task


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
        ("epochs: 2, methods", "epoch: 2, methods", r"students\[0\].* 'epoch'"),
        ("fold: 0", "fold: 7", "fold must be 0 to 4"),
        ("batch_size: 2", "batch_size: 0", "batch_size"),
        ("temperature: 2.0", "temperature: warm", r"methods\.logit\.temperature"),
        ("size: x1/2", "size: x1", "x1 is the teacher"),
        ("size: x1/2", "size: half", "x1/2"),
        ("[plain, logit]", "[plain, plain]", "at most once"),
        ("[plain, logit]", "[teacher]", "at most once"),
        ("methods: {logit: {temperature: 2.0, weight: 1.0}}", "methods: {}", "'methods' does not set"),
        ("modality: MR", "modality: PET", "modality must be one of CT, MR"),
        ("color: [255, 0, 0]", "color: [255, 0]", "color must have 3 entries"),
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
    assert name_part("x1/4") == "x1_4"
    for wrong in ("", "x2", "x1/1", "x1/0", "x1/04", "1/2", "x1/2 "):
        with pytest.raises(InvalidSettingsError, match="x1/2"):
            alpha_of(wrong)


def test_a_teachers_folder_is_relative_to_the_recipe(tmp_path, recipe_text):
    path = changed(tmp_path, recipe_text, "teacher: {epochs: 2}", "teacher: {epochs: 2, folder: models/T}")
    assert read_recipe(path).teacher.folder == str(tmp_path / "models" / "T")
    absolute = (tmp_path / "T").as_posix()
    path = changed(tmp_path, recipe_text, "teacher: {epochs: 2}", f"teacher: {{epochs: 2, folder: {absolute!r}}}")
    assert read_recipe(path).teacher.folder == str(tmp_path / "T")
