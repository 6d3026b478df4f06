"""A model folder without a training: a random body, and a head fitted to a dataset by ridge regression.

The labels lie where the anatomy is, which is all that a comparison of two ways of inference needs; they are no good
segmentation. The folder is one that stock nnU-Net loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from distillation.dataset import Case, RawDataset
from distillation.export.network import split_network
from distillation.plans import resolve_configuration
from distillation.teacher import build_network
from kdbench.families import CONFIGURATION, FamilyPlan, plans
from KDSegmentatorLib.io.files import write_json
from KDSegmentatorLib.io.images import read_volume

HEAD_NECK_CT = FamilyPlan(
    task="head-neck-ct",
    title="Random body, head fitted by ridge regression",
    modality="CT",
    outputs=6,
    patch_size=(96, 64, 96),
    spacing=(4.5, 4.0, 4.5),
    features=(24, 48),
    blocks=(1, 1),
    kernels=((3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (2, 2, 2)),
)
"""For CT of 128 x 128 x 128 voxels of about 2.5 x 4 x 4 mm: resampled along every axis, eight windows."""

TRANSPOSE = (1, 0, 2)
"""What nnU-Net plans for this dataset: the axis with the largest spacing comes first."""

_SEED = 0
_RIDGE = 1e-4
"""Of the mean squared feature."""

Features = npt.NDArray[np.float64]


def fit_model(plan: FamilyPlan, dataset: RawDataset, cases: Sequence[Case], folder: Path) -> Path:
    """Write a model folder whose head is fitted to some cases, and return it.

    Args:
        plan: the network; its outputs are those of the dataset.
        dataset: in nnU-Net's raw layout.
        cases: to fit to.
        folder: where to write.
    """
    content = plans(plan)
    content["transpose_forward"] = list(TRANSPOSE)
    content["transpose_backward"] = [int(axis) for axis in np.argsort(TRANSPOSE)]
    content["foreground_intensity_properties_per_channel"] = {"0": _foreground_intensities(cases)}
    configuration = resolve_configuration(content, CONFIGURATION)
    torch.manual_seed(_SEED)
    network = build_network(configuration, channels=1, labels=plan.outputs, deep_supervision=False).eval()
    body = split_network(network).body
    weight, bias = _ridge(_samples(body, content, dataset, cases), plan.outputs)
    weights = network.state_dict()
    head = max(name.removesuffix(".weight") for name in weights if name.endswith("weight") and ".seg_layers." in name)
    weights[f"{head}.weight"].copy_(torch.from_numpy(weight).reshape(weights[f"{head}.weight"].shape))
    weights[f"{head}.bias"].copy_(torch.from_numpy(bias))
    (folder / "fold_0").mkdir(parents=True)
    write_json(folder / "plans.json", content)
    write_json(folder / "dataset.json", dataset.description)
    checkpoint = {
        "network_weights": weights,
        "init_args": {"configuration": CONFIGURATION},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def _foreground_intensities(cases: Sequence[Case]) -> dict[str, float]:
    """Return what CT normalisation needs to know, as nnU-Net's fingerprint has it."""
    found = np.concatenate([read_volume(case.image).voxels[read_volume(case.label).voxels > 0] for case in cases])
    low, high = np.percentile(found, (0.5, 99.5))
    return {
        "mean": float(found.mean()),
        "std": float(found.std()),
        "percentile_00_5": float(low),
        "percentile_99_5": float(high),
    }


def _samples(
    body: torch.nn.Module, content: dict[str, Any], dataset: RawDataset, cases: Sequence[Case]
) -> Iterator[tuple[Features, npt.NDArray[np.int64]]]:
    """Yield the body's features (voxels, C) and the labels (voxels,) of the corner windows of each case."""
    manager = PlansManager(content)
    configuration = manager.get_configuration(CONFIGURATION)
    preprocessor = configuration.preprocessor_class(verbose=False)
    patch_size = configuration.patch_size
    for case in cases:
        image, labels, _ = preprocessor.run_case(
            [str(case.image)], str(case.label), manager, configuration, dataset.description
        )
        pad = [(0, max(0, length - size)) for length, size in zip(patch_size, image.shape[1:], strict=True)]
        image, labels = np.pad(np.asarray(image), [(0, 0), *pad]), np.pad(np.asarray(labels)[0], pad)
        corners = [sorted({0, size - length}) for length, size in zip(patch_size, labels.shape, strict=True)]
        for corner in product(*corners):
            window = tuple(slice(start, start + length) for start, length in zip(corner, patch_size, strict=True))
            inside = (slice(None), *window)
            with torch.inference_mode():
                features = body(torch.from_numpy(image[inside][None].astype(np.float32)))[0]
            yield features.flatten(1).double().numpy().T, np.maximum(labels[window].ravel(), 0).astype(np.int64)


def _ridge(
    samples: Iterator[tuple[Features, npt.NDArray[np.int64]]], outputs: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return weight (K, C) and bias (K,) of the linear map from features to one-hot labels.

    Every label counts with the square root of its number of voxels, so that small ones are not lost in the background.
    """
    squares: Features = np.zeros((outputs, 0, 0))
    sums: Features = np.zeros((outputs, 0))
    counts = np.zeros(outputs)
    for features, labels in samples:
        with_one = np.column_stack((features, np.ones(len(features))))
        if not sums.size:
            squares = np.zeros((outputs, with_one.shape[1], with_one.shape[1]))
            sums = np.zeros((outputs, with_one.shape[1]))
        for value in range(outputs):
            chosen = with_one[labels == value]
            counts[value] += len(chosen)
            squares[value] += chosen.T @ chosen
            sums[value] += chosen.sum(0)
    if not counts.all():
        raise ValueError(f"the cases to fit to hold {counts.tolist()} voxels of the labels; every label is needed")
    factors = 1 / np.sqrt(counts)
    matrix = np.tensordot(factors, squares, 1)
    penalty = _RIDGE * np.trace(matrix[:-1, :-1]) / (len(matrix) - 1) * np.eye(len(matrix))
    penalty[-1, -1] = 0  # the bias is free
    solution = np.linalg.solve(matrix + penalty, (factors[:, None] * sums).T)
    # Adding the same to all logits changes no label: about zero, float16 rounds the least.
    solution -= solution.mean(axis=1, keepdims=True)
    return solution[:-1].T.astype(np.float32), solution[-1].astype(np.float32)
