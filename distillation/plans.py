"""nnU-Net plans, of the older layout too: reading them safely and scaling them to a student's width."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from distillation.training_settings import MINIMUM_WIDTH, PLANS_KEY, TrainingSettings
from KDSegmentatorLib.errors import InvalidSettingsError, TeacherError
from KDSegmentatorLib.packs.names import divisor, is_size


def alpha_of(size: str) -> float:
    """Return the width factor of a size name, for example 0.25 for ``x1/4``.

    Raises:
        InvalidSettingsError: the name is not ``x1`` or ``x1/2``, ``x1/4``, ... up to ``x1/999``.
    """
    if not is_size(size):
        raise InvalidSettingsError(f"a size is called x1, x1/2, x1/4, ..., got {size!r}")
    return 1.0 / divisor(size)


ALLOWED_ARCHITECTURES = frozenset(
    {
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    }
)
_LAYERS_PER_STAGE = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
_ARGUMENTS = ("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage_decoder")
_OLDER_KEYS = (
    "UNet_class_name",
    "UNet_base_num_features",
    "unet_max_num_features",
    "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder",
    "num_pool_per_axis",
    "pool_op_kernel_sizes",
    "conv_kernel_sizes",
)
ALLOWED_OPERATIONS = frozenset(
    {
        "torch.nn.Conv3d",
        "torch.nn.InstanceNorm3d",
        "torch.nn.LeakyReLU",
        "torch.nn.ReLU",
        "torch.nn.modules.activation.LeakyReLU",
        "torch.nn.modules.activation.ReLU",
        "torch.nn.modules.conv.Conv3d",
        "torch.nn.modules.instancenorm.InstanceNorm3d",
    }
)


def read_plans(path: Path) -> dict[str, Any]:
    """Read a ``plans.json``.

    Raises:
        TeacherError: the file is missing or is not nnU-Net v2 plans.
    """
    try:
        plans: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TeacherError(f"{path}: no such file; an nnU-Net v2 model folder holds a plans.json") from None
    except (OSError, ValueError, RecursionError) as error:  # not text, not JSON, or nested without end
        raise TeacherError(f"{path} cannot be read as JSON: {error}; take the plans.json of the training") from error
    if not isinstance(plans, dict) or "configurations" not in plans or not isinstance(plans.get("plans_name"), str):
        raise TeacherError(f"{path} is not an nnU-Net v2 plans file (it has no 'configurations' and 'plans_name')")
    configurations = plans["configurations"]
    if not isinstance(configurations, dict) or not all(isinstance(each, dict) for each in configurations.values()):
        raise TeacherError(
            f"{path} is not an nnU-Net v2 plans file: 'configurations' must map names to settings; take the plans.json "
            "of the training"
        )
    return plans


def resolve_configuration(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Return a deep copy of one configuration with ``inherits_from`` resolved.

    Plans from before nnU-Net 2.4 get the architecture section that they lack.

    Raises:
        TeacherError: the configuration is not in the plans, inherits from itself, or is of the older layout and
            incomplete or of another network.
    """
    configurations: dict[str, dict[str, Any]] = plans["configurations"]
    chain: list[str] = []
    name: str | None = configuration
    while name is not None:
        if name not in configurations:
            known = ", ".join(sorted(configurations))
            raise TeacherError(f"the plans have no configuration '{name}'; they have: {known}")
        if name in chain:
            raise TeacherError(f"configuration '{configuration}' inherits from itself")
        chain.append(name)
        name = configurations[name].get("inherits_from")
        if not isinstance(name, str | None):
            raise TeacherError(f"configuration '{chain[-1]}' inherits from {name!r}, which is not a name")
    resolved: dict[str, Any] = {}
    for ancestor in reversed(chain):
        resolved.update(copy.deepcopy(configurations[ancestor]))
    resolved.pop("inherits_from", None)
    return _in_current_layout(resolved, configuration)


def check_architecture(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the architecture section if every class that it names is allow-listed.

    nnU-Net imports and calls what the plans name, with arguments from the same file: plans from somewhere else are
    code, so only known classes pass.

    Raises:
        TeacherError: a class is not on the list, or the section is missing or incomplete.
    """
    architecture = configuration.get("architecture")
    if not isinstance(architecture, dict):
        raise TeacherError(
            "the plans have neither an 'architecture' section nor the older 'UNet_class_name'; plan again with nnU-Net "
            "2.4 or later"
        )
    network = architecture.get("network_class_name")
    if not isinstance(network, str) or network not in ALLOWED_ARCHITECTURES:
        allowed = ", ".join(sorted(ALLOWED_ARCHITECTURES))
        raise TeacherError(f"network class {network!r} is not supported; supported are: {allowed}")
    arguments, imported = architecture.get("arch_kwargs"), architecture.get("_kw_requires_import")
    if not isinstance(arguments, dict) or not isinstance(imported, list):
        raise TeacherError(
            "the architecture section lacks 'arch_kwargs' (settings by name) or '_kw_requires_import' (a list of "
            "names); take the plans.json that the network was trained with"
        )
    layers = _LAYERS_PER_STAGE[network.rpartition(".")[2]]
    missing = [name for name in (*_ARGUMENTS, layers, *imported) if not isinstance(name, str) or name not in arguments]
    if missing:
        raise TeacherError(
            f"'arch_kwargs' lacks {', '.join(map(repr, missing))}; take the plans.json that the network was trained "
            "with"
        )
    for name in imported:
        operation = arguments[name]
        if operation is not None and not (isinstance(operation, str) and operation in ALLOWED_OPERATIONS):
            raise TeacherError(f"'{name}' names {operation!r}, which is not on the list of allowed operations")
    return architecture


def _in_current_layout(configuration: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with an architecture section in place of the keys that described a U-Net before 2.4.

    What nnU-Net's own ``ConfigurationManager`` does when it reads such plans.
    """
    if "architecture" in configuration or "UNet_class_name" not in configuration:
        return configuration
    network = configuration["UNet_class_name"]
    if not isinstance(network, str) or network not in _LAYERS_PER_STAGE:
        raise TeacherError(f"network class {network!r} is not supported; supported are: {', '.join(_LAYERS_PER_STAGE)}")
    try:
        dimensions = len(configuration["patch_size"])
        layers = list(configuration["n_conv_per_stage_encoder"])
        first, largest = int(configuration["UNet_base_num_features"]), int(configuration["unet_max_num_features"])
        arguments = {
            "n_stages": len(layers),
            "features_per_stage": [min(first * 2**stage, largest) for stage in range(len(layers))],
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": configuration["conv_kernel_sizes"],
            "strides": configuration["pool_op_kernel_sizes"],
            _LAYERS_PER_STAGE[network]: layers,
            "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
    except (KeyError, TypeError, ValueError) as error:
        raise TeacherError(
            f"configuration '{name}' is of nnU-Net's layout before 2.4, but incomplete or damaged ({error!r}); take "
            "the plans.json that the network was trained with"
        ) from error
    current = {key: value for key, value in configuration.items() if key not in _OLDER_KEYS}
    current["architecture"] = {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    return current


def scale_features(features: list[int], alpha: float, minimum: int = MINIMUM_WIDTH) -> list[int]:
    """Scale every width by alpha: C' = max(C_min, alpha * C), but never beyond C.

    Raises:
        InvalidSettingsError: alpha is not in (0, 1].
    """
    if not 0 < alpha <= 1:
        raise InvalidSettingsError(f"alpha must be in (0, 1], got {alpha}")
    return [min(width, max(minimum, round(alpha * width))) for width in features]


def student_plans(
    teacher_plans: dict[str, Any],
    configuration: str,
    *,
    alpha: float,
    name: str,
    settings: TrainingSettings,
) -> dict[str, Any]:
    """Return plans for a network of alpha times the teacher's width.

    Only the widths, the batch size and the name differ from the teacher's plans; the preprocessed data is the
    teacher's own (``data_identifier`` stays), and stock ``nnUNetv2_predict`` loads what is trained from them.

    Args:
        teacher_plans: the teacher's ``plans.json``.
        configuration: for example ``3d_fullres``; the only configuration that the result holds.
        alpha: width factor in (0, 1]; 1 keeps the teacher's network.
        name: the new ``plans_name``, which is also the file name and part of the results folder.
        settings: length of training and the teacher, stored under ``kdsegmentator``.
    """
    scaled = resolve_configuration(teacher_plans, configuration)
    arguments = check_architecture(scaled)["arch_kwargs"]
    arguments["features_per_stage"] = scale_features(
        list(arguments["features_per_stage"]), alpha, settings.minimum_width
    )
    scaled["batch_size"] = settings.batch_size
    plans = copy.deepcopy({key: value for key, value in teacher_plans.items() if key != "configurations"})
    plans["plans_name"] = name
    plans["configurations"] = {configuration: scaled}
    plans[PLANS_KEY] = settings.to_plans()
    return plans
