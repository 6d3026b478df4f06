"""nnU-Net trainers: plain training in a limited number of iterations, and distillation from a frozen teacher.

They are found by nnU-Net through ``nnUNet_extTrainer`` (see :mod:`distillation.launch`). Both write checkpoints that
name the stock ``nnUNetTrainer``, so that stock ``nnUNetv2_predict`` loads what they train on a machine without us.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch.nn.parallel import DistributedDataParallel

from distillation import distributed
from distillation.augmentation import with_augmentation
from distillation.batch_stream import BatchStream, seed_everything
from distillation.distiller import Distiller, load_teachers
from distillation.losses.dice_cross_entropy import SoftSegmentationLoss, segmentation_loss
from distillation.pack_weights import load_pack_weights
from distillation.soft_labels import SoftLabelLoader, check_soft_labels
from distillation.teacher import load_weights, read_checkpoint
from distillation.torch_tuning import checkpoint_stages, keep_channels_last, training_dtype
from distillation.training_log import (
    TRAINING_PACKAGES,
    Epoch,
    LossMeans,
    TimeLeft,
    TrainingLog,
    duration_text,
    package_versions,
)
from distillation.training_settings import PLANS_KEY, TrainingSettings
from KDSegmentatorLib.errors import ImageWriteError, TeacherError, TrainingError
from KDSegmentatorLib.io.files import atomic_output
from KDSegmentatorLib.packs.pack import open_pack

GRADIENT_NORM_LIMIT = 12.0
"""nnU-Net's own limit."""

_TRAINING, _VALIDATION = 1, 2  # parts of the seeds of their batches
_PARTS = "trained_along"
_LOGGED = ("val_losses", "mean_fg_dice", "lrs", "epoch_start_timestamps")


class KDSegPlainTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net carries no types
    """nnU-Net's training with its length, batch size, seed and precision taken from the plans.

    A batch depends on the seed and its number alone (:mod:`distillation.batch_stream`), so that a run which was killed
    and resumed sees the same batches as one that was not.
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
        self.resumes = bool(plans.get("continue_training", False))
        """Whether a checkpoint will take the place of the initial weights."""
        if self.settings.batch_size % distributed.process_count():
            raise TrainingError(  # unequal shares would weigh their patches unequally
                f"{distributed.process_count()} processes cannot share a batch of {self.settings.batch_size} equally; "
                "set the recipe's batch_size to a multiple of them, or start fewer processes"
            )
        seed_everything(self.settings.seed)  # before the weights are drawn
        super().__init__(plans, configuration, fold, dataset_json, device)
        # nnU-Net takes the process's number over all nodes for a device, and always one with CUDA
        self.device = distributed.local_device(device.type)
        if self.device.type == "cpu":
            self.grad_scaler = None
        self.num_epochs = self.settings.epochs
        self.num_iterations_per_epoch = self.settings.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.settings.validation_iterations
        self.initial_lr = self.settings.initial_learning_rate
        self.save_every = 1
        self.probabilistic_oversampling = True  # a batch of one patch would never be sure to hold foreground
        self.soft_loss = SoftSegmentationLoss()
        self.shared_loaders: tuple[Any, Any] | None = None
        """Batches of training and validation that another trainer draws as well; None for its own."""
        # measured, so that processes could differ
        self.autocast_dtype = distributed.from_first(training_dtype(self.settings.precision, self.device))
        self.precisions = [_name_of(self.autocast_dtype)]
        """Number formats that it was trained in, in their order."""
        self.iteration = 0
        """Optimiser steps of this epoch so far."""
        self.loss_means = LossMeans()
        self.log: TrainingLog | None = None  # of the first process
        self.time_left = TimeLeft(self.num_epochs)

    def initialize(self) -> None:
        together = distributed.is_distributed()
        self.is_ddp = False  # nnU-Net would wrap the network for the CUDA device of the number over all nodes
        super().initialize()
        self.is_ddp = together
        self.network: torch.nn.Module = self.network.to(memory_format=torch.channels_last_3d)
        if self.device.type == "cpu":
            keep_channels_last(self.network)
        if self.soft_label_folder is not None:
            self._check_soft_labels(self.soft_label_folder)
        if self.settings.initial_checkpoint is not None and not self.resumes:
            self._load_initial_weights(Path(self.settings.initial_checkpoint))
        if self.settings.gradient_checkpointing:
            checkpoint_stages(self.network)
        if self.is_ddp:
            self._set_batch_size_and_oversample()
            self.loss = self._build_loss()
            devices = [self.device] if self.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.network, device_ids=devices)

    def _check_soft_labels(self, folder: Path) -> None:
        soft = self.settings.soft_labels
        if soft is not None and soft.teachers is not None:
            check_soft_labels(
                folder, {"teachers": list(soft.teachers), "mirroring_axes": list(soft.mirroring_axes or ())}
            )

    def _load_initial_weights(self, source: Path) -> None:
        if source.is_dir():
            pack, known = open_pack(source), self.settings.initial_sha256
            if known not in (None, pack.manifest.provenance.checkpoint_sha256):
                raise TrainingError(f"{source} is another pack than the one that these plans start from, of {known}")
            load_pack_weights(self.network, pack)
        else:
            load_weights(self.network, source)

    def _build_loss(self) -> torch.nn.Module:
        return segmentation_loss(super()._build_loss(), self.device, self.label_manager.num_segmentation_heads)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(
        self,
    ) -> tuple[Any, bool, Any, tuple[int, ...] | None]:
        rotation, in_plane, patch_size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        axes = self.settings.mirroring_axes or None
        self.inference_allowed_mirroring_axes = axes
        return rotation, in_plane, patch_size, axes

    def get_training_transforms(self, *arguments: Any, **options: Any) -> Any:
        # nnU-Net's is static, and called on the trainer
        stock = nnUNetTrainer.get_training_transforms(*arguments, **options)
        return with_augmentation(stock, self.settings.augmentation, self.configuration_manager.spacing)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        if self.settings.optimizer == "sgd":
            optimizer, _ = super().configure_optimizers()
        else:
            parameters = self.network.parameters()
            optimizer = torch.optim.AdamW(parameters, self.initial_lr, weight_decay=self.weight_decay, amsgrad=True)
        # nnU-Net steps it once an epoch: the last one of a short training would still run at a tenth of the rate
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs * self.num_iterations_per_epoch)

    @property
    def soft_label_folder(self) -> Path | None:
        """Stored probabilities that the batches have to carry."""
        soft = self.settings.soft_labels
        return None if soft is None or soft.hard else Path(soft.folder)

    def get_dataloaders(self) -> tuple[Any, Any]:
        if self.shared_loaders is not None:
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # notes the axes of inference
            return self.shared_loaders
        processes = get_allowed_n_proc_DA()
        with _no_augmentation_processes():  # the stream has its own
            stock = super().get_dataloaders()
        training, validation = (each.data_loader for each in stock)
        if self.soft_label_folder is not None:
            classes = self.label_manager.num_segmentation_heads
            training = SoftLabelLoader(training, self.soft_label_folder, classes)
        pinned = self.device.type == "cuda"
        return (
            BatchStream(training, self._seed(_TRAINING), processes=processes, pin_memory=pinned),
            BatchStream(validation, self._seed(_VALIDATION), processes=(processes + 1) // 2, pin_memory=pinned),
        )

    def _seed(self, phase: int) -> tuple[int, ...]:
        """Return what the batches follow from; processes that train together must not draw the same patches."""
        return self.settings.seed, phase, self.local_rank

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.local_rank == 0:
            self.log = TrainingLog(Path(self.output_folder), self.current_epoch)
        self.time_left = TimeLeft(self.num_epochs - self.current_epoch)

    def on_train_end(self) -> None:
        super().on_train_end()
        for stream in (self.dataloader_train, self.dataloader_val):
            stream.close()
        if self.log is not None:
            self.log.close()

    def on_train_epoch_start(self) -> None:
        self.iteration = 0
        self.loss_means = LossMeans()
        self.network.train()
        self.lr_scheduler.step(self.current_epoch * self.num_iterations_per_epoch)
        rate = self.optimizer.param_groups[0]["lr"]
        self.print_to_log_file(f"Epoch {self.current_epoch}, learning rate {rate:.5f}")
        self.logger.log("lrs", rate, self.current_epoch)

    def on_epoch_end(self) -> None:
        # before the checkpoint: after a kill in between, the epoch is repeated and its line replaced
        self._log_epoch()
        super().on_epoch_end()
        left = duration_text(self.time_left.after_epoch())
        self.print_to_log_file(f"epoch {self.current_epoch} of {self.num_epochs} done, {left} left")

    def _log_epoch(self) -> None:
        losses = {name: distributed.mean_over_processes(mean).item() for name, mean in self.loss_means.means().items()}
        if self.log is None:
            return
        latest = {name: float(self.logger.get_value(name, step=-1)) for name in _LOGGED}
        self.log.write(
            Epoch(
                epoch=self.current_epoch,
                iteration=(self.current_epoch + 1) * self.num_iterations_per_epoch,
                losses=losses,
                validation_loss=latest["val_losses"],
                pseudo_dice=latest["mean_fg_dice"],
                learning_rate=latest["lrs"],
                seconds=time.time() - latest["epoch_start_timestamps"],
            )
        )

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        data = self._to_device(batch["data"])
        target = [part.to(self.device, non_blocking=True) for part in batch["target"]]
        self.lr_scheduler.step(self.current_epoch * self.num_iterations_per_epoch + self.iteration)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            outputs = self.network(data)
        terms = self.loss_terms(data, outputs, target)
        if self.settings.soft_labels is not None:
            terms = self._with_soft_labels(terms, outputs[0], target[0], batch.get("soft"))
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            values = ", ".join(f"{name} {value.item():g}" for name, value in terms.items())
            raise self._diverged(f"the loss became {loss.item()} ({values})")
        loss.backward()
        self.update()
        self.loss_means.add(terms)
        self.iteration += 1
        return {"loss": loss.detach().cpu().numpy()}

    def loss_terms(
        self,
        data: torch.Tensor,  # noqa: ARG002 - for distillation
        outputs: list[torch.Tensor],
        target: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Return the scalars whose sum is to be minimised, by name.

        Args:
            data: (batch, channels, z, y, x), normalised intensities.
            outputs: logits (batch, classes, z, y, x), full resolution first.
            target: label maps (batch, 1, z, y, x) at the resolutions of ``outputs``.
        """
        return {"segmentation": self.loss(outputs, target)}

    def _with_soft_labels(
        self,
        terms: dict[str, torch.Tensor],
        logits: torch.Tensor,
        labels: torch.Tensor,
        soft: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """Return (1 - w) times the terms, and w times the loss against soft labels, at full resolution."""
        settings = self.settings.soft_labels
        assert settings is not None  # noqa: S101 - asked for by train_step
        weight = settings.weight_at(self.progress)
        if weight == 0:
            return terms
        if settings.hard:
            classes = torch.arange(logits.shape[1], device=labels.device).view(1, -1, 1, 1, 1)
            soft = (labels == classes).float()
        if soft is None:
            raise TrainingError(f"the batch carries no soft labels of {settings.folder}")
        loss = self.soft_loss(logits, soft.to(self.device, non_blocking=True))
        return {**{name: (1 - weight) * value for name, value in terms.items()}, "soft_labels": weight * loss}

    def update(self) -> None:
        """Take one optimiser step with the gradients that are there."""
        self.limit_gradients(self.network.parameters())
        self.optimizer.step()

    def limit_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Scale gradients down to nnU-Net's limit of their norm.

        Raises:
            TrainingError: one is not finite; the step would ruin the weights, and the next checkpoint with them.
        """
        norm = torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM_LIMIT)
        if not torch.isfinite(norm):
            raise self._diverged(f"the gradient became {norm.item()}")

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what} in epoch {self.current_epoch}; the last good state is in {self.output_folder}. Starting "
            "again goes on from there, with the same batches. If that fails as well, lower initial_learning_rate or "
            "set precision to float32 in a copy of the recipe, and run it in a workspace of its own"
        )

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        done = self.current_epoch * self.num_iterations_per_epoch + self.iteration
        return float(done) / (self.num_epochs * self.num_iterations_per_epoch)

    @property
    def bare_network(self) -> torch.nn.Module:
        """The network without what distributed training wraps round it."""
        return self.network.module if isinstance(self.network, DistributedDataParallel) else self.network

    def further_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside nnU-Net's own and the versions, under ``kdsegmentator``."""
        return {}

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        with self._autocast():
            result: dict[str, Any] = super().validation_step(batch)
        return result

    def save_checkpoint(self, filename: str) -> None:
        """Write the checkpoint under the stock trainer's name; it appears whole, or the last one stays.

        Raises:
            TrainingError: it cannot be written.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            return
        try:
            with atomic_output(filename) as partial:
                super().save_checkpoint(str(partial))
                content = torch.load(partial, map_location="cpu", weights_only=False)  # written a moment ago by us
                content["trainer_name"] = nnUNetTrainer.__name__
                content[PLANS_KEY] = {
                    "versions": package_versions(TRAINING_PACKAGES),
                    "precisions": self.precisions,
                    **self.further_state(),
                }
                torch.save(content, partial)
        except (ImageWriteError, RuntimeError) as error:  # torch says RuntimeError for a full disk
            raise TrainingError(
                f"{filename} cannot be written ({error}); the state of the epoch before is still there. Make room and "
                "start again to go on"
            ) from error

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        path = Path(filename_or_checkpoint)
        try:
            content = read_checkpoint(path)  # nnU-Net would run code that is in it
            super().load_checkpoint(filename_or_checkpoint)
            self._note_precision(content.get(PLANS_KEY, {}).get("precisions", []))
            self.restore(content.get(PLANS_KEY, {}))
        except (TeacherError, KeyError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"training cannot go on from {path}: {error}. Remove it to go on from checkpoint_best.pth beside it, "
                "or remove the whole folder to start again"
            ) from error

    def _note_precision(self, before: Sequence[str]) -> None:
        """Note and say where a run goes on in another number format, as ``auto`` may find on another machine."""
        now = self.precisions[-1]
        if before and before[-1] != now:
            self.print_to_log_file(
                f"goes on in {now}, was in {before[-1]} so far: the weights will be those of neither alone; set "
                "precision in the recipe's training to have one, in a workspace of its own"
            )
        self.precisions = [*before] if before and before[-1] == now else [*before, now]

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`further_state` returned."""

    def _to_device(self, data: torch.Tensor) -> torch.Tensor:
        return data.to(self.device, non_blocking=True, memory_format=torch.channels_last_3d)

    def _autocast(self) -> torch.autocast:
        enabled = self.autocast_dtype is not torch.float32
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)


class KDSegDistillingTrainer(KDSegPlainTrainer):
    """Learns from teachers: losses between student and frozen teacher, L = L_seg + sum of weight * L_i, or soft labels.

    A teacher of such losses runs on the same augmented patch as the student. It belongs to the trainer and not to the
    network, so that it is in no checkpoint and gets no update. What the losses train along has a parameter group of its
    own, and a place of its own in the checkpoint, beside the student's weights: a resumed run goes on exactly.
    """

    def initialize(self) -> None:
        super().initialize()
        self.distiller: Distiller | None = None
        self.trained_along: list[torch.nn.Parameter] = []
        settings = self.settings.distillation
        if settings is None:
            if self.settings.soft_labels is None:
                raise TeacherError("these plans name no teacher; write them with 'kdseg-distill distil'")
            return
        teachers = load_teachers(
            settings, fold=self.fold, dataset=self.dataset_json, configuration=self.configuration_name
        )
        networks = [teacher.network for teacher in teachers]
        self.distiller = Distiller(settings, self.bare_network, networks, self.device, self._autocast)
        self.trained_along = list(self.distiller.parts.parameters())
        if self.trained_along:
            self.optimizer.add_param_group({"params": self.trained_along})

    def loss_terms(
        self, data: torch.Tensor, outputs: list[torch.Tensor], target: list[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        terms = super().loss_terms(data, outputs, target)
        if self.distiller is None:
            return terms
        return {**terms, **self.distiller.losses(data, outputs, target, self.progress)}

    def update(self) -> None:
        if self.trained_along:
            distributed.average_gradients(self.trained_along)
            # apart from the student's: a large gradient here must not shorten the student's step
            self.limit_gradients(self.trained_along)
        super().update()

    def further_state(self) -> dict[str, Any]:
        return {} if self.distiller is None else {_PARTS: self.distiller.parts.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        if self.distiller is not None:
            self.distiller.parts.load_state_dict(state.get(_PARTS, {}))


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def _no_augmentation_processes() -> Iterator[None]:
    """Let nnU-Net augment in this process, whatever ``nnUNet_n_proc_DA`` says."""
    variable = "nnUNet_n_proc_DA"
    before = os.environ.get(variable)
    os.environ[variable] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
