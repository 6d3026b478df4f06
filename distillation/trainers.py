"""nnU-Net trainers: plain training in a limited number of iterations, and distillation from a frozen teacher.

They are found by nnU-Net through ``nnUNet_extTrainer`` (see :mod:`distillation.launch`). Both write checkpoints that
name the stock ``nnUNetTrainer``, so that stock ``nnUNetv2_predict`` loads what they train on a machine without us.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from distillation.losses import LogitDistillationLoss
from distillation.precision import training_dtype
from distillation.settings import TrainingSettings
from distillation.teacher import load_model_folder, load_weights
from KDSegmentatorLib.errors import TeacherError, TrainingError

GRADIENT_NORM_LIMIT = 12.0
"""nnU-Net's own limit."""


class KDSegPlainTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net carries no types
    """nnU-Net's training with its length, batch size, seed and precision taken from the plans.

    An epoch's random numbers depend on the seed and the epoch alone, so that a run which was killed and resumed sees
    the same batches as one that was not (with ``nnUNet_n_proc_DA=0``; worker processes seed themselves).
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        self.settings = TrainingSettings.from_plans(plans)
        _seed_everything(self.settings.seed)  # before the weights are drawn
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.settings.epochs
        self.num_iterations_per_epoch = self.settings.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.settings.validation_iterations
        self.initial_lr = self.settings.initial_learning_rate
        self.save_every = 1
        self.autocast_dtype = training_dtype(self.settings.precision, self.device)

    def initialize(self) -> None:
        super().initialize()
        if self.settings.initial_checkpoint is not None:
            load_weights(self.network, Path(self.settings.initial_checkpoint))
        self.network: torch.nn.Module = self.network.to(memory_format=torch.channels_last_3d)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(
        self,
    ) -> tuple[Any, bool, Any, tuple[int, ...] | None]:
        rotation, in_plane, patch_size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        axes = self.settings.mirroring_axes or None
        self.inference_allowed_mirroring_axes = axes
        return rotation, in_plane, patch_size, axes

    def on_train_epoch_start(self) -> None:
        _seed_everything(self.settings.seed + 1 + self.current_epoch)
        super().on_train_epoch_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        data = self._to_device(batch["data"])
        target = [part.to(self.device, non_blocking=True) for part in batch["target"]]
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            outputs = self.network(data)
        loss = self.training_loss(data, [output.float() for output in outputs], target)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {self.current_epoch}; the last good state is in "
                f"{self.output_folder}. Lower initial_learning_rate or set precision to float32, and start again"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM_LIMIT)
        self.optimizer.step()
        return {"loss": loss.detach().cpu().numpy()}

    def training_loss(
        self,
        data: torch.Tensor,  # noqa: ARG002 - for distillation
        outputs: list[torch.Tensor],
        target: list[torch.Tensor],
    ) -> torch.Tensor:
        """Return the scalar to minimise.

        Args:
            data: (batch, channels, z, y, x), normalised intensities.
            outputs: float32 logits (batch, classes, z, y, x), full resolution first.
            target: label maps (batch, 1, z, y, x) at the resolutions of ``outputs``.
        """
        loss: torch.Tensor = self.loss(outputs, target)
        return loss

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        with self._autocast():
            result: dict[str, Any] = super().validation_step(batch)
        return result

    def save_checkpoint(self, filename: str) -> None:
        """Write the checkpoint under the stock trainer's name, by atomic rename.

        A kill in the middle of a write would otherwise cost the whole run.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        partial = Path(f"{filename}.partial")
        super().save_checkpoint(str(partial))
        content = torch.load(partial, map_location="cpu", weights_only=False)  # written a moment ago by ourselves
        content["trainer_name"] = nnUNetTrainer.__name__
        torch.save(content, partial)
        partial.replace(filename)

    def _to_device(self, data: torch.Tensor) -> torch.Tensor:
        return data.to(self.device, non_blocking=True, memory_format=torch.channels_last_3d)

    def _autocast(self) -> torch.autocast:
        enabled = self.autocast_dtype is not torch.float32
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)


class KDSegLogitTrainer(KDSegPlainTrainer):
    """Adds the logit distillation loss: L = L_seg + lambda * L_KD, on the full-resolution output.

    The frozen teacher runs online on the same augmented patch as the student. It belongs to the trainer and not to the
    network, so that it is in no checkpoint and gets no update.
    """

    def initialize(self) -> None:
        super().initialize()
        distillation = self.settings.distillation
        if distillation is None:
            raise TeacherError("these plans name no teacher; write them with 'kdseg-distill distil --method logit'")
        if distillation.teacher_fold != self.fold:
            raise TeacherError(
                f"the teacher was trained on fold {distillation.teacher_fold} and the student is to be trained on "
                f"fold {self.fold}: the teacher has seen the student's held-out cases. Use the same fold"
            )
        teacher = load_model_folder(
            Path(distillation.teacher_folder), distillation.teacher_fold, distillation.teacher_checkpoint
        )
        if distillation.teacher_sha256 not in (None, teacher.sha256):
            raise TeacherError(
                f"the teacher in {distillation.teacher_folder} changed since these plans were written; "
                "run 'kdseg-distill distil' again"
            )
        if teacher.dataset["labels"] != self.dataset_json["labels"]:
            raise TeacherError(
                f"the teacher's labels {teacher.dataset['labels']} are not the student's {self.dataset_json['labels']}"
            )
        self.teacher = teacher.network.to(self.device).to(memory_format=torch.channels_last_3d)
        self.distillation_loss = LogitDistillationLoss(distillation.temperature)
        self.distillation_weight = distillation.weight

    def training_loss(
        self, data: torch.Tensor, outputs: list[torch.Tensor], target: list[torch.Tensor]
    ) -> torch.Tensor:
        with torch.inference_mode(), self._autocast():
            teacher_logits = self.teacher(data)
        # clone: an inference tensor may not take part in autograd
        distillation: torch.Tensor = self.distillation_loss(outputs[0], teacher_logits.clone())
        return super().training_loss(data, outputs, target) + self.distillation_weight * distillation


def _seed_everything(seed: int) -> None:
    np.random.seed(seed)
    torch.manual_seed(seed)
