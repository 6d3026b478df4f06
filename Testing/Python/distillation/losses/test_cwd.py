import math

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")

from distillation.losses.cwd import CwdLoss  # noqa: E402

NONE = torch.nn.ModuleList()
LABELS = torch.zeros(1, 1, 1, 1, 2)


def test_hand_computed_value():
    # one channel, two voxels, tau = 2: phi_T = (3/4, 1/4), phi_S = (1/2, 1/2)
    teacher = torch.tensor([2 * math.log(3), 0.0]).view(1, 1, 1, 1, 2)
    student = torch.zeros(1, 1, 1, 1, 2)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = CwdLoss(weight=1, temperature=2.0)
    assert loss.of_stage(student, teacher, LABELS, NONE).item() == pytest.approx(expected, rel=1e-6)


def test_is_a_mean_over_channels_and_a_sum_over_voxels():
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 2, 2, 2, generator=random) for _ in range(2))
    found = CwdLoss(weight=1, temperature=4.0).of_stage(student, teacher, LABELS, NONE)
    total = 0.0
    for patch in range(2):
        for channel in range(3):
            p, q = (torch.softmax(each[patch, channel].flatten() / 4, 0) for each in (teacher, student))
            total += (p * (p / q).log()).sum()
    torch.testing.assert_close(found, 16 * total / 6)


def test_a_channels_offset_does_not_matter():
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 3, 2, 2, 2, generator=random) for _ in range(2))
    loss = CwdLoss(weight=1)
    shifted = student + torch.tensor([5.0, -3.0, 0.0]).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(
        loss.of_stage(shifted, teacher, LABELS, NONE), loss.of_stage(student, teacher, LABELS, NONE)
    )
