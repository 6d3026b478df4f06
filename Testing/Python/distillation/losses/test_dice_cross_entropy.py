import copy
import math

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")
torch = pytest.importorskip("torch", reason="needs torch: pip install kdsegmentator[distill]")

from nnunetv2.training.loss.compound_losses import DC_and_CE_loss  # noqa: E402
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper  # noqa: E402
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss  # noqa: E402

from distillation.losses import term as voxel_rows  # noqa: E402
from distillation.losses.dice_cross_entropy import (  # noqa: E402
    MANY_CLASSES,
    DiceCrossEntropyLoss,
    SoftSegmentationLoss,
    segmentation_loss,
)

CPU = torch.device("cpu")


def stock(
    *,
    batch_dice=False,
    ignore_label=None,
    ddp=False,
    dice_class=MemoryEfficientSoftDiceLoss,
    weight_ce=1,
    **cross_entropy,
):
    settings = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": ddp}
    return DC_and_CE_loss(
        settings, cross_entropy, weight_ce, weight_dice=1, ignore_label=ignore_label, dice_class=dice_class
    )


def sample(classes=5, patches=2, dtype=torch.float64, label_type=torch.int16):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(patches, classes, 6, 7, 5, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes - 1, (patches, 1, 6, 7, 5), generator=generator)  # the last class is absent
    return logits.requires_grad_(), labels.to(label_type)


def value_and_gradient(loss, logits, labels):
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(1.7 * value, logits)
    return value.detach(), gradient


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "channels first"])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("patches", [1, 3])
@pytest.mark.parametrize("classes", [2, 5, 20])
def test_value_and_gradient_are_nnunets(classes, patches, batch_dice, last):
    logits, labels = sample(classes, patches)
    ours, given = DiceCrossEntropyLoss(batch_dice=batch_dice, smooth=1e-5), logits
    if last:
        given = logits.detach().to(memory_format=torch.channels_last_3d).requires_grad_()
    expected = value_and_gradient(stock(batch_dice=batch_dice), logits, labels.long())
    # nnU-Net sums in float32 even where the logits are float64
    torch.testing.assert_close(value_and_gradient(ours, given, labels), expected, rtol=1e-5, atol=1e-8)


def test_hand_computed():
    # two voxels, background and one class, of probability 3/4 and 1/2; the first voxel is the class
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]).view(1, 2, 2, 1, 1)
    labels = torch.tensor([1, 0]).view(1, 1, 2, 1, 1)
    loss = DiceCrossEntropyLoss(batch_dice=False, smooth=0.0)(logits, labels)
    dice = 2 * 0.75 / (1 + 1.25)
    assert loss.item() == pytest.approx(-dice - (math.log(0.75) + math.log(0.5)) / 2)


def test_gradient_is_the_slope():
    logits, labels = sample(patches=2)
    small = logits.detach()[:, :, :2, :2, :2].clone().requires_grad_()
    for batch_dice in (False, True):
        loss = DiceCrossEntropyLoss(batch_dice=batch_dice, smooth=1e-5)
        assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z, labels[:, :, :2, :2, :2]), small)


@pytest.mark.parametrize("values", [1, 30, 500])
def test_chunks_change_nothing(values, monkeypatch):
    logits, labels = sample()
    loss = DiceCrossEntropyLoss(batch_dice=True, smooth=1e-5)
    expected = value_and_gradient(loss, logits, labels)
    monkeypatch.setattr(voxel_rows, "CHUNK_VALUES", values)
    torch.testing.assert_close(value_and_gradient(loss, logits, labels), expected)


def test_reduced_precision_is_widened():
    logits, labels = sample(dtype=torch.bfloat16)
    value, gradient = value_and_gradient(DiceCrossEntropyLoss(batch_dice=False, smooth=1e-5), logits, labels)
    wide = logits.detach().float().requires_grad_()
    expected, slope = value_and_gradient(stock(), wide, labels.long())
    assert (value.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope.bfloat16())


def test_a_hopeless_voxel_costs_much_and_not_infinitely():
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1, 1).requires_grad_()
    value, gradient = value_and_gradient(
        DiceCrossEntropyLoss(batch_dice=False, smooth=1e-5), logits, torch.ones(1, 1, 1, 1, 1)
    )
    assert value.item() == pytest.approx(400, abs=0.1)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([1.7, -1.7]))


def test_millions_of_voxels_are_counted():
    """Added one by one, 0.97 becomes 1 in a float32 from a million on."""
    shape = (1, 1, 96, 160, 160)
    logits = torch.zeros(1, 2, *shape[2:])
    logits[:, 1] = math.log(0.97 / 0.03)
    logits.requires_grad_()
    value, gradient = value_and_gradient(
        DiceCrossEntropyLoss(batch_dice=False, smooth=1e-5), logits, torch.ones(shape, dtype=torch.int16)
    )
    assert value.item() == pytest.approx(-2 * 0.97 / 1.97 - math.log(0.97), abs=1e-6)
    # d(-2 p / (1 + p) - log p) / dz = (-2 / (1 + p)^2 - 1 / p) p (1 - p), a voxel's share of it
    slope = 1.7 * (-2 / 1.97**2 - 1 / 0.97) * 0.97 * 0.03 / logits[0, 0].numel()
    torch.testing.assert_close(gradient[0, 1], torch.full(shape[2:], slope), rtol=1e-4, atol=0)


def test_labels_have_to_lie_as_the_logits():
    logits, labels = sample()
    with pytest.raises(
        ValueError, match=r"labels of shape \(2, 1, 7, 6, 5\) do not fit logits of shape \(2, 5, 6, 7, 5\)"
    ):
        DiceCrossEntropyLoss(batch_dice=False, smooth=1e-5)(logits, labels.transpose(2, 3))


def test_autocast_does_not_touch_it():
    logits, labels = sample(20, dtype=torch.float32)
    loss = DiceCrossEntropyLoss(batch_dice=False, smooth=1e-5)
    expected = value_and_gradient(loss, logits, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradient(loss, logits, labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("deep", [False, True])
def test_takes_the_place_of_nnunets_on_a_cpu(deep):
    logits, labels = sample()
    theirs = stock()
    if deep:
        theirs = DeepSupervisionWrapper(theirs, [1.0])
        logits_given, labels_given = [logits], [labels.long()]
    else:
        logits_given, labels_given = logits, labels.long()
    expected = theirs(logits_given, labels_given)
    ours = segmentation_loss(copy.deepcopy(theirs), CPU, MANY_CLASSES)
    assert isinstance(ours.loss if deep else ours, DiceCrossEntropyLoss)
    torch.testing.assert_close(ours(logits_given, labels_given), expected, check_dtype=False)


@pytest.mark.parametrize(
    "other",
    [
        stock(ignore_label=4),
        stock(batch_dice=True, ddp=True),
        stock(weight_ce=2),
        stock(dice_class=SoftDiceLoss),
        stock(label_smoothing=0.1),
        stock(weight=torch.arange(5.0)),
    ],
    ids=["ignore label", "several processes", "weights", "another Dice", "smoothing", "weights of classes"],
)
def test_what_it_does_not_compute_is_left_to_nnunet(other):
    wrapped = DeepSupervisionWrapper(other, [1.0])
    kept = segmentation_loss(wrapped, CPU, MANY_CLASSES)
    assert kept.loss is wrapped
    assert wrapped.loss is other


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(("device", "classes"), [("cuda", MANY_CLASSES), ("cpu", MANY_CLASSES - 1)])
def test_gpus_and_few_classes_keep_nnunets_loss_which_is_given_full_precision(device, classes, deep):
    theirs = DeepSupervisionWrapper(stock(), [1.0]) if deep else stock()
    kept = segmentation_loss(theirs, torch.device(device), classes)
    logits, labels = sample(dtype=torch.bfloat16)
    assert kept.loss is theirs
    found = kept([logits], [labels.long()]) if deep else kept(logits, labels.long())
    torch.testing.assert_close(found, stock()(logits.float(), labels.long()))


def test_chunks_are_larger_where_kernels_have_to_be_started():
    elsewhere = list(voxel_rows.chunks(torch.empty(1 << 22, 64, device="meta")))  # stands for a GPU, as in forecasts
    on_a_cpu = list(voxel_rows.chunks(torch.empty(1, 1).expand(1 << 22, 64)))
    assert (len(elsewhere), len(on_a_cpu)) == (16, 1024)
    assert elsewhere[-1].stop == on_a_cpu[-1].stop == 1 << 22


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
