"""What augmentation costs: the pipeline, nnU-Net's own and ours, timed on a few made-up patches."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from distillation.run.training_work import TrainingWork

_FEWEST_PATCHES = 4
_MOST_PATCHES = 24  # transforms are drawn with probabilities of 0.1 to 0.3
_ENOUGH_SECONDS = 8.0


def measure_augmentation(work: TrainingWork) -> float:
    """Return the seconds that one process takes to augment a patch, the mean over up to 24 of them.

    The patches are random numbers with random labels: reading real ones from the disk comes on top, which is little.
    """
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from distillation.augmentation.pipeline import with_augmentation

    patch = tuple(work.configuration["patch_size"])
    strides = np.array(work.configuration["architecture"]["arch_kwargs"]["strides"], dtype=float)
    planned = SimpleNamespace(
        configuration_manager=SimpleNamespace(patch_size=patch), print_to_log_file=lambda *_: None
    )
    rotation, in_plane, drawn, _ = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(planned)
    stock = nnUNetTrainer.get_training_transforms(
        patch,
        rotation,
        [list(scale) for scale in 1 / np.cumprod(strides, axis=0)][:-1],
        work.mirroring_axes or None,
        in_plane,
        use_mask_for_norm=work.configuration["use_mask_for_norm"],
    )
    transforms = with_augmentation(stock, work.augmentation, work.configuration["spacing"])
    torch.manual_seed(0)
    np.random.seed(0)
    taken: list[float] = []
    while len(taken) < _FEWEST_PATCHES or (len(taken) < _MOST_PATCHES and sum(taken) < _ENOUGH_SECONDS):
        image = torch.randn(work.channels, *(int(length) for length in drawn))
        labels = torch.randint(0, work.labels, (1, *image.shape[1:]), dtype=torch.int16)
        start = time.perf_counter()
        transforms(image=image, segmentation=labels)
        taken.append(time.perf_counter() - start)
    return sum(taken) / len(taken)


def augmenting_processes() -> int:
    """Return how many processes augment beside the training; 0 if it does so itself, between its steps."""
    return int(os.environ.get("nnUNet_n_proc_DA", "0"))  # noqa: SIM112 - nnU-Net's own
