import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.losses.ms_ca import GlobalContext, MsCaLoss, affinity  # noqa: E402
from KDSegmentatorLib.errors import InvalidSettingsError  # noqa: E402

LABELS = torch.zeros(2, 1, 4, 4, 4)


def features(seed, shape=(2, 4, 4, 4, 4)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_context_starts_as_the_identity():
    values = features(0)
    assert torch.equal(GlobalContext(4)(values), values)
    parts = MsCaLoss(weight=1).trained_parts([4])[0]
    student, teacher = features(0), features(1)
    loss = MsCaLoss(weight=1).of_stage(student, teacher, LABELS, parts)
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(student, teacher))


def test_context_is_the_equation():
    torch.manual_seed(0)
    block = GlobalContext(4).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    values = features(0).double()
    found = block(values)
    w, w_offset = block.attention.weight.flatten(), block.attention.bias
    for patch in range(2):
        flat = values[patch].flatten(1)  # (C, N)
        weights = torch.softmax(w @ flat + w_offset, 0)
        context = (flat * weights).sum(1)
        hidden = block.reduce.weight @ context + block.reduce.bias
        normalised = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + block.norm.eps).sqrt()
        normalised = normalised * block.norm.weight + block.norm.bias
        added = block.expand.weight @ normalised.clamp_min(0) + block.expand.bias
        torch.testing.assert_close(found[patch].flatten(1), flat + added[:, None])


def test_the_hidden_layer_has_half_the_channels():
    assert GlobalContext(32).reduce.out_features == 16
    assert GlobalContext(1)(features(0, (2, 1, 2, 2, 2))).shape == (2, 1, 2, 2, 2)


def test_student_and_teacher_have_blocks_of_their_own():
    parts = MsCaLoss(weight=1).trained_parts([4, 8])
    assert [set(stage) for stage in parts] == [{"student", "teacher"}] * 2
    assert len(list(parts.parameters())) == 2 * 2 * 8
    assert not list(MsCaLoss(weight=1, form="affinity").trained_parts([4, 8]).parameters())


def test_affinity_is_the_cosine_between_cells():
    values = features(0)
    found = affinity(values, 2)
    assert found.shape == (2, 8, 8)
    cells = torch.nn.functional.avg_pool3d(values, 2).flatten(2)
    for one in range(8):
        for other in range(8):
            cosine = torch.nn.functional.cosine_similarity(cells[:, :, one], cells[:, :, other], dim=1)
            torch.testing.assert_close(found[:, one, other], cosine)


def test_affinity_keeps_axes_that_are_shorter_than_the_pool():
    assert affinity(features(0, (1, 4, 2, 5, 3)), 4).shape == (1, 2 * 4 * 3, 2 * 4 * 3)


def test_affinity_ignores_scale_and_needs_no_channel_map():
    loss = MsCaLoss(weight=1, form="affinity", pooled=2)
    student, teacher = features(0), features(1)
    none = torch.nn.Identity()
    torch.testing.assert_close(
        loss.of_stage(3 * student, teacher, LABELS, none), loss.of_stage(student, teacher, LABELS, none)
    )
    assert loss.of_stage(3 * teacher, teacher, LABELS, none).item() == pytest.approx(0, abs=1e-10)


def test_affinity_of_empty_cells_is_finite():
    zeros = torch.zeros(1, 4, 4, 4, 4).requires_grad_()
    loss = MsCaLoss(weight=1, form="affinity", pooled=2).of_stage(zeros, features(0, (1, 4, 4, 4, 4)), LABELS, None)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(zeros.grad).all()


def test_pooled_must_be_positive():
    with pytest.raises(InvalidSettingsError, match="pooled"):
        MsCaLoss(weight=1, pooled=0)
