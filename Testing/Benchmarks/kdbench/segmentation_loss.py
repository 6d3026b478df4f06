"""Speed of our Dice and cross-entropy beside nnU-Net's, forward and back to the gradient of the logits, on one patch.

The patch is made up: a map of touching, irregular structures, and logits of a network that gets most of it right. They
come as a network in bfloat16 leaves them on a CPU, with channels last in memory. nnU-Net's loss computes in the
precision of its logits, so that it gets them widened to float32; ours widens them itself. Torch has one thread, because
threads that wait for each other cost it processor time.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from distillation.losses.dice_cross_entropy import DiceCrossEntropyLoss
from kdbench.label_pair import make_pair
from kdbench.results import Measured
from kdbench.stopwatch import timed

SMOOTH = 1e-5
"""nnU-Net's."""

CONFIDENCE = 5.0
"""What the logit of the predicted class is above the others on average; each has a standard deviation of 1."""

SHIFT = 2.0
"""About twice how far apart prediction and truth are, in voxels."""

VALUE_TOLERANCE = 5e-6
"""Of the loss, whose two parts are about 1 each: nnU-Net adds a class's probabilities up in float32."""

GRADIENT_TOLERANCE = 2.0**-7
"""Of a voxel's gradient, relative: the next number in bfloat16, where the two round to different sides."""

GRADIENT_FLOOR = 1e-5
"""Of a voxel's gradient, as a share of the largest: what float32 leaves of the difference of two nearly equal terms."""

Step = tuple[torch.Tensor, torch.Tensor]
"""The loss, and its gradient in the logits' shape (1, classes, z, y, x)."""


def compare(size: tuple[int, int, int], classes: int, repeats: int) -> Measured:
    """Time nnU-Net's loss and ours in turns on the same patch, after a run of both that does not count.

    Args:
        size: voxels of the patch, (z, y, x).
        classes: outputs of the network, background included.
        repeats: runs of each.

    Returns:
        Medians: ``stock`` and ``ours`` in seconds of processor time, ``stock_wall`` and ``ours_wall``.

    Raises:
        ValueError: both do not give the same value and gradient, so that their times compare nothing.
    """
    torch.set_num_threads(1)
    logits, labels = make_patch((size[0], size[1], size[2]), classes)
    settings = {"batch_dice": False, "smooth": SMOOTH, "do_bg": False, "ddp": False}
    stock_loss = DC_and_CE_loss(settings, {}, dice_class=MemoryEfficientSoftDiceLoss)
    our_loss = DiceCrossEntropyLoss(batch_dice=False, smooth=SMOOTH)

    def stock() -> Step:
        return _with_gradient(stock_loss(logits.float(), labels), logits)

    def ours() -> Step:
        return _with_gradient(our_loss(logits, labels), logits)

    check_same(ours(), stock())
    turns: list[tuple[str, Callable[[], Step]]] = [("stock", stock), ("ours", ours)]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in turns}
    for number in range(repeats):
        for name, work in turns if number % 2 == 0 else reversed(turns):
            times[name].append(timed(work))
    details = {}
    for name, found in times.items():
        details[name], details[f"{name}_wall"] = (median(each) for each in zip(*found, strict=True))
    return Measured(details=details)


def make_patch(size: tuple[int, int, int], classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and labels of one patch.

    Args:
        size: voxels, (z, y, x).
        classes: background included.

    Returns:
        Logits (1, classes, z, y, x), bfloat16 with channels last in memory, which want a gradient, and true classes
        (1, 1, z, y, x), int16 as nnU-Net loads them.
    """
    true, predicted = (
        torch.from_numpy(each.astype(np.int16))[None, None] for each in make_pair(size, classes - 1, SHIFT)
    )
    logits = torch.randn(1, classes, *size, generator=torch.Generator().manual_seed(0))
    logits.scatter_add_(1, predicted.long(), torch.full(predicted.shape, CONFIDENCE))
    return logits.to(torch.bfloat16, memory_format=torch.channels_last_3d).requires_grad_(), true


def check_same(ours: Step, stock: Step) -> None:
    """Compare two losses with their gradients.

    Raises:
        ValueError: they are not the same within the tolerances above.
    """
    (our_value, our_gradient), (stock_value, stock_gradient) = ours, stock
    if not torch.allclose(our_value, stock_value, rtol=0, atol=VALUE_TOLERANCE):
        raise ValueError(f"the loss is {our_value.item()}, nnU-Net's {stock_value.item()}")
    mine, theirs = our_gradient.float(), stock_gradient.float()
    largest = theirs.abs().max().item()
    if not torch.allclose(mine, theirs, rtol=GRADIENT_TOLERANCE, atol=GRADIENT_FLOOR * largest):
        difference = (mine - theirs).abs().max().item()
        raise ValueError(f"the gradient is up to {difference:g} from nnU-Net's, whose largest is {largest:g}")


def _with_gradient(loss: torch.Tensor, logits: torch.Tensor) -> Step:
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient
