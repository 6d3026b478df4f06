"""The paper's two families of networks as nnU-Net plans.

Lan et al., From Performance to Practice: Knowledge-Distilled Segmentator for On-Premises Clinical Workflows. Its
numbers of parameters fix everything but the spacings; they are asserted whenever a network is built.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from KDSegmentatorLib.packs.manifest import Modality

CONFIGURATION = "3d_fullres"

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class FamilyPlan:
    """A residual encoder U-Net of nnU-Net, and the scans that it is for. Array order is (z, y, x).

    Attributes:
        task: of its packs.
        title: for people.
        modality: decides how intensities are normalised.
        outputs: labels, background included.
        patch_size: voxels of a window.
        spacing: of the network's grid in mm.
        features: channels of each stage at full width.
        blocks: residual blocks of each stage.
        kernels: convolution kernel of each stage.
        strides: of each stage.
        parameters: size to the number of parameters that the paper prints; sizes that are not in it are not checked.
    """

    task: str
    title: str
    modality: Modality
    outputs: int
    patch_size: Triple
    spacing: tuple[float, float, float]
    features: tuple[int, ...]
    blocks: tuple[int, ...]
    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]
    parameters: dict[str, int] = field(default_factory=dict)


BRAIN_MR = FamilyPlan(
    task="paper-brain",
    title="The paper's Mindboggle-101 family, random weights",
    modality="MR",
    outputs=111,
    patch_size=(160, 192, 160),
    spacing=(1.0, 1.0, 1.0),
    features=(32, 64, 128, 256, 320, 320),
    blocks=(1, 3, 4, 6, 6, 6),
    kernels=((3, 3, 3),) * 6,
    strides=((1, 1, 1), *((2, 2, 2),) * 5),
    parameters={"x1": 102_437_515, "x1/2": 25_642_587, "x1/4": 6_427_459},
)
ABDOMEN_CT = FamilyPlan(
    task="paper-abdomen",
    title="The paper's BTCV family, random weights",
    modality="CT",
    outputs=14,
    patch_size=(80, 256, 256),
    spacing=(3.0, 0.76, 0.76),
    features=(32, 64, 128, 256, 320, 320, 320),
    blocks=(1, 3, 4, 6, 6, 6, 6),
    kernels=((1, 3, 3), *((3, 3, 3),) * 6),
    strides=((1, 1, 1), (1, 2, 2), *((2, 2, 2),) * 4, (1, 2, 2)),
    parameters={"x1": 141_411_028, "x1/2": 35_370_388, "x1/4": 8_851_444},
)


def plans(family: FamilyPlan) -> dict[str, Any]:
    """Return the plans of a family's teacher, as nnU-Net v2 writes them."""
    stages = len(family.features)
    resampling = {"order_z": 0, "force_separate_z": None}
    resampler = "resample_data_or_seg_to_shape"
    configuration = {
        "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(family.patch_size),
        "spacing": list(family.spacing),
        "normalization_schemes": ["CTNormalization" if family.modality == "CT" else "ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": resampler,
        "resampling_fn_seg": resampler,
        "resampling_fn_probabilities": resampler,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": list(family.features),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [list(kernel) for kernel in family.kernels],
                "strides": [list(stride) for stride in family.strides],
                "n_blocks_per_stage": list(family.blocks),
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
        },
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset999_Generated",
        "plans_name": "nnUNetResEncUNetLPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "label_manager": "LabelManager",
        # of soft tissue in HU; used by CTNormalization only
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 80.0, "std": 140.0, "percentile_00_5": -960.0, "percentile_99_5": 300.0}
        },
    }


def dataset(family: FamilyPlan) -> dict[str, Any]:
    """Return the ``dataset.json`` of a family."""
    labels = {"background": 0} | {f"structure {value}": value for value in range(1, family.outputs)}
    return {"channel_names": {"0": family.modality}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
