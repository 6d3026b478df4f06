"""nnU-Net v2 model folders as they are published, with random weights, and what nnU-Net makes of an image."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillation.plans import resolve_configuration
from distillation.teacher import build_network


def write_model(
    folder: Path,
    plans: dict[str, Any],
    *,
    labels: dict[str, Any],
    configuration: str = "3d_fullres",
    channel: str = "CT",
    trainer: str = "nnUNetTrainer",
    mirroring: tuple[int, ...] | None = (0, 1, 2),
    folds: tuple[int | str, ...] = (0,),
    checkpoint: str = "checkpoint_final.pth",
) -> Path:
    """Write a model folder and return it; each fold has weights of its own."""
    folder.mkdir(parents=True)
    dataset = {"channel_names": {"0": channel}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "dataset_fingerprint.json").write_text("{}")
    resolved = resolve_configuration(copy.deepcopy(plans), configuration)
    for seed, fold in enumerate(folds):
        torch.manual_seed(seed)
        network = build_network(resolved, channels=1, labels=len(labels), deep_supervision=True)
        with torch.no_grad():
            for parameter in network.parameters():  # as after training: no two channels alike, biases not zero
                parameter += 0.1 * torch.randn_like(parameter)
        (folder / f"fold_{fold}" / "validation").mkdir(parents=True)
        for name in ("progress.png", "validation/summary.json"):
            (folder / f"fold_{fold}" / name).write_text("{}")
        content = {
            "network_weights": network.state_dict(),
            "optimizer_state": {"state": {}, "param_groups": [{"lr": np.float64(0.01)}]},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5)], "ema_fg_dice": [np.float32(0.5)], "lrs": [0.01]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 1000,
            "init_args": {
                "plans": plans,
                "configuration": configuration,
                "fold": fold,
                "dataset_json": dataset,
                "unpack_dataset": True,
                "device": torch.device("cuda:0"),
            },
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": mirroring,
        }
        torch.save(content, folder / f"fold_{fold}" / checkpoint)
    return folder


def stock_labels(
    folder: Path, image: Path, into: Path, *, fold: int | str | tuple[int, ...] = 0, mirroring: bool = False
) -> Path:
    """Segment an image file with nnU-Net's own reader, predictor and writer, as ``nnUNetv2_predict`` does."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=mirroring, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(
        str(folder), fold if isinstance(fold, tuple) else (fold,), "checkpoint_final.pth"
    )
    reader = predictor.plans_manager.image_reader_writer_class()
    voxels, properties = reader.read_images([str(image)])
    reader.write_seg(predictor.predict_single_npy_array(voxels, properties), str(into), properties)
    return into
