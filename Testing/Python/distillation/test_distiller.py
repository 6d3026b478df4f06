from contextlib import nullcontext

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.distiller import (  # noqa: E402
    Distiller,
    EncoderTaps,
    load_teachers,
)
from distillation.losses.logit import LogitLoss  # noqa: E402
from distillation.plans import resolve_configuration  # noqa: E402
from distillation.teacher import (  # noqa: E402
    build_network,
    load_model_folder,
)
from KDSegmentatorLib.errors import InvalidSettingsError, TeacherError  # noqa: E402


@pytest.fixture
def network(plans, each_architecture):
    configuration = resolve_configuration(plans(each_architecture, (8, 16, 32)), "3d_fullres")
    return build_network(configuration, channels=1, labels=3, deep_supervision=True)


def test_taps_read_the_encoder_without_its_bottleneck(network):
    taps = EncoderTaps(network)
    assert taps.widths == [8, 16]
    patch = torch.randn(2, 1, 16, 16, 16)
    network(patch)
    features = taps.take()
    expected = network.encoder(patch)[:-1]
    assert [tuple(each.shape) for each in features] == [(2, 8, 16, 16, 16), (2, 16, 8, 8, 8)]
    torch.testing.assert_close(features, expected)


def test_gradients_flow_through_them(network):
    taps = EncoderTaps(network)
    network(torch.randn(1, 1, 16, 16, 16))
    taps.take()[1].sum().backward()
    assert all(parameter.grad is not None for parameter in network.encoder.stages[:2].parameters())
    assert all(parameter.grad is None for parameter in network.encoder.stages[2].parameters())


def test_features_are_taken_once(network):
    taps = EncoderTaps(network)
    network(torch.randn(1, 1, 16, 16, 16))
    taps.take()
    with pytest.raises(RuntimeError, match="did not run"):
        taps.take()


def test_validation_holds_on_to_nothing(network):
    taps = EncoderTaps(network)
    network.eval()(torch.randn(1, 1, 16, 16, 16))
    with pytest.raises(RuntimeError, match="did not run"):
        taps.take()


def test_a_frozen_network_is_read_in_evaluation_mode(network):
    taps = EncoderTaps(network.eval().requires_grad_(False))
    network(torch.randn(1, 1, 16, 16, 16))
    assert len(taps.take()) == 2


LOGIT = {"logit": {"weight": 2.0, "temperature": 2.0}}
HEADS = {"logit": {"weight": 1.0, "temperature": 2.0, "deep_supervision": True}}
RECO = {"ms_sard": {"weight": 0.01, "ramp": 0.5}, "ms_ca": {"weight": 0.01}}
DATASET = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "Front": 1, "Back": 2}}
CPU = torch.device("cpu")


@pytest.fixture
def setting(plans, model_folder, distillation, each_architecture):
    """A function that returns student, distiller and the teacher's folder: setting(losses, folds)."""

    def make(losses, folds=(0,), student_features=(8, 16, 32)):
        content = plans(each_architecture, (16, 32, 32))
        folder = None
        for fold in folds:
            folder = model_folder(content, name=f"teacher_{fold}", fold=fold, seed=fold)
            if fold != folds[0]:
                (folder / f"fold_{fold}").rename(folder.with_name(f"teacher_{folds[0]}") / f"fold_{fold}")
        folder = folder.with_name(f"teacher_{folds[0]}")
        settings = distillation(folder, "some", losses, folds, accept_leakage=len(folds) > 1)
        teachers = load_teachers(settings, fold=0, dataset=DATASET, configuration="3d_fullres")
        torch.manual_seed(99)
        student = build_network(
            resolve_configuration(plans(each_architecture, student_features), "3d_fullres"),
            channels=1,
            labels=3,
            deep_supervision=True,
        )
        networks = [teacher.network for teacher in teachers]
        return student, Distiller(settings, student, networks, CPU, nullcontext), folder

    return make


def batch():
    random = torch.Generator().manual_seed(0)
    full = torch.randint(0, 3, (2, 1, 16, 16, 16), generator=random)
    return torch.randn(2, 1, 16, 16, 16, generator=random), [full, full[..., ::2, ::2, ::2]]


def losses_of(student, distiller, progress=1.0):
    data, labels = batch()
    return distiller.losses(data, student(data), labels, progress)


def test_logits_are_compared_with_the_teachers(setting):
    student, distiller, folder = setting(LOGIT)
    data, _ = batch()
    teacher = load_model_folder(folder, 0).network
    expected = 2 * LogitLoss(weight=1, temperature=2.0).divergence(student(data)[0], teacher(data))
    torch.testing.assert_close(losses_of(student, distiller), {"logit": expected})
    assert not list(distiller.parts.parameters())


def test_several_folds_are_averaged_as_logits(setting):
    student, distiller, folder = setting(LOGIT, folds=(0, 1, 3))
    data, _ = batch()
    mean = torch.stack([load_model_folder(folder, fold).network(data) for fold in (0, 1, 3)]).mean(0)
    expected = 2 * LogitLoss(weight=1, temperature=2.0).divergence(student(data)[0], mean)
    torch.testing.assert_close(losses_of(student, distiller)["logit"], expected)


def test_all_heads_of_both_networks(setting):
    student, distiller, folder = setting(HEADS)
    data, _ = batch()
    teacher = load_model_folder(folder, 0).network
    teacher.decoder.deep_supervision = True
    one = LogitLoss(weight=1, temperature=2.0).divergence(student(data)[0], teacher(data)[0])
    torch.testing.assert_close(losses_of(student, distiller)["logit"], one)  # of two heads the lower one is left out


def test_features_need_one_fold(setting):
    with pytest.raises(InvalidSettingsError, match="need one fold, but 2 teach"):
        setting(RECO, folds=(0, 1))


def test_feature_losses_have_maps_and_ramps(setting):
    student, distiller, _ = setting(RECO)
    assert [tuple(each.weight.shape[:2]) for each in distiller.parts["maps"]] == [(16, 8), (32, 16)]
    start, half, end = (losses_of(student, distiller, progress) for progress in (0, 0.25, 1))
    assert start["ms_sard"].item() == 0
    assert half["ms_sard"].item() == pytest.approx(end["ms_sard"].item() / 2)
    assert start["ms_ca"].item() == half["ms_ca"].item() == end["ms_ca"].item() > 0
    sum(end.values()).backward()
    assert all(parameter.grad is not None for parameter in distiller.parts.parameters())
    encoder = student.encoder.stages
    assert all(parameter.grad is not None for parameter in encoder[:2].parameters())
    assert all(parameter.grad is None for parameter in encoder[2].parameters())  # the bottleneck is left out
    assert all(parameter.grad is None for parameter in student.decoder.stages.parameters())


def test_the_teachers_decoder_runs_only_for_losses_of_logits(setting, distillation):
    student, distiller, folder = setting(RECO)
    ran = []
    distiller.teachers[0].decoder.register_forward_hook(lambda *_: ran.append("encoder only"))
    encoder_only = losses_of(student, distiller)
    settings = distillation(folder, "some", {**RECO, **LOGIT})
    both = Distiller(settings, student, [load_model_folder(folder, 0).network], CPU, nullcontext)
    both.teachers[0].decoder.register_forward_hook(lambda *_: ran.append("both"))
    both.parts.load_state_dict(distiller.parts.state_dict())
    found = losses_of(student, both)
    assert ran == ["both"]
    assert found.pop("logit").item() > 0
    assert found == encoder_only


def test_equal_widths_need_no_map(setting):
    _, distiller, _ = setting({"cwd": {"weight": 1.0}}, student_features=(16, 8, 32))
    assert [type(each).__name__ for each in distiller.parts["maps"]] == ["Identity", "Conv3d"]


def test_an_unknown_loss_is_named(setting):
    with pytest.raises(InvalidSettingsError, match=r"losses of 'some'\.kd: unknown loss"):
        setting({"kd": {"weight": 1.0}})


@pytest.fixture
def folder(plans, model_folder):
    return model_folder(plans())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": 1}, "trained on fold 0 .* fold 1: .* Use the same fold"),
        ({"dataset": {**DATASET, "labels": {"background": 0, "Back": 1, "Front": 2}}}, "labels .* another value"),
        ({"configuration": "3d_lowres"}, "trained for 3d_fullres .* for 3d_lowres"),
    ],
)
def test_a_teacher_that_does_not_fit(folder, distillation, changes, message):
    wanted = {"fold": 0, "dataset": DATASET, "configuration": "3d_fullres"}
    assert len(load_teachers(distillation(folder), **wanted)) == 1
    with pytest.raises(TeacherError, match=message):
        load_teachers(distillation(folder), **{**wanted, **changes})


def test_folds_that_saw_the_held_out_cases_need_consent(plans, model_folder, distillation):
    folder = model_folder(plans(), name="two")
    (model_folder(plans(), name="other", fold=1) / "fold_1").rename(folder / "fold_1")
    wanted = {"fold": 0, "dataset": DATASET, "configuration": "3d_fullres"}
    with pytest.raises(TeacherError, match=r"the folds 0, 1 .* held-out cases"):
        load_teachers(distillation(folder, folds=(0, 1)), **wanted)
    assert len(load_teachers(distillation(folder, folds=(0, 1), accept_leakage=True), **wanted)) == 2


def test_a_teacher_that_changed_or_is_none(folder, distillation, tmp_path):
    wanted = {"fold": 0, "dataset": DATASET, "configuration": "3d_fullres"}
    with pytest.raises(TeacherError, match="changed since"):
        load_teachers(distillation(folder, sha256=("0" * 64,)), **wanted)
    with pytest.raises(TeacherError, match="no such file"):
        load_teachers(distillation(tmp_path / "nothing"), **wanted)
    with pytest.raises(TeacherError, match="no such file"):
        load_teachers(distillation(folder, folds=(2,), accept_leakage=True), **wanted)
