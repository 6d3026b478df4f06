"""nnU-Net plans: reading them safely and scaling them to a student's width."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from distillation.settings import MINIMUM_WIDTH, PLANS_KEY, TrainingSettings
from KDSegmentatorLib.errors import InvalidSettingsError, TeacherError

ALLOWED_ARCHITECTURES = frozenset(
    {
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    }
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
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TeacherError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(plans, dict) or "configurations" not in plans or "plans_name" not in plans:
        raise TeacherError(f"{path} is not an nnU-Net v2 plans file (it has no 'configurations' and 'plans_name')")
    return plans


def resolve_configuration(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Return a deep copy of one configuration with ``inherits_from`` resolved.

    Raises:
        TeacherError: the configuration is not in the plans or inherits from itself.
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
    resolved: dict[str, Any] = {}
    for ancestor in reversed(chain):
        resolved.update(copy.deepcopy(configurations[ancestor]))
    resolved.pop("inherits_from", None)
    return resolved


def check_architecture(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the architecture section if every class that it names is allow-listed.

    nnU-Net imports and calls what the plans name, with arguments from the same file: plans from somewhere else are
    code, so only known classes pass.

    Raises:
        TeacherError: a class is not on the list, or the plans predate nnU-Net 2.4's architecture section.
    """
    architecture = configuration.get("architecture")
    if not isinstance(architecture, dict):
        raise TeacherError("the plans have no 'architecture' section; plan again with nnU-Net 2.4 or later")
    network = architecture.get("network_class_name")
    if not isinstance(network, str) or network not in ALLOWED_ARCHITECTURES:
        allowed = ", ".join(sorted(ALLOWED_ARCHITECTURES))
        raise TeacherError(f"network class {network!r} is not supported; supported are: {allowed}")
    arguments = architecture.get("arch_kwargs", {})
    for name in architecture.get("_kw_requires_import", ()):
        operation = arguments.get(name)
        if operation is not None and not (isinstance(operation, str) and operation in ALLOWED_OPERATIONS):
            raise TeacherError(f"'{name}' names {operation!r}, which is not on the list of allowed operations")
    return architecture


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
