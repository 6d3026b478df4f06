"""Small generated models and datasets for the distillation tests; nothing is downloaded."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Networks this small only lose by threads, most of all on a busy machine."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


def make_architecture(class_name: str, features: list[int]) -> dict:
    stages = len(features)
    arguments = {
        "n_stages": stages,
        "features_per_stage": features,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    depth = "n_blocks_per_stage" if class_name == RESIDUAL else "n_conv_per_stage"
    arguments[depth] = [1] * stages
    return {
        "network_class_name": class_name,
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def make_plans(
    class_name: str = PLAIN, features: tuple[int, ...] = (16, 32), patch: tuple[int, ...] = (16, 16, 16)
) -> dict:
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": "Dataset901_Spheres",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 40.0, "std": 12.0, "percentile_00_5": -10.0, "percentile_99_5": 90.0}
        },
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch),
                "median_image_size_in_voxels": [20.0, 20.0, 20.0],
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
                "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
                "architecture": make_architecture(class_name, list(features)),
                "batch_dice": False,
            }
        },
    }


def make_older(plans: dict) -> dict:
    """Return plans in the layout before nnU-Net 2.4, which described a U-Net beside the other settings."""
    older = copy.deepcopy(plans)
    for configuration in older["configurations"].values():
        architecture = configuration.pop("architecture")
        arguments = architecture["arch_kwargs"]
        residual = architecture["network_class_name"] == RESIDUAL
        strides = np.array(arguments["strides"])
        configuration.update(
            UNet_class_name=architecture["network_class_name"].rpartition(".")[2],
            UNet_base_num_features=arguments["features_per_stage"][0],
            unet_max_num_features=max(arguments["features_per_stage"]),
            n_conv_per_stage_encoder=arguments["n_blocks_per_stage" if residual else "n_conv_per_stage"],
            n_conv_per_stage_decoder=arguments["n_conv_per_stage_decoder"],
            num_pool_per_axis=(strides > 1).sum(0).tolist(),
            pool_op_kernel_sizes=arguments["strides"],
            conv_kernel_sizes=arguments["kernel_sizes"],
        )
    return older


DATASET_JSON = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "Front": 1, "Back": 2},
    "file_ending": ".nii.gz",
}


@pytest.fixture(scope="session")
def plans():
    """A function that returns plans: plans(class name, features, patch)."""
    return lambda *arguments, **options: copy.deepcopy(make_plans(*arguments, **options))


@pytest.fixture(scope="session")
def older():
    """A function that returns plans in the layout before nnU-Net 2.4: older(plans)."""
    return make_older


@pytest.fixture(params=[PLAIN, RESIDUAL], ids=["PlainConvUNet", "ResidualEncoderUNet"])
def each_architecture(request):
    return request.param


@pytest.fixture
def model_folder(tmp_path):
    """A function that writes an nnU-Net model folder with random weights: model_folder(plans, name=...)."""
    import torch

    from distillation.plans import resolve_configuration
    from distillation.teacher import build_network

    def write(plans: dict, *, name: str = "teacher", fold: int = 0, seed: int = 0) -> Path:
        torch.manual_seed(seed)
        network = build_network(resolve_configuration(plans, "3d_fullres"), channels=1, labels=3, deep_supervision=True)
        folder = tmp_path / name
        (folder / f"fold_{fold}").mkdir(parents=True)
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres", "fold": fold},
            "inference_allowed_mirroring_axes": (0, 1, 2),
            "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(1)]},
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
        return folder

    return write


@pytest.fixture
def oldest_onnxruntime(tmp_path):
    """A function that runs a body on the oldest onnxruntime that packs are made for: run(body, window) -> features."""
    python = os.environ.get("KDSEG_OLDEST_ORT_PYTHON")
    if not python:
        pytest.skip("set KDSEG_OLDEST_ORT_PYTHON to a Python with onnxruntime==1.23.2 to check the oldest runtime")
    script = (
        "import numpy, onnxruntime; "
        "session = onnxruntime.InferenceSession('body.onnx', providers=['CPUExecutionProvider']); "
        "numpy.save('features.npy', session.run(None, {'input': numpy.load('window.npy')})[0]); "
        "print(onnxruntime.__version__)"
    )

    def run(body: bytes, window: np.ndarray) -> np.ndarray:
        (tmp_path / "body.onnx").write_bytes(body)
        np.save(tmp_path / "window.npy", window)
        done = subprocess.run([python, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True)
        assert done.stdout.startswith("1.23")
        return np.load(tmp_path / "features.npy")

    return run


def write_spheres(raw: Path, cases: int) -> Path:
    """Write a dataset of noisy two-part spheres, 20 to 24 voxels wide, stored in RAS."""
    import SimpleITK

    folder = raw / "Dataset901_Spheres"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    random = np.random.default_rng(0)
    for number in range(cases):
        shape = 20 + random.integers(0, 5, size=3)
        grid = np.indices(shape) - (shape / 2)[:, None, None, None]
        inside = (grid**2).sum(0) < 6.5**2
        label = np.where(inside, np.where(grid[1] > 0, 1, 2), 0).astype(np.uint8)
        image = (100 * label + random.normal(0, 20, size=shape) + 200).astype(np.float32)
        for array, path in (
            (image, folder / "imagesTr" / f"case_{number:02d}_0000.nii.gz"),
            (label, folder / "labelsTr" / f"case_{number:02d}.nii.gz"),
        ):
            written = SimpleITK.GetImageFromArray(array)
            written.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
            SimpleITK.WriteImage(written, str(path))
    (folder / "dataset.json").write_text(json.dumps({**DATASET_JSON, "numTraining": cases}))
    return folder


@pytest.fixture
def spheres(tmp_path):
    """A fresh raw dataset of six cases; its folder."""
    return write_spheres(tmp_path / "raw", 6)


@pytest.fixture(scope="session")
def session_raw(tmp_path_factory):
    """Raw folder with the dataset that all training tests share; leave it as it is."""
    raw = tmp_path_factory.mktemp("raw")
    write_spheres(raw, 6)
    return raw


@pytest.fixture(scope="session")
def prepared_spheres(session_raw, tmp_path_factory):
    """A workspace whose dataset is prepared by stock nnU-Net."""
    from distillation.launch import Workspace
    from support.tiny_training import prepare_spheres

    space = Workspace.below(tmp_path_factory.mktemp("work"), session_raw)
    prepare_spheres(space)
    return space


@pytest.fixture
def everything_in_this_process(monkeypatch):
    """Worker processes would seed themselves; without them a resumed run sees the same batches."""
    from nnunetv2.training.logging.nnunet_logger import LocalLogger

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)  # most of the time of a run this short


RECIPE = """
dataset: {name: Dataset901_Spheres, title: Generated spheres, planner: ExperimentPlanner, fold: 0}
training: {iterations_per_epoch: 3, validation_iterations: 1, batch_size: 2, seed: 7, precision: float32}
teacher: {epochs: 2}
methods: {logit: {logit: {temperature: 2.0, weight: 1.0}}}
students:
  - {size: x1/2, epochs: 2, methods: [plain, logit]}
pack:
  version: 0.1.0
  task: spheres
  title: Spheres
  modality: MR
  body_part: BRAIN
  method: logit
  labels:
    - value: 1
      name: Front
      color: [255, 0, 0]
      terminology: &thing
        category: {scheme: SCT, value: "123037004", meaning: Anatomical Structure}
        type: {scheme: SCT, value: "5366008", meaning: Hippocampus}
    - {value: 2, name: Back, color: [0, 255, 0], terminology: *thing}
  data: {license: CC0-1.0, text: Generated.}
  weights: {license: CC0-1.0, text: Generated.}
  intended_use: Tests.
  limits: Nothing else.
"""


LOGIT = {"logit": {"weight": 0.5, "ramp": 0.0, "temperature": 2.0, "deep_supervision": False}}


@pytest.fixture(scope="session")
def distillation():
    """A function that returns settings of a distillation: distillation(teacher folder, method, losses, folds=...)."""
    from distillation.training_settings import DistillationSettings, TeacherSettings

    def settings(folder, method="logit", losses=LOGIT, folds=(0,), **teacher):
        teacher = TeacherSettings(folder=str(folder), folds=folds, **teacher)
        return DistillationSettings(method=method, teacher=teacher, losses=losses)

    return settings


@pytest.fixture
def recipe_text():
    return RECIPE


@pytest.fixture
def recipe(tmp_path):
    from distillation.recipe_file import read_recipe

    path = tmp_path / "spheres.yaml"
    path.write_text(RECIPE)
    return read_recipe(str(path))


@pytest.fixture
def teacher_pack(plans, model_folder, spheres, recipe, tmp_path):
    """The spheres' teacher, with random weights, as a pack; the first two cases are held out."""
    from distillation.dataset import read_dataset
    from distillation.export import export_pack
    from distillation.teacher import load_model_folder

    dataset = read_dataset(spheres)
    return export_pack(
        load_model_folder(model_folder(plans()), 0),
        size="x1",
        teacher=None,
        recipe=recipe.pack,
        dataset=dataset,
        into=tmp_path / "packs",
        held_out=[case.name for case in dataset.cases[:2]],
    ).pack
