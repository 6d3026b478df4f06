"""The memory and the checkpoints of a training, counted without running it."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from distillation.training_settings import Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    import torch
    from torch import nn

    from distillation.distiller import Distiller

PROCESS_BYTES = 1_040_000_000
"""A process that trains a network of no size: Python with torch and nnU-Net, and what they load in a step."""

_PASSING_TENSORS = 5
"""Tensors of the largest size that a step has at hand beyond those that it keeps for the gradients."""

NUMBERS_KEPT: dict[Optimizer, int] = {"sgd": 1, "adamw": 3}
"""Numbers that an optimiser keeps of a parameter: momentum; both moments and, with AMSGrad, the largest second one."""


@dataclass(frozen=True, kw_only=True)
class TrainingWork:
    """One training, as far as its memory goes.

    Attributes:
        configuration: resolved configuration of the network to be trained.
        teacher: that of the teacher that runs beside it; None for plain training.
        losses: of the distillation, by name, as :func:`distillation.losses.registry.read_terms` reads them.
        teachers: networks of that configuration whose logits are averaged.
        gradient_checkpointing: whether stages are computed again for the gradient.
        channels: input channels.
        labels: outputs, background included.
        batch_size: patches a step.
        optimizer: as in :class:`distillation.training_settings.TrainingSettings`.
    """

    configuration: dict[str, Any]
    teacher: dict[str, Any] | None
    channels: int
    labels: int
    batch_size: int
    optimizer: Optimizer = "sgd"
    losses: dict[str, dict[str, Any]] = field(default_factory=dict)
    teachers: int = 1
    gradient_checkpointing: bool = False


def training_bytes(work: TrainingWork) -> int:
    """Return the memory that a training needs in float32, without running it.

    Student, teacher and losses run on torch's meta device, where autograd keeps tensors without content: those are
    counted, each storage once. With gradient checkpointing they are fewer, and what the largest stage keeps is there
    for a while when it is computed again. Added are weights, gradients and what the optimiser keeps, the teacher's
    weights, skip connections, logits (where a loss looks at them) and largest layer, and the process.
    """
    import torch

    from distillation.torch_tuning import checkpoint_stages

    with torch.device("meta"):
        network, teachers = _networks(work)
        distiller = _distiller(work, network, teachers, torch.device("meta"), nullcontext)
        batch = torch.empty(work.batch_size, work.channels, *work.configuration["patch_size"])
        kept, held, stages = _kept(network, batch, distiller, work)
        largest, activations = kept.largest, kept.with_others(held)
        if work.gradient_checkpointing:
            checkpoint_stages(network)
            kept, held, _ = _kept(network, batch, distiller, work)
            activations = kept.with_others(held) + max(stages)
        teaching = 0
        if teachers:
            decodes = distiller is not None and distiller.uses_logits
            running = teachers[0] if decodes else teachers[0].get_submodule("encoder")
            teaching = len(teachers) * _bytes_of(teachers[0].parameters()) + _largest_layer(running, batch)
            if len(teachers) > 2:  # this network's share of the mean
                teaching += 4 * work.batch_size * work.labels * batch[0, 0].numel()
        trained = _bytes_of(network.parameters())
        if distiller is not None:
            trained += _bytes_of(distiller.parts.parameters())
    copies = 2 + NUMBERS_KEPT[work.optimizer]
    return PROCESS_BYTES + activations + copies * trained + _PASSING_TENSORS * largest + teaching


def checkpoint_bytes(work: TrainingWork) -> int:
    """Return the size of a training's checkpoint: weights, also of what is trained along, and what the optimiser keeps.

    Raises:
        InvalidSettingsError, TeacherError: the losses and the networks do not fit together.
    """
    import torch

    with torch.device("meta"):
        network, teachers = _networks(work)
        distiller = _distiller(work, network, teachers, torch.device("meta"), nullcontext)
        trained = _bytes_of(network.parameters())
        if distiller is not None:
            trained += _bytes_of(distiller.parts.parameters())
    return (1 + NUMBERS_KEPT[work.optimizer]) * trained


class _Storages:
    """The storages of tensors, each counted once."""

    def __init__(self) -> None:
        self._bytes: dict[int, int] = {}
        self._tensors: list[torch.Tensor] = []  # a freed storage's address would be used again

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self._bytes[storage._cdata] = storage.nbytes()
        self._tensors.append(tensor)

    @property
    def total(self) -> int:
        return sum(self._bytes.values())

    @property
    def largest(self) -> int:
        return max(self._bytes.values(), default=0)

    def with_others(self, others: _Storages) -> int:
        """Return the bytes of these and others together."""
        return sum({**self._bytes, **others._bytes}.values())


def _kept(
    network: nn.Module, batch: torch.Tensor, distiller: Distiller | None, work: TrainingWork
) -> tuple[_Storages, _Storages, list[int]]:
    """Return what a step keeps for the gradient, what the teacher holds, and the bytes each stage adds to its input.

    Weights are not counted. A stage that is checkpointed keeps its input alone.
    """
    import torch

    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    if distiller is not None:
        weights |= {parameter.untyped_storage()._cdata for parameter in distiller.parts.parameters()}
    kept, held = _Storages(), _Storages()
    parts: Any = network
    stages: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept.add(tensor)
        return tensor

    def enter(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        pack(inputs[0])
        stages.append(-kept.total)

    def leave(*_: object) -> None:
        stages[-1] += kept.total

    def hold(_: nn.Module, __: object, output: torch.Tensor | Sequence[torch.Tensor]) -> None:
        for tensor in [output] if isinstance(output, torch.Tensor) else output:
            held.add(tensor)

    with ExitStack() as hooks:
        for stage in (*parts.encoder.stages, *parts.decoder.stages):
            hooks.enter_context(stage.register_forward_pre_hook(enter))
            hooks.enter_context(stage.register_forward_hook(leave))
        if distiller is not None:  # of several teachers, one runs at a time
            for module in (distiller.teachers[0], distiller.teachers[0].get_submodule("encoder")):
                hooks.enter_context(module.register_forward_hook(hold))
        hooks.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        outputs = network(batch)
        labels = _labels(outputs, work.labels)
        _segmentation_loss(work, len(outputs))(outputs, labels)
        if distiller is not None:
            distiller.losses(batch, outputs, labels, 1.0)
    return kept, held, stages


def _largest_layer(network: nn.Module, batch: torch.Tensor) -> int:
    """Return the bytes of a layer's input and of its output, once as single instances and once joined, at most."""
    import torch

    largest = 0

    def see(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, 4 * (inputs[0].numel() + 2 * output.numel()))

    with ExitStack() as hooks, torch.no_grad():
        for module in network.modules():
            if not any(True for _ in module.children()):
                hooks.enter_context(module.register_forward_hook(see))
        network(batch)
    return largest


def _bytes_of(parameters: Iterable[nn.Parameter]) -> int:
    return sum(4 * parameter.numel() for parameter in parameters)


def _networks(work: TrainingWork) -> tuple[nn.Module, list[nn.Module]]:
    """Return the network to be trained and those that teach, made as the trainers make them, with random weights."""
    import torch

    from distillation.teacher import build_network
    from distillation.torch_tuning import keep_channels_last

    counts = {"channels": work.channels, "labels": work.labels}
    network = build_network(work.configuration, **counts, deep_supervision=True)
    network = network.to(memory_format=torch.channels_last_3d)
    keep_channels_last(network)
    teachers = [
        build_network(configuration, **counts, deep_supervision=False).eval().requires_grad_(False)
        for configuration in ([work.teacher] * work.teachers if work.teacher is not None else ())
    ]
    return network, teachers


def _distiller(
    work: TrainingWork,
    network: nn.Module,
    teachers: list[nn.Module],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Distiller | None:
    from distillation.distiller import Distiller
    from distillation.training_settings import DistillationSettings, TeacherSettings

    if not teachers:
        return None
    nowhere = TeacherSettings(folder="", folds=tuple(range(len(teachers))))
    settings = DistillationSettings(method="trial", teacher=nowhere, losses=work.losses)
    return Distiller(settings, network, teachers, device, autocast)


def _segmentation_loss(work: TrainingWork, heads: int) -> Callable[[list[torch.Tensor], list[torch.Tensor]], Any]:
    """Return the loss of the trainers' own, of the logits and labels of all heads."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from distillation.losses.dice_cross_entropy import segmentation_loss

    planned = SimpleNamespace(
        label_manager=SimpleNamespace(has_regions=False, ignore_label=None),
        configuration_manager=SimpleNamespace(batch_dice=work.configuration["batch_dice"]),
        is_ddp=False,
        enable_deep_supervision=True,
        _do_i_compile=lambda: False,
        _get_deep_supervision_scales=lambda: range(heads),
    )
    return segmentation_loss(nnUNetTrainer._build_loss(planned), torch.device("cpu"), work.labels)


def _labels(outputs: list[torch.Tensor], labels: int) -> list[torch.Tensor]:
    """Return random label maps (batch, 1, z, y, x) for all heads."""
    import torch

    return [
        torch.randint(0, labels, (len(output), 1, *output.shape[2:]), dtype=torch.int16, device=output.device)
        for output in outputs
    ]
