import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.losses.ms_sard import MsSardLoss, attentions, region_masks  # noqa: E402
from KDSegmentatorLib.errors import InvalidSettingsError  # noqa: E402

NONE = torch.nn.ModuleList()


def reference(student, teacher, labels, temperature=0.5):
    """The equations in float64, voxel by voxel; returns foreground, background, attention."""
    batch, channels, *shape = student.shape
    voxels = int(np.prod(shape))
    s, t = (each.reshape(batch, channels, voxels).astype(np.float64) for each in (student, teacher))
    y = labels.reshape(batch, voxels)

    def softmax(values):
        e = np.exp(values - values.max())
        return e / e.sum()

    def spatial(f):
        return voxels * softmax(np.abs(f).mean(axis=0) / temperature)

    def channel(f):
        return channels * softmax(np.abs(f).mean(axis=1) / temperature)

    sums = {"foreground": [0.0, 0.0], "background": [0.0, 0.0]}
    spatial_difference, channel_difference = [], []
    for b in range(batch):
        a_sp, a_ch = spatial(t[b]), channel(t[b])
        spatial_difference.append(np.abs(spatial(s[b]) - a_sp))
        channel_difference.append(np.abs(channel(s[b]) - a_ch))
        for u in range(voxels):
            mask = 1 / (y[b] == y[b, u]).sum()
            part = sums["foreground" if y[b, u] >= 1 else "background"]
            part[0] += mask * sum(a_sp[u] * a_ch[c] * (t[b, c, u] - s[b, c, u]) ** 2 for c in range(channels))
            part[1] += mask
    losses = [top / (channels * bottom) if bottom else 0.0 for top, bottom in sums.values()]
    return (*losses, np.mean(spatial_difference) + np.mean(channel_difference))


def example(seed=0, shape=(2, 3, 2, 3, 2), classes=4):
    random = np.random.default_rng(seed)
    student, teacher = random.normal(0, 1, (2, *shape))
    labels = random.integers(0, classes, (shape[0], 1, *shape[2:]))
    return student, teacher, labels


def part(name, temperature=0.5):
    coefficients = {each: float(each == name) for each in ("foreground", "background", "attention")}
    return MsSardLoss(weight=1, temperature=temperature, **coefficients)


def value(loss, student, teacher, labels):
    tensors = (torch.as_tensor(each) for each in (student, teacher, labels))
    return loss.of_stage(*tensors, NONE).item()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_every_part_is_the_equation(seed, temperature):
    student, teacher, labels = example(seed)
    expected = reference(student, teacher, labels, temperature)
    for name, wanted in zip(("foreground", "background", "attention"), expected, strict=True):
        assert value(part(name, temperature), student, teacher, labels) == pytest.approx(wanted, rel=1e-10), name
    whole = MsSardLoss(weight=1, temperature=temperature)
    assert value(whole, student, teacher, labels) == pytest.approx(sum(expected), rel=1e-10)


def test_hand_computed_value():
    # one channel, so that A_ch = 1; teacher (0, T ln 3): softmax (1/4, 3/4), A_sp = (1/2, 3/2); student 0
    size = 0.5 * math.log(3)
    teacher = torch.tensor([0.0, size], dtype=torch.float64).view(1, 1, 1, 1, 2)
    student = torch.zeros_like(teacher)
    labels = torch.tensor([0, 1]).view(1, 1, 1, 1, 2)
    assert value(part("foreground"), student, teacher, labels) == pytest.approx(1.5 * size**2)
    assert value(part("background"), student, teacher, labels) == 0
    # A_sp,S = (1, 1): mean(|1 - 1/2|, |1 - 3/2|) = 1/2
    assert value(part("attention"), student, teacher, labels) == pytest.approx(0.5)


def test_attentions_have_the_mean_one():
    features = torch.randn(2, 5, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    spatial, channel = attentions(features, 0.5)
    torch.testing.assert_close(spatial.mean(dim=(1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(channel.mean(dim=1), torch.ones(2))
    # largest where the features are, whatever their sign
    magnitude = features.abs()
    assert torch.equal(spatial.flatten(1).argmax(1), magnitude.mean(1).flatten(1).argmax(1))
    assert torch.equal(channel.argmax(1), magnitude.mean(dim=(2, 3, 4)).argmax(1))


def test_masks_weigh_every_class_alike():
    labels = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 3], [2, 2, 2, 2, 2, 2, 2, 2]]).view(2, 1, 2, 2, 2)
    foreground, background = region_masks(labels)
    assert foreground.flatten(1)[0].tolist() == pytest.approx([0, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 1])
    assert background.flatten(1)[0].tolist() == pytest.approx([1 / 4] * 4 + [0] * 4)
    assert foreground.flatten(1)[1].tolist() == pytest.approx([1 / 8] * 8)
    assert background[1].sum() == 0
    assert [mask.sum(dim=(1, 2, 3)).tolist() for mask in (foreground, background)] == [
        pytest.approx([2, 1]),  # classes present
        pytest.approx([1, 0]),
    ]


@given(arrays(np.uint8, (2, 1, 2, 3, 2), elements=st.integers(0, 5)))
def test_a_masks_sum_is_the_number_of_classes(labels):
    foreground, background = region_masks(torch.from_numpy(labels))
    for patch in range(2):
        present = set(labels[patch].ravel())
        assert foreground[patch].sum().item() == pytest.approx(len(present - {0}))
        assert background[patch].sum().item() == pytest.approx(len(present & {0}))
        assert ((foreground[patch] > 0) == torch.from_numpy(labels[patch, 0] > 0)).all()


def test_a_small_class_counts_as_much_as_a_large_one():
    # constant teacher: no attention; the student is wrong at one voxel of class 1, or at all 26 of class 2
    teacher = torch.zeros(1, 1, 3, 3, 3)
    labels = torch.full((1, 1, 3, 3, 3), 2)
    labels[0, 0, 0, 0, 0] = 1
    wrong_at = [value(part("foreground"), (labels == c).float(), teacher, labels) for c in (1, 2)]
    assert wrong_at == pytest.approx([0.5, 0.5])


def test_labels_come_as_floats_from_the_augmentation():
    student, teacher, labels = example()
    assert value(part("foreground"), student, teacher, labels.astype(np.float32)) == value(
        part("foreground"), student, teacher, labels
    )


@pytest.mark.parametrize(("label", "empty"), [(0, "foreground"), (1, "background")])
def test_without_a_region_its_part_is_zero_and_has_no_gradient(label, empty):
    student, teacher, labels = example()
    z = torch.from_numpy(student).requires_grad_()
    target = torch.full(labels.shape, label)
    loss = part(empty).of_stage(z, torch.from_numpy(teacher), target, NONE)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_a_patch_without_foreground_does_not_dilute_the_others():
    student, teacher, labels = example()
    labels[1] = 0
    alone = value(part("foreground"), student[:1], teacher[:1], labels[:1])
    assert value(part("foreground"), student, teacher, labels) == pytest.approx(alone)


def test_labels_of_another_resolution_are_refused():
    student, teacher, labels = example()
    with pytest.raises(ValueError, match="not at the features' resolution"):
        value(part("foreground"), student, teacher, labels[..., :1])


def test_settings_are_checked():
    with pytest.raises(InvalidSettingsError, match="temperature"):
        MsSardLoss(weight=1, temperature=0)
    with pytest.raises(InvalidSettingsError, match="background"):
        MsSardLoss(weight=1, background=-1)
