import json

import pytest

from distillation.plans import (
    check_architecture,
    read_plans,
    resolve_configuration,
    scale_features,
    student_plans,
)
from distillation.training_settings import PLANS_KEY, TrainingSettings
from KDSegmentatorLib.errors import InvalidSettingsError, TeacherError


@pytest.mark.parametrize(
    ("features", "alpha", "expected"),
    [
        ([32, 64, 128, 256, 320, 320], 1.0, [32, 64, 128, 256, 320, 320]),
        ([32, 64, 128, 256, 320, 320], 0.5, [16, 32, 64, 128, 160, 160]),
        ([32, 64, 128, 256, 320, 320], 0.25, [8, 16, 32, 64, 80, 80]),
        ([32, 64, 128], 0.125, [8, 8, 16]),  # C_min
        ([6, 40], 1.0, [6, 40]),  # no student is wider than its teacher
    ],
)
def test_widths_scale_down_to_the_minimum(features, alpha, expected):
    assert scale_features(features, alpha) == expected


def test_the_minimum_is_the_recipes(plans):
    assert scale_features([32, 64, 128], 0.125, minimum=16) == [16, 16, 16]
    student = student_plans(
        plans(), "3d_fullres", alpha=0.125, name="n", settings=TrainingSettings(epochs=1, minimum_width=3)
    )
    assert student["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] == [3, 4]


@pytest.mark.parametrize("alpha", [0, -0.5, 1.5, float("nan")])
def test_alpha_out_of_range(alpha):
    with pytest.raises(InvalidSettingsError, match="alpha"):
        scale_features([32], alpha)


def test_student_plans_change_widths_batch_size_and_name_only(plans, distillation):
    teacher = plans()
    settings = TrainingSettings(epochs=3, batch_size=5, distillation=distillation("T", sha256=("a" * 64,)))
    student = student_plans(teacher, "3d_fullres", alpha=0.5, name="nnUNetPlans_x1_2_logit", settings=settings)
    assert TrainingSettings.from_plans(json.loads(json.dumps(student))) == settings
    assert student.pop(PLANS_KEY)
    assert student["plans_name"] == "nnUNetPlans_x1_2_logit"
    configuration = student["configurations"]["3d_fullres"]
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [8, 16]
    assert configuration["batch_size"] == 5
    expected = plans()
    expected["plans_name"] = "nnUNetPlans_x1_2_logit"
    expected["configurations"]["3d_fullres"]["batch_size"] = 5
    expected["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 16]
    assert student == expected
    assert teacher == plans()  # left alone


def test_inheritance_is_resolved(plans):
    content = plans()
    content["configurations"]["child"] = {"inherits_from": "3d_fullres", "batch_size": 9}
    resolved = resolve_configuration(content, "child")
    assert resolved["batch_size"] == 9
    assert resolved["patch_size"] == [16, 16, 16]
    assert "inherits_from" not in resolved


def test_circular_inheritance_and_unknown_configuration(plans):
    content = plans()
    content["configurations"]["3d_fullres"]["inherits_from"] = "3d_fullres"
    with pytest.raises(TeacherError, match="inherits from itself"):
        resolve_configuration(content, "3d_fullres")
    with pytest.raises(TeacherError, match=r"no configuration '2d'.*3d_fullres"):
        resolve_configuration(content, "2d")


@pytest.mark.parametrize("name", ["os.system", "torch.nn.Linear", "builtins.exec", "", None, ["os.system"]])
def test_network_class_must_be_on_the_list(plans, name):
    configuration = plans()["configurations"]["3d_fullres"]
    configuration["architecture"]["network_class_name"] = name
    with pytest.raises(TeacherError, match="not supported"):
        check_architecture(configuration)


@pytest.mark.parametrize("key", ["conv_op", "norm_op", "nonlin", "dropout_op"])
@pytest.mark.parametrize("value", ["os.system", "subprocess.run", ["torch.nn.Conv3d"], 1])
def test_operations_must_be_on_the_list(plans, key, value):
    configuration = plans()["configurations"]["3d_fullres"]
    configuration["architecture"]["arch_kwargs"][key] = value
    with pytest.raises(TeacherError, match=key):
        check_architecture(configuration)


def test_any_argument_that_is_imported_is_checked(plans):
    configuration = plans()["configurations"]["3d_fullres"]
    configuration["architecture"]["_kw_requires_import"].append("n_stages")
    with pytest.raises(TeacherError, match="n_stages"):
        check_architecture(configuration)


def test_plans_without_any_architecture_are_refused(plans):
    content = plans()
    del content["configurations"]["3d_fullres"]["architecture"]
    with pytest.raises(TeacherError, match="plan again"):
        check_architecture(resolve_configuration(content, "3d_fullres"))


@pytest.mark.parametrize("features", [(16, 32), (8, 16, 32, 32)])
def test_the_older_layout_is_the_same_configuration(plans, older, each_architecture, features):
    current = plans(each_architecture, features)
    before = older(current)
    assert "architecture" not in before["configurations"]["3d_fullres"]
    assert resolve_configuration(before, "3d_fullres") == current["configurations"]["3d_fullres"]
    before["configurations"]["child"] = {"inherits_from": "3d_fullres", "unet_max_num_features": 24}
    child = check_architecture(resolve_configuration(before, "child"))
    assert child["arch_kwargs"]["features_per_stage"] == [min(width, 24) for width in features]
    assert "architecture" not in before["configurations"]["3d_fullres"]  # left alone


def test_the_older_layout_is_read_as_nnunet_reads_it(plans, older, each_architecture):
    handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    before = older(plans(each_architecture, (8, 16, 32, 32)))
    own = resolve_configuration(before, "3d_fullres")
    with pytest.warns(UserWarning, match="old nnU-Net plans"):
        nnunets = handler.ConfigurationManager(before["configurations"]["3d_fullres"]).configuration
    for each in (own, nnunets):  # nnU-Net looks for a class that moved by its last name
        each["architecture"]["network_class_name"] = each["architecture"]["network_class_name"].rpartition(".")[2]
    assert own == nnunets


def test_a_student_of_older_plans_is_in_the_current_layout(plans, older):
    settings = TrainingSettings(epochs=1)
    expected = student_plans(plans(), "3d_fullres", alpha=0.5, name="n", settings=settings)
    assert student_plans(older(plans()), "3d_fullres", alpha=0.5, name="n", settings=settings) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"UNet_class_name": "os.system"}, r"'os\.system' is not supported"),
        ({"UNet_class_name": ["PlainConvUNet"]}, "is not supported"),
        ({"conv_kernel_sizes": None}, "conv_kernel_sizes"),
        ({"unet_max_num_features": "many"}, "many"),
        ({"n_conv_per_stage_encoder": 2}, "incomplete or damaged"),
        ({"patch_size": [16, 16]}, "Conv2d"),
    ],
)
def test_older_plans_that_do_not_do(plans, older, changes, message):
    content = older(plans())
    configuration = content["configurations"]["3d_fullres"]
    configuration.update(changes)
    content["configurations"]["3d_fullres"] = {key: value for key, value in configuration.items() if value is not None}
    with pytest.raises(TeacherError, match=message):
        check_architecture(resolve_configuration(content, "3d_fullres"))


def test_read_plans(tmp_path, plans):
    path = tmp_path / "plans.json"
    with pytest.raises(TeacherError, match="no such file"):
        read_plans(path)
    for content in (b"{", b"\xff\xfe", b"[]", b'{"plans_name": "x"}'):
        path.write_bytes(content)
        with pytest.raises(TeacherError, match=r"plans\.json"):
            read_plans(path)
    path.write_text(json.dumps(plans()))
    assert read_plans(path) == plans()


def test_settings_refuse_what_makes_no_sense(plans):
    with pytest.raises(InvalidSettingsError, match="epochs"):
        TrainingSettings(epochs=0)
    with pytest.raises(InvalidSettingsError, match="initial_learning_rate"):
        TrainingSettings(epochs=1, initial_learning_rate=0)
    with pytest.raises(InvalidSettingsError, match="optimizer must be one of"):
        TrainingSettings(epochs=1, optimizer="lion")
    with pytest.raises(InvalidSettingsError, match="minimum_width"):
        TrainingSettings(epochs=1, minimum_width=0)
    with pytest.raises(InvalidSettingsError, match="kdseg-distill"):
        TrainingSettings.from_plans(plans())
    with pytest.raises(InvalidSettingsError, match="surprise"):
        TrainingSettings.from_plans({PLANS_KEY: {"epochs": 1, "surprise": 2}})
