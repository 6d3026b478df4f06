"""Stock nnU-Net and monai.bundle on whole images, as their users run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch


def run_bundle(bundle: Path, images: Path, into: Path, *options: str) -> None:
    """Run it in another folder, in a Python that does not see this project."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(bundle)]
    command += ["--config_file", str(bundle / "configs" / "inference.json")]
    command += ["--dataset_dir", str(images), "--output_dir", str(into), *options]
    done = subprocess.run(command, cwd=bundle.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def stock(folder: Path, images: Path, into: Path, *, mirroring: bool = False) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=mirroring, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    into.mkdir()
    predictor.predict_from_files_sequential(str(images), str(into))
