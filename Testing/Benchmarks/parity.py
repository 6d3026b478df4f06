"""Compare our inference with stock ``nnUNetPredictor`` on real scans, with identical weights.

    python Testing/Benchmarks/parity.py MODEL_FOLDER DATASET_FOLDER [--cases 10] [--checkpoint checkpoint_final.pth]

The model folder's network goes through the same export as a student pack (float32 storage) and through onnxruntime; the
same checkpoint goes through nnU-Net. Every foreground voxel of either is compared.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from distillation.dataset import check_grids, read_dataset
from distillation.export.body import split_network, to_onnx
from distillation.export.description import describe_preprocessing, describe_windows
from distillation.teacher import load_model_folder
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.io.images import read_volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="trained nnU-Net folder, fold 0")
    parser.add_argument("dataset", type=Path, help="dataset in nnU-Net raw layout")
    parser.add_argument("--cases", type=int, default=10, help="evenly spread over the sorted cases")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth")
    parser.add_argument(
        "--float32-sums", action="store_true", help="let the predictor add up in float32, which stock nnU-Net does not"
    )
    arguments = parser.parse_args()

    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "Python"))
    from support.generated_packs import manifest, write_pack

    model = load_model_folder(arguments.model, 0, arguments.checkpoint)
    dataset = read_dataset(arguments.dataset)
    split = split_network(model.network)
    windows = describe_windows(model)
    body = to_onnx(split.body, channels=1, patch_size=windows.patch_size, storage="float32")
    base = manifest(labels=len(split.head_bias) - 1)
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(arguments.model), (0,), arguments.checkpoint)

    with tempfile.TemporaryDirectory() as folder:
        pack = write_pack(
            Path(folder),
            manifest=replace(
                base,
                preprocessing=describe_preprocessing(model, check_grids(dataset)),
                windows=windows,
                network=replace(base.network, features=split.head_weight.shape[1]),
            ),
            body=body,
            weight=split.head_weight,
            bias=split.head_bias,
        )
        engine = OnnxRuntimeEngine(pack.body())
        foreground = different = 0
        chosen = np.linspace(0, len(dataset.cases) - 1, min(arguments.cases, len(dataset.cases))).round().astype(int)
        for case in (dataset.cases[index] for index in chosen):
            volume = read_volume(case.image)
            ours = segment(volume, pack, engine, check_input=False).volume.voxels
            properties = {"spacing": list(volume.spacing[::-1])}
            # torch.half is the type of the predictor's sums, and nothing else uses it while it predicts
            with mock.patch.object(torch, "half", torch.float32 if arguments.float32_sums else torch.half):
                reference = predictor.predict_single_npy_array(volume.voxels[None].astype(np.float32), properties)
            here = int(((ours > 0) | (reference > 0)).sum())
            differing = int((ours != reference).sum())
            foreground += here
            different += differing
            print(f"{case.name}: {here:,} foreground voxels, {differing} differ")
    print(f"{len(chosen)} cases: {1 - different / max(foreground, 1):.5%} of {foreground:,} foreground voxels equal")


if __name__ == "__main__":
    main()
