"""A trained nnU-Net model folder, loaded without running code from it."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from distillation.dataset import label_values, read_description
from distillation.plans import check_architecture, read_plans, resolve_configuration
from distillation.training_settings import PLANS_KEY
from KDSegmentatorLib.errors import TeacherError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """One fold of a trained nnU-Net.

    Attributes:
        folder: the model folder.
        fold: the fold that ``network`` was trained for; ``all`` if it held out no case.
        plans: content of ``plans.json``.
        dataset: content of ``dataset.json``.
        configuration_name: for example ``3d_fullres``.
        configuration: that configuration with ``inherits_from`` resolved.
        network: the network in evaluation mode; it returns full-resolution logits only.
        mirroring_axes: spatial axes (0 = first array axis) that training mirrored.
        sha256: hash of the checkpoint file.
        trainer: nnU-Net's trainer class, for example ``nnUNetTrainerNoMirroring``.
        trained_with: package to version in the training's environment, and ``precision``, the number formats that it
            ran in; None if the checkpoint does not say.
    """

    folder: Path
    fold: int | Literal["all"]
    plans: dict[str, Any]
    dataset: dict[str, Any]
    configuration_name: str
    configuration: dict[str, Any]
    network: nn.Module
    mirroring_axes: tuple[int, ...]
    sha256: str
    trainer: str = ""
    trained_with: dict[str, str] | None = None


def load_model_folder(
    folder: Path, fold: int | Literal["all"], checkpoint: str = "checkpoint_final.pth"
) -> ModelFolder:
    """Load a trained nnU-Net fold on the CPU.

    The checkpoint is read with ``weights_only``, plus the few numpy types that nnU-Net's log holds, and the network's
    classes are allow-listed, so that a foreign folder cannot run code.

    Raises:
        TeacherError: a file is missing, damaged, incomplete or holds code, what it describes is not supported, or the
            network does not fit its plans; the message names the file.
    """
    plans = read_plans(folder / "plans.json")
    try:
        dataset = read_description(folder / "dataset.json")
    except TrainingError as error:
        raise TeacherError(str(error)) from error
    path = folder / f"fold_{fold}" / checkpoint
    if not path.is_file():
        raise TeacherError(f"{path}: no such file; train this fold first, or name another fold or checkpoint")
    data = _read_bytes(path)
    content = _parse_checkpoint(data, path)
    try:
        configuration_name = str(content["init_args"]["configuration"])
        weights = content["network_weights"]
        mirroring_axes = tuple(int(axis) for axis in content.get("inference_allowed_mirroring_axes") or ())
        trainer = str(content.get("trainer_name", ""))
    except (KeyError, TypeError, ValueError) as error:
        raise TeacherError(
            f"{path} is not an nnU-Net v2 checkpoint (missing or not valid: {error}); take one that nnU-Net wrote"
        ) from error
    try:
        configuration = resolve_configuration(plans, configuration_name)
        if configuration.get("previous_stage"):
            raise TeacherError(f"{configuration_name} is the second stage of a cascade, which is not supported")
        if len(configuration.get("patch_size") or ()) == 2:
            raise TeacherError(f"{configuration_name} is a 2-D network, which is not supported; take 3d_fullres")
        network = build_network(
            configuration, channels=len(dataset["channel_names"]), labels=len(dataset["labels"]), deep_supervision=False
        )
    except (TeacherError, TypeError) as error:
        raise TeacherError(f"{folder / 'plans.json'}, {configuration_name}: {error}") from error
    _put_weights(network, weights, path, trainer)
    return ModelFolder(
        folder=folder,
        fold=fold,
        plans=plans,
        dataset=dataset,
        configuration_name=configuration_name,
        configuration=configuration,
        network=network.eval().requires_grad_(False),
        mirroring_axes=mirroring_axes,
        sha256=hashlib.sha256(data).hexdigest(),  # of the very bytes that were loaded
        trainer=trainer,
        trained_with=_trained_with(content),
    )


def load_teacher_fold(
    folder: Path, fold: int, checkpoint: str, *, dataset: Mapping[str, Any], configuration: str
) -> ModelFolder:
    """Load one fold of a teacher and check that it fits what students are trained on.

    Label values count, and names are for people: another wording passes, but not one name with two values. Names are
    compared without regard to letter case.

    Args:
        folder: the teacher's model folder.
        fold: which network of it.
        checkpoint: file name in its fold folder.
        dataset: the students' ``dataset.json``, checked.
        configuration: the students', for example ``3d_fullres``.

    Raises:
        TeacherError: it cannot be loaded, or its labels, channels or configuration are others.
    """
    model = load_model_folder(folder, fold, checkpoint)
    path = folder / "dataset.json"
    labels, wanted = label_values(model.dataset), label_values(dataset)
    if sorted(labels.values()) != sorted(wanted.values()):
        raise TeacherError(
            f"the teacher's labels {labels} in {path} are not those of the students' dataset, {wanted}; give a teacher "
            "that was trained on this dataset"
        )
    by_name = {**{name.casefold(): value for name, value in labels.items()}, **labels}
    swapped = [
        name for name, value in wanted.items() if by_name.get(name, by_name.get(name.casefold(), value)) != value
    ]
    if swapped:
        raise TeacherError(
            f"the teacher's labels {labels} in {path} give {', '.join(swapped)} another value than the students' "
            f"dataset, {wanted}; every structure would be learnt as another one"
        )
    channels, expected = _channels(model.dataset), _channels(dataset)
    if [name.casefold() for name in channels] != [name.casefold() for name in expected]:
        raise TeacherError(
            f"the teacher's channels {channels} in {path} are not those of the students' dataset, {expected}; give a "
            "teacher that was trained on such images, or correct the name if it means the same"
        )
    if model.configuration_name != configuration:
        raise TeacherError(
            f"{folder / f'fold_{fold}' / checkpoint} was trained for {model.configuration_name} and the students are "
            f"to be trained for {configuration}: they see patches of different resolution. Give a teacher of "
            f"{configuration}, or set the recipe's configuration to {model.configuration_name}"
        )
    return model


def load_weights(network: nn.Module, path: Path) -> None:
    """Put a checkpoint's weights into a network of the same architecture.

    Raises:
        TeacherError: the file is missing, damaged, holds code, or belongs to another network.
    """
    if not path.is_file():
        raise TeacherError(f"{path}: no such checkpoint to start from")
    content = read_checkpoint(path)
    if not isinstance(content.get("network_weights"), dict):
        raise TeacherError(f"{path} is not an nnU-Net v2 checkpoint (no network_weights)")
    _put_weights(network, content["network_weights"], path)


def build_network(configuration: dict[str, Any], *, channels: int, labels: int, deep_supervision: bool) -> nn.Module:
    """Build the network that a configuration describes, with nnU-Net's own factory.

    Raises:
        TeacherError: the configuration names a class that is not allow-listed, or its settings make no network.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = check_architecture(configuration)
    try:
        network: nn.Module = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            channels,
            labels,
            allow_init=True,
            deep_supervision=deep_supervision,
        )
    except Exception as error:  # whatever a wrong value leads to
        raise TeacherError(
            f"nnU-Net cannot build a network of 'arch_kwargs' ({error}); take the plans.json that the network was "
            "trained with"
        ) from error
    return network


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read an nnU-Net checkpoint without running code from it.

    Raises:
        TeacherError: it cannot be read, is damaged, holds Python objects, or is something else.
    """
    return _parse_checkpoint(_read_bytes(path), path)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TeacherError(f"{path} cannot be read: {error}") from error


def _parse_checkpoint(data: bytes, path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damaged bytes lead to
        raise TeacherError(
            f"{path} cannot be loaded as plain weights: it is damaged, or it holds Python objects that could run code, "
            f"as nnU-Net's own checkpoints do not; take the file that nnU-Net wrote. torch says: {error}"
        ) from error
    if not isinstance(content, dict):
        raise TeacherError(f"{path} is not an nnU-Net v2 checkpoint")
    return content


def _channels(dataset: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in dataset["channel_names"].values()]


def _numpy_globals() -> list[Any]:
    """Return what nnU-Net's log and best score, which are numpy scalars, name in a checkpoint.

    A checkpoint has the names of the numpy that wrote it: ``numpy.core`` became ``numpy._core`` in numpy 2.
    """
    scalar = np.float64(0).__reduce__()[0]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    # a dtype is built through numpy.dtype, but torch asks for the class of what came out
    classes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8")}
    return [*((scalar, name) for name in names), (np.dtype, "numpy.dtype"), *classes]


def _trained_with(content: dict[str, Any]) -> dict[str, str] | None:
    """Return the versions that our own trainers write into a checkpoint."""
    own = content.get(PLANS_KEY)
    versions = own.get("versions") if isinstance(own, dict) else None
    if not isinstance(own, dict) or not isinstance(versions, dict):
        return None
    precisions = own.get("precisions")
    known = {"precision": ", then ".join(map(str, precisions))} if isinstance(precisions, list) and precisions else {}
    return {**{str(name): str(version) for name, version in versions.items()}, **known}


def _put_weights(network: nn.Module, weights: Any, path: Path, trainer: str = "") -> None:
    try:
        network.load_state_dict({_without_prefix(name): value for name, value in weights.items()})
    except (RuntimeError, AttributeError, TypeError) as error:
        raise TeacherError(
            f"the weights in {path}{f' ({trainer})' if trainer else ''} do not fit the network in the plans; take both "
            f"of one training, by a trainer that does not change the network: {error}"
        ) from error


def _without_prefix(name: str) -> str:
    """Drop what DistributedDataParallel and torch.compile put before a parameter's name."""
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    return name
