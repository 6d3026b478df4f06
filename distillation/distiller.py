"""A frozen teacher beside a student: what both say about a batch, and the losses between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distillation import distributed
from distillation.losses.registry import read_terms
from distillation.losses.term import Signals
from distillation.teacher import ModelFolder, load_teacher_fold
from distillation.torch_tuning import keep_channels_last
from distillation.training_settings import DistillationSettings
from KDSegmentatorLib.errors import InvalidSettingsError, TeacherError
from KDSegmentatorLib.packs.strict_json import FieldError


class EncoderTaps:
    """Keeps what the encoder's stages put out, without the bottleneck, from one forward pass to :meth:`take`.

    Forward hooks read the outputs, so that the network and its weights stay as they are.

    Args:
        network: a U-Net of dynamic_network_architectures, not wrapped.
    """

    def __init__(self, network: nn.Module) -> None:
        encoder: Any = network.encoder
        stages = list(encoder.stages)[:-1]
        self.widths: list[int] = [int(width) for width in encoder.output_channels[:-1]]
        """Channels of each stage."""
        self._features: list[torch.Tensor | None] = [None] * len(stages)
        for number, stage in enumerate(stages):
            stage.register_forward_hook(self._reader(number, network))

    def take(self) -> list[torch.Tensor]:
        """Return the features of the last forward pass in training or of a frozen network, and let go of them."""
        features = [each for each in self._features if each is not None]
        if len(features) != len(self._features):
            raise RuntimeError("the network did not run since its features were taken")
        self._features = [None] * len(features)
        return features

    def _reader(self, number: int, network: nn.Module) -> Any:
        frozen = not any(parameter.requires_grad for parameter in network.parameters())

        def read(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:  # noqa: ARG001 - torch fixes them
            # validation passes of a student would hold on to memory that nobody takes
            if network.training or frozen:
                self._features[number] = output

        return read


class Distiller:
    """Computes the distillation losses of a batch.

    What is trained along (maps of the student's channels to the teacher's, and what single losses bring) is in
    :attr:`parts`. It belongs to neither network: the student's checkpoint stays one that stock nnU-Net loads.

    Args:
        settings: teacher and losses.
        student: the network, not wrapped in DistributedDataParallel.
        teachers: the networks of the teacher's folds, frozen.
        device: where everything runs.
        autocast: returns the context that networks run in.

    Raises:
        InvalidSettingsError: a loss is unknown, or needs features and there are several folds.
        TeacherError: the teacher's stages are not the student's.
    """

    def __init__(
        self,
        settings: DistillationSettings,
        student: nn.Module,
        teachers: Sequence[nn.Module],
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        try:
            self.terms = read_terms(settings.losses, f"losses of '{settings.method}'")
        except FieldError as error:
            raise InvalidSettingsError(str(error)) from error
        self._autocast = autocast
        self._all_heads = any(term.uses_all_heads for term in self.terms.values())
        self.uses_logits = any(term.uses_logits for term in self.terms.values())
        """Whether the teachers' decoders run."""
        self.teachers = [network.to(device, memory_format=torch.channels_last_3d) for network in teachers]  # type: ignore[call-overload]
        for network in self.teachers:
            if device.type == "cpu":
                keep_channels_last(network)
            network.decoder.deep_supervision = self._all_heads
        self._taps: tuple[EncoderTaps, EncoderTaps] | None = None
        if any(term.uses_features for term in self.terms.values()):
            if len(teachers) > 1:
                raise InvalidSettingsError(
                    f"'{settings.method}' compares encoder features, which need one fold, but {len(teachers)} teach"
                )
            self._taps = EncoderTaps(student), EncoderTaps(self.teachers[0])
        self.parts = self._make_parts().to(device)
        distributed.synchronise_weights(self.parts)

    def losses(
        self, data: torch.Tensor, heads: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], progress: float
    ) -> dict[str, torch.Tensor]:
        """Return the weighted losses by name, after the student ran on the batch.

        Args:
            data: (batch, channels, z, y, x), what the student saw.
            heads: the student's logits, full resolution first.
            labels: label maps (batch, 1, z, y, x) at the resolutions of ``heads``.
            progress: share of the training that is done, in [0, 1].
        """
        own: list[torch.Tensor] = []
        teachers: list[torch.Tensor] = []
        with torch.no_grad(), self._autocast():
            teacher_heads = self._run_teachers(data)
        if self._taps is not None:
            own, teachers = (taps.take() for taps in self._taps)
            maps: Iterable[nn.Module] = self.parts["maps"].children()
            own = [project(features.float()) for project, features in zip(maps, own, strict=True)]
        student = Signals(heads=heads if self._all_heads else heads[:1], features=own)
        teacher = Signals(heads=teacher_heads, features=teachers)
        return {
            name: term.weight_at(progress) * term(student, teacher, labels, self.parts[name])
            for name, term in self.terms.items()
        }

    def _run_teachers(self, data: torch.Tensor) -> list[torch.Tensor]:
        """Return the teachers' logits, or [] where no loss looks at them: then only the encoder runs, for the taps."""
        if self.uses_logits:
            return mean_logits(self.teachers, data)
        self.teachers[0].encoder(data)
        return []

    def _make_parts(self) -> nn.ModuleDict:
        if self._taps is None:
            return nn.ModuleDict({name: nn.ModuleList() for name in self.terms})
        own, teachers = (taps.widths for taps in self._taps)
        if len(own) != len(teachers):
            raise TeacherError(f"the student's encoder has {len(own) + 1} stages and the teacher's {len(teachers) + 1}")
        maps = nn.ModuleList(
            nn.Identity() if mine == theirs else nn.Conv3d(mine, theirs, kernel_size=1)
            for mine, theirs in zip(own, teachers, strict=True)
        )
        return nn.ModuleDict({"maps": maps, **{n: term.trained_parts(teachers) for n, term in self.terms.items()}})


def mean_logits(networks: Sequence[nn.Module], data: torch.Tensor) -> list[torch.Tensor]:
    """Return the networks' logits, full resolution first, averaged; summed in float32, whatever the networks run in."""
    mean: list[torch.Tensor] = []
    for network in networks:
        output = network(data)
        heads = [output] if isinstance(output, torch.Tensor) else list(output)
        if len(networks) > 1:
            heads = [head.float() / len(networks) for head in heads]
        mean = [one + other for one, other in zip(mean, heads, strict=True)] if mean else heads
    return mean


def load_teachers(
    settings: DistillationSettings, *, fold: int, dataset: Mapping[str, Any], configuration: str
) -> list[ModelFolder]:
    """Load the teacher of a distillation, each of its folds, after checks that take seconds.

    Args:
        settings: which teacher.
        fold: the student's fold.
        dataset: the student's ``dataset.json``.
        configuration: the student's, for example ``3d_fullres``.

    Raises:
        TeacherError: it is missing, not a teacher, another one than when the plans were written, or does not fit.
    """
    teacher = settings.teacher
    if teacher.folds != (fold,) and not teacher.accept_leakage:
        raise TeacherError(
            f"the teacher was trained on {_folds_text(teacher.folds)} and the student is to be trained on fold {fold}: "
            "the teacher has seen the student's held-out cases. Use the same fold"
        )
    found = [
        load_teacher_fold(Path(teacher.folder), each, teacher.checkpoint, dataset=dataset, configuration=configuration)
        for each in teacher.folds
    ]
    for number, model in enumerate(found):
        if teacher.sha256 is not None and teacher.sha256[number] != model.sha256:
            raise TeacherError(
                f"the teacher in {teacher.folder} changed since these plans were written; run 'kdseg-distill distil' "
                "again"
            )
    return found


def _folds_text(folds: Sequence[int]) -> str:
    return f"fold {folds[0]}" if len(folds) == 1 else f"the folds {', '.join(map(str, folds))}"
