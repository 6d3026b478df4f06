import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install kdsegmentator[distill]")

from distillation.losses.soft_segmentation import SoftSegmentationLoss  # noqa: E402


def written_out(logits, q):
    """Return the formula of the docstring, with autograd's gradient."""
    p = torch.softmax(logits, dim=1)
    entropy = -(q * torch.log_softmax(logits, dim=1)).sum(1).mean()
    axes = (0, 2, 3, 4)
    dice = (p - q).abs().sum(axes) / ((p + q).sum(axes) + 1e-5)
    return entropy + dice[1:].mean()


def soft_labels(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(shape, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("classes", [2, 5, 46])
def test_value_and_gradient_are_those_of_the_formula(classes):
    shape = (2, classes, 4, 5, 6)
    q = soft_labels(shape)
    logits = soft_labels(shape, seed=1).log().requires_grad_()
    expected = written_out(logits, q)
    (wanted,) = torch.autograd.grad(expected, logits)
    loss = SoftSegmentationLoss()(logits, q)
    (found,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, wanted)


def test_a_value_worked_out_by_hand():
    # one voxel, p = (1/2, 1/2), q = (1/4, 3/4): entropy ln 2, Dice (1/4) / (5/4)
    logits = torch.zeros(1, 2, 1, 1, 1)
    q = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1, 1)
    assert SoftSegmentationLoss()(logits, q).item() == pytest.approx(0.693147 + 0.2, abs=1e-4)


def test_dice_of_hard_labels_is_the_usual_soft_dice():
    labels = torch.randint(0, 3, (1, 1, 6, 6, 6), generator=torch.Generator().manual_seed(0))
    hard = torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).double()
    logits = soft_labels(hard.shape).log()
    p = torch.softmax(logits, dim=1)
    entropy = -(hard * p.log()).sum(1).mean()
    both = (p * hard).sum((0, 2, 3, 4))
    dice = 1 - 2 * both / (p + hard).sum((0, 2, 3, 4))
    torch.testing.assert_close(SoftSegmentationLoss()(logits, hard), entropy + dice[1:].mean(), rtol=1e-5, atol=1e-5)


def test_it_is_smallest_where_the_student_says_what_the_teacher_says():
    q = soft_labels((1, 4, 3, 3, 3))
    loss = SoftSegmentationLoss()
    best = loss(q.log(), q)
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        other = q.log() + 0.1 * torch.randn(q.shape, generator=generator, dtype=torch.float64)
        assert loss(other, q) > best


def test_bfloat16_logits_are_widened():
    q = soft_labels((1, 3, 8, 8, 8)).float()
    logits = q.log().bfloat16().requires_grad_()
    loss = SoftSegmentationLoss()(logits, q)
    loss.backward()
    assert loss.dtype is torch.float32
    assert logits.grad.dtype is torch.bfloat16
    torch.testing.assert_close(loss.detach(), written_out(logits.detach().float(), q), rtol=1e-3, atol=1e-3)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        SoftSegmentationLoss()(torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 3, 2, 2, 3))
