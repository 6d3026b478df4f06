from dataclasses import replace

import pytest

from distillation.launch import Workspace
from distillation.losses.registry import read_terms
from distillation.recipe import MethodRecipe, TeachingRecipe
from distillation.students import (
    CONTINUED_SEED_OFFSET,
    Student,
    TeacherSource,
    plans_for_student,
    plans_for_teacher,
    plans_for_warm_up,
    select_students,
    student_folder,
    teacher_folder,
    warm_up_folder,
)
from distillation.training_settings import PLANS_KEY, SoftLabelSettings, TrainingSettings
from KDSegmentatorLib.errors import InvalidSettingsError, PackError, TrainingError


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "T" / "fold_0" / "checkpoint_final.pth"
    path.parent.mkdir(parents=True)
    path.touch()
    return TeacherSource(folder=tmp_path / "T")


def test_selection(recipe):
    assert select_students(recipe) == (Student(size="x1/2", method="plain"), Student(size="x1/2", method="logit"))
    assert select_students(recipe, "x1/2", "logit") == (Student(size="x1/2", method="logit"),)
    with pytest.raises(InvalidSettingsError, match=r"x1/4.*x1/2 plain, x1/2 logit"):
        select_students(recipe, "x1/4")


def test_names_and_settings(recipe, plans, source):
    logit = plans_for_student(recipe, Student(size="x1/2", method="logit"), plans(), source)
    assert logit["plans_name"] == "nnUNetPlans_x1_2_logit"
    settings = TrainingSettings.from_plans(logit)
    assert (settings.epochs, settings.iterations_per_epoch, settings.seed) == (2, 3, 7)
    assert settings.distillation.teacher.folder == str(source.folder.resolve())
    assert settings.distillation.teacher.folds == (0,)
    plain = plans_for_student(recipe, Student(size="x1/2", method="plain"), plans(), None)
    assert plain["plans_name"] == "nnUNetPlans_x1_2_plain"
    assert plain[PLANS_KEY]["distillation"] is None
    for key in ("epochs", "iterations_per_epoch", "batch_size", "seed", "precision"):
        assert plain[PLANS_KEY][key] == logit[PLANS_KEY][key]


def test_plans_of_a_trained_teacher_give_the_same_names(recipe, plans, source):
    teacher = plans_for_teacher(recipe, plans())
    assert teacher["plans_name"] == "nnUNetPlans_x1_plain"
    student = plans_for_student(recipe, Student(size="x1/2", method="logit"), teacher, source)
    assert student["plans_name"] == "nnUNetPlans_x1_2_logit"


def test_folders(recipe, plans, tmp_path):
    workspace = Workspace.below(tmp_path)
    results = tmp_path / "results" / "Dataset901_Spheres"
    assert teacher_folder(workspace, recipe, plans()) == results / "KDSegPlainTrainer__nnUNetPlans_x1_plain__3d_fullres"
    student = Student(size="x1/2", method="logit")
    found = student_folder(workspace, recipe, student, plans())
    assert found == results / "KDSegDistillingTrainer__nnUNetPlans_x1_2_logit__3d_fullres"


def test_distillation_needs_a_trained_teacher(recipe, plans, tmp_path):
    student = Student(size="x1/2", method="logit")
    for missing in (None, TeacherSource(folder=tmp_path / "nothing")):
        with pytest.raises(TrainingError, match="train-teacher"):
            plans_for_student(recipe, student, plans(), missing)


def with_warm_up(recipe):
    return replace(recipe, students=(replace(recipe.students[0], warm_up_epochs=5),))


def test_methods_go_on_from_the_same_warm_up(recipe, plans, source, tmp_path):
    recipe = with_warm_up(recipe)
    warm_up = warm_up_folder(Workspace.below(tmp_path), recipe, "x1/2", plans())
    assert warm_up.name == "KDSegPlainTrainer__nnUNetPlans_x1_2_warmup__3d_fullres"
    first = TrainingSettings.from_plans(plans_for_warm_up(recipe, "x1/2", plans()))
    assert (first.epochs, first.initial_checkpoint, first.distillation) == (5, None, None)
    plain, logit = (
        TrainingSettings.from_plans(
            plans_for_student(recipe, Student(size="x1/2", method=method), plans(), source, warm_up)
        )
        for method in ("plain", "logit")
    )
    assert replace(logit, distillation=None) == plain
    assert plain.initial_checkpoint == str(warm_up / "fold_0" / "checkpoint_final.pth")
    assert plain.initial_learning_rate == recipe.training.continued_learning_rate
    assert plain.iterations == first.iterations + plain.epochs * plain.iterations_per_epoch == (5 + 2) * 3
    assert plain.seed == logit.seed == first.seed + CONTINUED_SEED_OFFSET  # other batches than the warm-up's


def test_without_warm_up_there_is_no_folder(recipe, plans, tmp_path):
    assert warm_up_folder(Workspace.below(tmp_path), recipe, "x1/2", plans()) is None


def test_several_folds_have_a_hash_each(recipe, plans, source):
    second = source.path(1)
    second.parent.mkdir()
    several = replace(recipe, teacher=replace(recipe.teacher, folder="T", folds=(0, 1), accept_leakage=True))
    student = Student(size="x1/2", method="logit")
    with pytest.raises(TrainingError, match=r"fold_1.*is missing"):
        plans_for_student(several, student, plans(), source)
    second.write_bytes(b"another")
    found = TrainingSettings.from_plans(plans_for_student(several, student, plans(), source)).distillation
    assert found.teacher.folds == (0, 1)
    assert found.teacher.sha256 == (source.sha256(0), source.sha256(1))
    assert read_terms(found.losses, "losses") == recipe.methods["logit"].terms


def test_the_minimum_width_reaches_the_plans(recipe, plans):
    narrow = replace(recipe, students=(replace(recipe.students[0], minimum_width=2),))
    student = plans_for_student(narrow, Student(size="x1/2", method="plain"), plans(features=(6, 12)), None)
    assert student["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] == [3, 6]


def test_a_student_may_have_an_optimizer_of_its_own(recipe, plans, source, tmp_path):
    recipe = with_warm_up(recipe)
    own = replace(recipe, students=(replace(recipe.students[0], optimizer="adamw"),))
    warm_up = warm_up_folder(Workspace.below(tmp_path), own, "x1/2", plans())
    optimizers = [
        TrainingSettings.from_plans(each).optimizer
        for each in (
            plans_for_teacher(own, plans()),
            plans_for_warm_up(own, "x1/2", plans()),
            plans_for_student(own, Student(size="x1/2", method="logit"), plans(), source, warm_up),
        )
    ]
    assert optimizers == ["sgd", "adamw", "adamw"]


def test_a_narrow_student_learns_at_its_own_rate(recipe, plans, source, tmp_path):
    recipe = with_warm_up(recipe)
    faster = replace(recipe, students=(replace(recipe.students[0], learning_rate_factor=4.0),))
    warm_up = warm_up_folder(Workspace.below(tmp_path), faster, "x1/2", plans())
    student = Student(size="x1/2", method="logit")
    rates = [
        TrainingSettings.from_plans(each).initial_learning_rate
        for each in (
            plans_for_teacher(faster, plans()),
            plans_for_warm_up(faster, "x1/2", plans()),
            plans_for_student(faster, student, plans(), source, warm_up),
            plans_for_student(
                replace(faster, students=(replace(faster.students[0], warm_up_epochs=0),)), student, plans(), source
            ),
        )
    ]
    first, continued = recipe.training.initial_learning_rate, recipe.training.continued_learning_rate
    assert rates == [first, 4 * first, 4 * continued, 4 * first]


def started(recipe, pack, **changes):
    return replace(recipe, students=(replace(recipe.students[0], start=str(pack.folder), **changes),))


def test_a_student_that_starts_from_a_pack_knows_which_and_how_long_that_trained(recipe, plans, teacher_pack, tmp_path):
    sha256 = teacher_pack.manifest.provenance.checkpoint_sha256
    manifest = teacher_pack.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"iterations": null', '"iterations": 500'))
    plain = Student(size="x1/2", method="plain")
    found = TrainingSettings.from_plans(
        plans_for_student(started(recipe, teacher_pack, start_sha256=sha256), plain, plans(), None)
    )
    assert (found.initial_checkpoint, found.initial_sha256) == (str(teacher_pack.folder), sha256)
    assert found.iterations == 500 + 2 * 3
    warmed = started(with_warm_up(recipe), teacher_pack)
    warm_up = warm_up_folder(Workspace.below(tmp_path), warmed, "x1/2", plans())
    assert TrainingSettings.from_plans(plans_for_warm_up(warmed, "x1/2", plans())).initial_sha256 == sha256
    after = TrainingSettings.from_plans(plans_for_student(warmed, plain, plans(), None, warm_up))
    assert (after.initial_sha256, after.iterations) == (None, 500 + (5 + 2) * 3)


def test_a_recipe_that_names_another_pack_to_start_from_is_refused(recipe, plans, teacher_pack):
    student = Student(size="x1/2", method="plain")
    other = started(recipe, teacher_pack, start_sha256="0" * 64)
    with pytest.raises(
        InvalidSettingsError, match=r"starts from a pack of the checkpoint 0{64}, but .* is version 0.1.0"
    ):
        plans_for_student(other, student, plans(), None)
    with pytest.raises(InvalidSettingsError, match="there is no 'start'"):
        replace(recipe.students[0], start_sha256="0" * 64)
    missing = replace(recipe, students=(replace(recipe.students[0], start="nowhere"),))
    with pytest.raises(PackError, match="nowhere"):
        plans_for_student(missing, student, plans(), None)


def test_soft_labels_are_known_by_their_teachers(recipe, plans, source, teacher_pack):
    mix = MethodRecipe(terms={}, soft_labels=SoftLabelSettings(method="", folder=""))
    recipe = replace(recipe, methods={"mix": mix, **recipe.methods})
    student = Student(size="x1/2", method="mix")

    def settings(taught):
        return TrainingSettings.from_plans(plans_for_student(taught, student, plans(), source))

    own = settings(recipe).soft_labels
    assert (own.teachers, own.mirroring_axes) == ((source.sha256(0),), (0, 1, 2))
    networks = (str(source.folder), str(teacher_pack.folder))
    both = replace(recipe, teaching=TeachingRecipe(networks=networks, mirroring=False))
    assert settings(both).soft_labels.teachers == (source.sha256(0), teacher_pack.manifest.provenance.checkpoint_sha256)
    assert settings(both).differing(settings(recipe)) == ("soft_labels",)
    source.path(0).write_bytes(b"trained again")
    assert own.teachers != settings(recipe).soft_labels.teachers
    assert not own.same_but_for_place(settings(recipe).soft_labels)
    assert own.same_but_for_place(replace(own, folder="elsewhere", teachers=None))  # of an earlier version
    source.path(0).unlink()
    assert settings(recipe).soft_labels.teachers is None
