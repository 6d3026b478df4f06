"""Small nnU-Net models with random weights, for comparing our inference with nnU-Net's own."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

RESAMPLER = "resample_data_or_seg_to_shape"


@dataclass(frozen=True)
class GeneratedModel:
    """One generated scan and one generated model. Array-order quantities are (z, y, x)."""

    name: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    network_spacing: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    transpose_forward: tuple[int, int, int] = (0, 1, 2)
    scheme: str = "ZScoreNormalization"
    use_mask: bool = False
    border: int = 0
    mirroring: bool = False
    labels: int = 3
    features: tuple[int, ...] = (8, 16)
    seed: int = 0
    dataset: dict[str, Any] = field(default_factory=dict)


CASES = [
    GeneratedModel("isotropic, several windows", (30, 34, 38), (1, 1, 1), (1, 1, 1), (16, 16, 24)),
    GeneratedModel("cubic resampling, odd sizes", (23, 31, 27), (1.3, 0.9, 1.1), (1, 1, 1), (16, 16, 16)),
    GeneratedModel("separate z, current spacing decides", (9, 40, 36), (5, 1.2, 1.2), (4, 1, 1), (8, 24, 24)),
    GeneratedModel("separate z, target spacing decides", (30, 30, 26), (1.5, 1, 1), (5, 1, 1), (8, 16, 16)),
    GeneratedModel("separate z along the last axis", (32, 28, 8), (1, 1.1, 6), (1, 1, 5), (16, 16, 8)),
    GeneratedModel("two low-resolution axes: plain 3-D", (30, 12, 12), (0.7, 2.8, 2.8), (1, 2, 2), (16, 8, 8)),
    GeneratedModel("cropping", (30, 30, 30), (1, 1, 1), (1, 1, 1), (16, 16, 16), border=6),
    GeneratedModel(
        "mask normalisation", (28, 26, 30), (1, 1, 1), (1.2, 1.2, 1.2), (16, 16, 16), use_mask=True, border=5
    ),
    GeneratedModel("CT normalisation", (28, 26, 30), (2, 1.5, 1.5), (2, 2, 2), (8, 16, 16), scheme="CTNormalization"),
    GeneratedModel("transpose", (20, 32, 26), (1, 1.4, 0.8), (1.2, 1, 0.9), (16, 16, 16), transpose_forward=(2, 0, 1)),
    GeneratedModel(
        "transpose and separate z", (36, 9, 30), (1, 4.5, 1), (4, 1, 1), (8, 16, 16), transpose_forward=(1, 0, 2)
    ),
    GeneratedModel("patch larger than the volume", (11, 14, 9), (1, 1, 1), (1, 1, 1), (16, 24, 16)),
    GeneratedModel("mirroring", (22, 20, 18), (1, 1, 1), (1, 1, 1), (16, 16, 16), mirroring=True),
    GeneratedModel("more labels than features", (24, 24, 20), (1.2, 1, 1), (1, 1, 1), (16, 16, 16), labels=12),
    GeneratedModel(
        "everything",
        (30, 12, 28),
        (1.1, 4, 1.2),
        (4, 1, 1),
        (8, 16, 16),
        (1, 2, 0),
        use_mask=True,
        border=2,
        mirroring=True,
        labels=12,
    ),
]


def scan(case: GeneratedModel) -> np.ndarray[Any, Any]:
    """Return smooth random structure (z, y, x), int16, with a border of zeros where the case asks for one."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(case.seed)
    image = gaussian_filter(random.normal(size=case.shape), [1.5 / s for s in case.spacing]) * 400 + 300
    image += random.normal(size=case.shape) * 20
    image = np.where(image == 0, 1, image).astype(np.int16)
    if case.border:
        outside = np.ones(case.shape, dtype=bool)
        outside[tuple(slice(case.border, n - case.border + 1) for n in case.shape)] = False
        image[outside] = 0
        image[tuple(n // 2 for n in case.shape)] = 0  # a hole, which the mask has to fill
    return image


def plans(case: GeneratedModel) -> dict[str, Any]:
    """Return nnU-Net plans for the case."""
    stages = len(case.features)
    orders = {"order_z": 0, "force_separate_z": None}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(case.features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_conv_per_stage": [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "generated",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(case.patch_size),
        "spacing": list(case.network_spacing),
        "normalization_schemes": [case.scheme],
        "use_mask_for_norm": [case.use_mask],
        "resampling_fn_data": RESAMPLER,
        "resampling_fn_seg": RESAMPLER,
        "resampling_fn_probabilities": RESAMPLER,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **orders},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **orders},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **orders},
        "architecture": architecture,
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset999_Generated",
        "plans_name": "generated",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(case.transpose_forward),
        "transpose_backward": [int(axis) for axis in np.argsort(case.transpose_forward)],
        "configurations": {"3d_fullres": configuration},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 310.0, "std": 120.0, "percentile_00_5": 50.0, "percentile_99_5": 620.0}
        },
    }


def dataset(case: GeneratedModel) -> dict[str, Any]:
    """Return a ``dataset.json`` for the case."""
    labels = {"background": 0} | {f"structure {value}": value for value in range(1, case.labels)}
    return {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}


def network(case: GeneratedModel) -> torch.nn.Module:
    """Return the case's network with random weights, full-resolution output only."""
    architecture = plans(case)["configurations"]["3d_fullres"]["architecture"]
    torch.manual_seed(case.seed)
    built = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        case.labels,
        deep_supervision=False,
    )
    with torch.no_grad():
        for parameter in built.parameters():  # as after training: no two channels alike, biases not zero
            parameter += 0.1 * torch.randn_like(parameter)
    return built.eval()


def reference_labels(case: GeneratedModel, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what ``nnUNetPredictor`` makes of a scan (z, y, x)."""
    manager = PlansManager(copy.deepcopy(plans(case)))
    predictor = nnUNetPredictor(
        use_mirroring=case.mirroring, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    net = network(case)
    predictor.manual_initialization(
        net,
        manager,
        manager.get_configuration("3d_fullres"),
        [net.state_dict()],
        dataset(case),
        "nnUNetTrainer",
        (0, 1, 2),
    )
    properties = {"spacing": list(case.spacing)}
    labels: np.ndarray[Any, Any] = predictor.predict_single_npy_array(image[None].astype(np.float32), properties)
    return labels
