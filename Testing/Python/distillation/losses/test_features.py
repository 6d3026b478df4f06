import math

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.losses.cwd import CwdLoss  # noqa: E402
from distillation.losses.features import stage_weights  # noqa: E402
from distillation.losses.ms_ca import MsCaLoss  # noqa: E402
from distillation.losses.ms_sard import MsSardLoss  # noqa: E402
from distillation.losses.term import Signals  # noqa: E402
from KDSegmentatorLib.errors import InvalidSettingsError  # noqa: E402

LOSSES = [MsSardLoss(weight=1), MsCaLoss(weight=1), MsCaLoss(weight=1, form="affinity", pooled=2), CwdLoss(weight=1)]


def test_stage_weights():
    # 2^0, 2^-1.2, 2^-2.4, added up to 1
    found = stage_weights(3, 0.4)
    raw = [1, 0.435275, 0.189465]
    assert found == pytest.approx([each / sum(raw) for each in raw], abs=1e-6)
    assert sum(stage_weights(5, 0.4)) == pytest.approx(1)
    assert stage_weights(4, 0.0) == [0.25] * 4
    assert stage_weights(2, 1.0)[0] / stage_weights(2, 1.0)[1] == pytest.approx(8)  # every voxel alike


def test_a_decay_is_not_negative():
    for wrong in (-1, math.nan):
        with pytest.raises(InvalidSettingsError, match="stage_decay"):
            CwdLoss(weight=1, stage_decay=wrong)


def signals(seed, dtype=torch.float32, widths=(4, 6)):
    random = torch.Generator().manual_seed(seed)
    sizes = [4 >> n for n in range(len(widths))]
    features = [
        torch.randn(2, width, size, size, size, dtype=dtype, generator=random)
        for width, size in zip(widths, sizes, strict=True)
    ]
    return Signals(heads=[], features=features)


def labels(seed=0):
    full = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(seed))
    return [full, full[:, :, ::2, ::2, ::2], full[:, :, ::4, ::4, ::4]]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_stages_are_added_by_weight(loss):
    student, teacher = signals(0), signals(1)
    parts = loss.trained_parts([4, 6])
    of_stages = list(parts.children()) or [parts, parts]
    weights = stage_weights(2, 0.4)
    expected = sum(
        weight * loss.of_stage(own, theirs, target, part)
        for weight, own, theirs, target, part in zip(
            weights, student.features, teacher.features, labels()[:2], of_stages, strict=True
        )
    )
    torch.testing.assert_close(loss(student, teacher, labels(), parts), expected)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_gradients_are_finite_differences_and_the_teacher_gets_none(loss):
    student, teacher = signals(0, torch.float64), signals(1, torch.float64)
    torch.manual_seed(0)
    parts = loss.trained_parts([4, 6]).double()
    for parameter in parts.parameters():  # W2 starts at 0, where most gradients vanish
        torch.nn.init.normal_(parameter, std=0.3)
    teachers = [each.requires_grad_() for each in teacher.features]

    def run(*features):
        return loss(Signals(heads=[], features=features), Signals(heads=[], features=teachers), labels(), parts)

    inputs = [each.requires_grad_() for each in student.features]
    assert torch.autograd.gradcheck(run, inputs, atol=1e-6)
    run(*inputs).backward()
    assert all(each.grad is None for each in teachers)
    assert all(parameter.grad is not None for parameter in parts.parameters())
    before = run(*inputs).item()
    for parameter in parts.parameters():
        index = (0,) * parameter.dim()
        step = 1e-6
        with torch.no_grad():
            parameter[index] += step
            slope = (run(*inputs).item() - before) / step
            parameter[index] -= step
        assert parameter.grad[index].item() == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_equal_features_cost_nothing(loss):
    parts = loss.trained_parts([4, 6])
    assert loss(signals(0), signals(0), labels(), parts).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_bfloat16_features_are_compared_in_float32(loss):
    student, teacher = (
        Signals(heads=[], features=[each.bfloat16() for each in signals(seed).features]) for seed in (0, 1)
    )
    exact = [Signals(heads=[], features=[each.double() for each in one.features]) for one in (student, teacher)]
    parts = loss.trained_parts([4, 6])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher, labels(), parts)
    assert found.dtype is torch.float32
    expected = loss(*exact, labels(), parts.double())
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_loss_is_a_mean_over_the_batch(loss):
    student, teacher = signals(0), signals(1)
    twice = [
        Signals(heads=[], features=[torch.cat([each, each]) for each in one.features]) for one in (student, teacher)
    ]
    parts = loss.trained_parts([4, 6])
    found = loss(*twice, [torch.cat([each, each]) for each in labels()], parts)
    torch.testing.assert_close(found, loss(student, teacher, labels(), parts))


def test_other_shapes_are_refused():
    student, teacher = signals(0), signals(0, widths=(4, 5))
    with pytest.raises(ValueError, match="differ in shape"):
        CwdLoss(weight=1)(student, teacher, labels(), torch.nn.ModuleList())
