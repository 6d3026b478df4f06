"""Teachers of other kinds than one plain U-Net at full resolution, each from its training to its student."""

import json

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation import prepare as preparation  # noqa: E402
from distillation.dataset import find_dataset  # noqa: E402
from distillation.plans import read_plans, student_plans  # noqa: E402
from distillation.recipe import DatasetRecipe  # noqa: E402
from distillation.teacher import load_model_folder  # noqa: E402
from KDSegmentatorLib.errors import InvalidSettingsError  # noqa: E402
from KDSegmentatorLib.io.files import write_json  # noqa: E402
from support.tiny_training import DATASET, LOSSES, checkpoint, run, settings, small_plans, trained_along  # noqa: E402

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("everything_in_this_process")]


def teacher_and_student(space, stock, distillation, configuration="3d_fullres", method="logit-reco", **changes):
    """Train both for an epoch; return their folders."""
    name = f"{stock['plans_name']}_{configuration}_{method}"
    teacher = run(
        space,
        student_plans(stock, configuration, alpha=0.5, name=f"{name}_T", settings=settings(epochs=1)),
        configuration,
    )
    wanted = settings(epochs=1, distillation=distillation(teacher, method, LOSSES[method]), **changes)
    student = run(space, student_plans(stock, configuration, alpha=0.25, name=name, settings=wanted), configuration)
    return teacher, student


def stock_predictor(folder):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    return predictor


def test_a_residual_encoder(prepared_spheres, distillation, monkeypatch):
    monkeypatch.setattr(preparation, "_processes", lambda: 1)
    recipe = DatasetRecipe(name=DATASET, title="Generated spheres", planner="nnUNetPlannerResEncM")
    stock = preparation.prepare(prepared_spheres, recipe).plans
    teacher, student = teacher_and_student(prepared_spheres, stock, distillation)
    assert type(load_model_folder(teacher, 0).network).__name__ == "ResidualEncoderUNet"
    assert type(stock_predictor(student).network).__name__ == "ResidualEncoderUNet"
    assert any(name.startswith("maps.") for name in trained_along(checkpoint(student)))


def test_low_resolution(prepared_spheres, distillation, monkeypatch):
    monkeypatch.setattr(preparation, "_processes", lambda: 1)
    folder = prepared_spheres.preprocessed / DATASET
    stock = read_plans(folder / "nnUNetPlans.json")
    stock["plans_name"] = "nnUNetPlansLow"
    stock["configurations"]["3d_lowres"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": "nnUNetPlansLow_3d_lowres",
        "spacing": [1.5, 1.5, 1.5],
        "patch_size": [16, 16, 16],
        "next_stage": "3d_cascade_fullres",
    }
    write_json(folder / "nnUNetPlansLow.json", stock)
    raw = find_dataset(prepared_spheres.raw, DATASET)
    with prepared_spheres.activated():
        preparation._preprocess(raw, stock, "3d_lowres")
    _, student = teacher_and_student(prepared_spheres, stock, distillation, "3d_lowres")
    model = load_model_folder(student, 0)
    assert (model.configuration_name, model.configuration["spacing"]) == ("3d_lowres", [1.5, 1.5, 1.5])
    assert stock_predictor(student).configuration_manager.spacing == [1.5, 1.5, 1.5]


def test_several_folds(prepared_spheres, distillation):
    plans = small_plans(prepared_spheres, "nnUNetPlans_folds", alpha=0.5, epochs=1)
    teacher = run(prepared_spheres, plans)
    assert run(prepared_spheres, plans, fold=1) == teacher
    average = distillation(teacher, "logit", LOSSES["logit"], (0, 1), accept_leakage=True)
    student = run(
        prepared_spheres, small_plans(prepared_spheres, "nnUNetPlans_average", epochs=1, distillation=average)
    )
    assert checkpoint(student)["current_epoch"] == 1
    features = distillation(teacher, "reco", LOSSES["reco"], (0, 1), accept_leakage=True)
    with pytest.raises(InvalidSettingsError, match="need one fold, but 2 teach"):
        run(prepared_spheres, small_plans(prepared_spheres, "nnUNetPlans_f", epochs=1, distillation=features))


def test_bfloat16_and_gradient_checkpointing(prepared_spheres, distillation):
    """Both stay near float32, and a student of both loads in stock nnU-Net."""
    stock = read_plans(prepared_spheres.preprocessed / DATASET / "nnUNetPlans.json")
    losses = {}
    for precision, checkpointing in (("float32", False), ("float32", True), ("bfloat16", True)):
        plans = {**stock, "plans_name": f"P_{precision}_{checkpointing}"}
        _, student = teacher_and_student(
            prepared_spheres,
            plans,
            distillation,
            precision=precision,
            gradient_checkpointing=checkpointing,
        )
        losses[precision, checkpointing] = checkpoint(student)["logging"]["train_losses"][0]
        assert stock_predictor(student).network is not None
    exact = losses["float32", False]
    assert losses["float32", True] == pytest.approx(exact, rel=1e-5)
    assert losses["bfloat16", True] == pytest.approx(exact, rel=5e-2)
    assert losses["bfloat16", True] != exact


def test_the_settings_are_in_the_students_plans(prepared_spheres, distillation):
    stock = read_plans(prepared_spheres.preprocessed / DATASET / "nnUNetPlans.json")
    _, student = teacher_and_student(prepared_spheres, {**stock, "plans_name": "Kept"}, distillation, method="cwd")
    kept = json.loads((student / "plans.json").read_text())["kdsegmentator"]["distillation"]
    assert (kept["method"], kept["losses"]) == ("cwd", LOSSES["cwd"])
