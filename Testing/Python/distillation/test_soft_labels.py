import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs torch: pip install kdsegmentator[distill]")
pytest.importorskip("nnunetv2", reason="needs nnU-Net: pip install kdsegmentator[distill]")

from distillation.soft_labels import compressed, expanded, normalized  # noqa: E402
from distillation.training_settings import SoftLabelSettings  # noqa: E402

ABOUT = {"dataset": "Dataset901_Spheres", "data_identifier": "nnUNetPlans_3d_fullres"}


@given(seed=st.integers(0, 1000), classes=st.integers(2, 4))
def test_up_to_four_classes_come_back_within_a_step_of_255(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    soft = torch.softmax(3 * torch.randn((classes, 3, 4, 5), generator=generator), dim=0)
    back = expanded(compressed(soft), classes)
    torch.testing.assert_close(back.sum(0), torch.ones(3, 4, 5))
    assert (back - soft).abs().max() < 2.1 / 255  # rounded, and scaled to add up to 1 again


def test_of_many_classes_the_largest_are_kept():
    soft = torch.full((46, 1, 1, 1), 0.002)
    for label, share in zip((3, 7, 20, 45), (0.5, 0.2, 0.15, 0.066), strict=True):
        soft[label] = share
    back = expanded(compressed(soft), 46)[:, 0, 0, 0]
    assert set(back.nonzero().flatten().tolist()) == {3, 7, 20, 45}
    assert back.argmax() == 3


def test_more_classes_than_a_byte_counts_are_kept_apart():
    soft = torch.zeros(300, 1, 1, 2)
    soft[299, ..., 0], soft[43, ..., 0], soft[257, ..., 1] = 0.6, 0.4, 1.0  # 299 is 43 modulo 256, 257 is 1
    stored = compressed(soft)
    assert stored.dtype == np.uint16
    torch.testing.assert_close(expanded(stored, 300), soft)


def test_where_nothing_is_stored_there_is_background():
    back = expanded(np.zeros((2, 4, 1, 1, 1), np.uint8), 5)
    assert back[:, 0, 0, 0].tolist() == [1, 0, 0, 0, 0]
    assert normalized(torch.zeros(3, 1, 1, 1))[:, 0, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("start", "end", "progress", "weight"),
    [
        (0.3, 0.5, 0.2, 0),
        (0.3, 0.5, 0.4, 0.25),
        (0.3, 0.5, 0.5, 0.5),
        (0.3, 0.3, 0.1, 0),
        (0.3, 0.3, 0.3, 0.5),
        (0, 0, 0, 0.5),
    ],
)
def test_the_weight_grows_between_two_shares_of_the_training(start, end, progress, weight):
    settings = SoftLabelSettings(method="mix", folder="", weight=0.5, ramp_start=start, ramp_end=end)
    assert settings.weight_at(progress) == pytest.approx(weight)
