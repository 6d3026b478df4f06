import pytest

onnx = pytest.importorskip("onnx", reason="install the extra 'distill'")
torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.dataset import read_dataset  # noqa: E402
from distillation.export.description import (  # noqa: E402
    check_labels,
    checked_alpha,
    describe_preprocessing,
    describe_provenance,
    describe_windows,
)
from distillation.export.training_set import describe_field_of_view  # noqa: E402
from distillation.plans import student_plans  # noqa: E402
from distillation.teacher import load_model_folder  # noqa: E402
from distillation.training_settings import TrainingSettings  # noqa: E402
from KDSegmentatorLib.errors import ExportError  # noqa: E402
from KDSegmentatorLib.packs.manifest import Normalization, Resampling  # noqa: E402


@pytest.fixture
def load(plans, model_folder):
    """A function that returns a loaded model whose configuration was changed."""

    def make(name="m", top=None, **changes):
        content = plans()
        content["configurations"]["3d_fullres"].update(changes)
        content.update(top or {})
        return load_model_folder(model_folder(content, name=name), 0)

    return make


def test_zscore(load):
    model = load(use_mask_for_norm=[True], spacing=[1.5, 0.5, 0.75])
    found = describe_preprocessing(model, "RAS")
    assert found.axis_codes == "RAS"
    assert found.transpose_forward == (0, 1, 2)
    assert found.spacing == (1.5, 0.5, 0.75)
    assert found.normalization == Normalization(scheme="ZScore", use_mask=True)
    assert found.image_resampling == Resampling(order=3, order_z=0, force_separate_z=None)
    assert found.logits_resampling == Resampling(order=1, order_z=0, force_separate_z=None)


def test_field_of_view_is_that_of_the_headers_along_the_axis_codes(spheres):
    import SimpleITK

    sizes, spacing = [], (0.5, 2.0, 1.1)
    cases = read_dataset(spheres).cases
    for case in cases:
        image = SimpleITK.ReadImage(str(case.image))
        image.SetSpacing(spacing)
        SimpleITK.WriteImage(image, str(case.image))
        sizes.append([count * step for count, step in zip(image.GetSize(), spacing, strict=True)])
    right, anterior, superior = zip(*sizes, strict=True)
    assert min(anterior) < max(anterior)
    found = describe_field_of_view(cases, "RAS")
    assert found.smallest == pytest.approx((min(right), min(anterior), min(superior)), abs=0.01)
    assert found.largest == pytest.approx((max(right), max(anterior), max(superior)), abs=0.01)
    turned = describe_field_of_view(cases, "ILP")
    assert turned.largest == (found.largest[2], found.largest[0], found.largest[1])
    assert describe_field_of_view(cases[:1], "RAS").largest == pytest.approx(sizes[0], abs=0.01)


def test_ct_takes_the_fingerprints_numbers(load):
    model = load(normalization_schemes=["CTNormalization"])
    assert describe_preprocessing(model, "LPS").normalization == Normalization(
        scheme="CT", mean=40.0, std=12.0, percentile_00_5=-10.0, percentile_99_5=90.0
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalization_schemes": ["RescaleTo01Normalization"]}, "RescaleTo01Normalization"),
        ({"normalization_schemes": ["ZScoreNormalization"] * 2}, "2 input channels"),
        ({"preprocessor_name": "MyPreprocessor"}, "MyPreprocessor"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "resample_torch_fornnunet"),
        ({"resampling_fn_probabilities": "no_resampling_hack"}, "no_resampling_hack"),
        ({"top": {"image_reader_writer": "NaturalImage2DIO"}}, "NaturalImage2DIO"),
        ({"spacing": [1.0, 1.0]}, "three axes"),
    ],
)
def test_what_the_library_does_not_do_is_refused(load, changes, message):
    with pytest.raises(ExportError, match=message):
        describe_preprocessing(load(**changes), "RAS")


def test_windows(load):
    windows = describe_windows(load())
    assert (windows.patch_size, windows.step_fraction, windows.mirroring_axes) == ((16, 16, 16), 0.5, (0, 1, 2))


def student_of(plans, model_folder, *, alpha=0.5, distillation=None, name="student"):
    settings = TrainingSettings(epochs=4, iterations_per_epoch=25, seed=7, distillation=distillation)
    content = student_plans(plans(features=(32, 64)), "3d_fullres", alpha=alpha, name="n", settings=settings)
    return load_model_folder(model_folder(content, name=name), 0)


def test_provenance(plans, model_folder, distillation):
    teacher = load_model_folder(model_folder(plans(features=(32, 64))), 0)
    found = describe_provenance(teacher, None)
    assert (found.method, found.checkpoint_sha256, found.iterations) == ("teacher", teacher.sha256, None)
    plain = student_of(plans, model_folder, name="plain")
    found = describe_provenance(plain, teacher)
    assert (found.method, found.seed, found.iterations, found.teacher_sha256) == ("plain", 7, 100, None)
    losses = {"logit": {"weight": 0.7, "temperature": 3.0}}
    logit = student_of(plans, model_folder, distillation=distillation(teacher.folder, losses=losses), name="logit")
    found = describe_provenance(logit, teacher)
    assert (found.method, found.temperature, found.weight) == ("logit", 3.0, 0.7)
    assert found.teacher_sha256 == teacher.sha256
    assert found.losses == {"logit": {"weight": "0.7", "temperature": "3.0"}}
    # the checkpoint does not say what it was trained with
    assert found.versions["onnx (export)"] == onnx.__version__
    assert all(name.endswith(" (export)") for name in found.versions)
    with pytest.raises(ExportError, match="not a teacher"):
        describe_provenance(logit, None)


def test_versions_are_those_of_the_training(plans, model_folder):
    folder = model_folder(plans())
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save({**content, "kdsegmentator": {"versions": {"torch": "1.2.3", "nnunetv2": "2.0"}}}, path)
    versions = describe_provenance(load_model_folder(folder, 0), None).versions
    assert (versions["torch"], versions["nnunetv2"]) == ("1.2.3", "2.0")
    assert versions["torch (export)"] == torch.__version__.partition("+")[0]


def test_a_student_of_another_teacher_is_refused(plans, model_folder, distillation):
    teacher = load_model_folder(model_folder(plans(features=(32, 64))), 0)
    other = model_folder(plans(features=(32, 64)), name="other", seed=1)
    for number, settings in enumerate(
        (distillation(other), distillation(other, sha256=("a" * 64,)), distillation(teacher.folder, folds=(1,)))
    ):
        logit = student_of(plans, model_folder, distillation=settings, name=f"logit_{number}")
        with pytest.raises(ExportError, match="another teacher"):
            describe_provenance(logit, teacher)


def test_provenance_of_other_methods(plans, model_folder, distillation):
    teacher = load_model_folder(model_folder(plans(features=(32, 64))), 0)
    losses = {"ms_sard": {"weight": 0.01, "ramp": 0.6}, "ms_ca": {"weight": 0.01, "form": "affinity"}}
    settings = distillation(teacher.folder, "reco", losses)
    found = describe_provenance(student_of(plans, model_folder, distillation=settings), teacher)
    assert (found.method, found.temperature, found.weight) == ("reco", None, None)
    assert found.losses["ms_ca"] == {"weight": "0.01", "form": "affinity"}
    folds = distillation(teacher.folder, folds=(1, 0), sha256=("b" * 64, teacher.sha256), accept_leakage=True)
    several = student_of(plans, model_folder, distillation=folds, name="several")
    assert describe_provenance(several, teacher).teacher_sha256 == teacher.sha256


def test_alpha(plans, model_folder):
    teacher = load_model_folder(model_folder(plans(features=(32, 64))), 0)
    assert checked_alpha(teacher, None, "x1") == 1.0
    student = student_of(plans, model_folder)
    assert checked_alpha(student, teacher, "x1/2") == 0.5
    with pytest.raises(ExportError, match="not x1/4"):
        checked_alpha(student, teacher, "x1/4")


def test_labels_must_be_the_trained_ones(load, recipe):
    model = load()
    check_labels(recipe.pack.labels, model)
    with pytest.raises(ExportError, match=r"\[1\].*\[1, 2\]"):
        check_labels(recipe.pack.labels[:1], model)
