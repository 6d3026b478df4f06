"""Losses whose times are compared have to be the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from kdbench import segmentation_loss  # noqa: E402
from kdbench.segmentation_loss import compare, make_patch  # noqa: E402

SIZE = (8, 12, 10)


class Tilted(segmentation_loss.DiceCrossEntropyLoss):
    """Has the right value, and a gradient one per cent too large."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = super().forward(logits, labels)
        return loss + 0.01 * (loss - loss.detach())


class Shifted(segmentation_loss.DiceCrossEntropyLoss):
    """Has the right gradient, and a value a little too large."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return super().forward(logits, labels) + 1e-4


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """Give torch back the threads that a comparison takes from it: other tests run in this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_patch_comes_as_a_network_in_bfloat16_leaves_it() -> None:
    logits, labels = make_patch(SIZE, 5)
    assert (logits.shape, labels.shape) == ((1, 5, *SIZE), (1, 1, *SIZE))
    assert logits.dtype == torch.bfloat16
    assert logits.is_contiguous(memory_format=torch.channels_last_3d)
    assert logits.is_leaf
    assert logits.requires_grad
    assert 0.9 < (logits.argmax(1) == labels[:, 0]).double().mean() < 1


def test_every_time_is_measured() -> None:
    details = compare(SIZE, 5, repeats=2).details
    assert set(details) == {"stock", "ours", "stock_wall", "ours_wall"}
    assert all(value > 0 for value in details.values())


@pytest.mark.parametrize(("wrong", "what"), [(Tilted, "the gradient is"), (Shifted, "the loss is")])
def test_another_loss_is_not_timed(wrong: type[torch.nn.Module], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation_loss, "DiceCrossEntropyLoss", wrong)
    with pytest.raises(ValueError, match=what):
        compare(SIZE, 5, repeats=1)
