"""A bundle against stock nnU-Net and our own pipeline, run as its users run it: ``python -m monai.bundle run``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")
pytest.importorskip("monai", reason="install the extra 'distill'")
pytest.importorskip("fire", reason="install the extra 'distill'")

import torch

import distillation.export.monai_bundle as module
from distillation.export.monai_bundle import export_bundle
from distillation.recipe import Recipe
from distillation.recipe_file import read_recipe
from distillation.teacher import load_model_folder
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.pack import open_pack
from support.other_programs import run_bundle, stock

ROOT = Path(__file__).parents[4]


PLAIN, RESIDUAL = (
    f"dynamic_network_architectures.architectures.unet.{name}UNet" for name in ("PlainConv", "ResidualEncoder")
)


@pytest.fixture
def architecture() -> str:
    return PLAIN


@pytest.fixture
def bundle(
    plans: Callable[..., Any], model_folder: Callable[..., Path], architecture: str, recipe: Recipe, tmp_path: Path
) -> Path:
    """The bundle of a network with random weights; its nnU-Net folder is ``teacher``."""
    model = load_model_folder(model_folder(plans(architecture)), 0)
    return export_bundle(model, size="x1", axis_codes="RAS", recipe=recipe.pack, into=tmp_path / "bundles")


def first_images(raw: Path, into: Path, count: int) -> Path:
    into.mkdir()
    for path in sorted((raw / "imagesTr").iterdir())[:count]:
        shutil.copy(path, into)
    return into


@pytest.mark.parametrize(("architecture", "mirroring"), [(PLAIN, False), (RESIDUAL, True)])
def test_the_bundle_gives_the_voxels_of_stock_nnunet(
    bundle: Path, spheres: Path, tmp_path: Path, mirroring: bool
) -> None:
    images = first_images(spheres, tmp_path / "images", 2)
    run_bundle(bundle, images, tmp_path / "bundled", "--use_mirroring", str(mirroring))
    stock(tmp_path / "teacher", images, tmp_path / "stock", mirroring=mirroring)
    names = [path.name for path in sorted((tmp_path / "stock").glob("case_*"))]
    assert names == ["case_00.nii.gz", "case_01.nii.gz"]
    for name in names:
        found, expected = (read_volume(tmp_path / where / name) for where in ("bundled", "stock"))
        assert found.same_grid(expected)
        np.testing.assert_array_equal(found.voxels, expected.voxels)


def test_mirroring_is_not_without_effect(bundle: Path, spheres: Path, tmp_path: Path) -> None:
    """Otherwise the test above would not show that the option arrives."""
    images = first_images(spheres, tmp_path / "images", 1)
    for mirroring in (False, True):
        stock(tmp_path / "teacher", images, tmp_path / str(mirroring), mirroring=mirroring)
    found = [read_volume(tmp_path / str(mirroring) / "case_00.nii.gz").voxels for mirroring in (False, True)]
    assert (found[0] != found[1]).any()


def test_a_real_case_has_the_voxels_of_our_pipeline(tmp_path: Path) -> None:
    data = os.environ.get("KDSEG_DATA")
    if not data:
        pytest.skip("set KDSEG_DATA to a folder with Dataset004_Hippocampus and others")
    folder = Path(data) / "teacher_hippocampus"
    if not folder.is_dir():
        pytest.skip("KDSEG_DATA holds no teacher_hippocampus, a trained nnU-Net model folder")
    model = load_model_folder(folder, 0)
    recipe = read_recipe("hippocampus").pack
    bundle = export_bundle(model, size="x1", axis_codes="RAS", recipe=recipe, into=tmp_path)
    images = first_images(Path(data) / "Dataset004_Hippocampus", tmp_path / "images", 2)
    run_bundle(bundle, images, tmp_path / "bundled")
    pack = open_pack(ROOT / "Resources" / "Packs" / "hippocampus-x1")
    assert pack.manifest.provenance.checkpoint_sha256 == model.sha256
    engine = choose_engine(pack, RunOptions(precision="float32", threads=1)).engine
    for path in sorted(images.iterdir()):
        ours = segment(read_volume(path), pack, engine).volume
        found = read_volume(tmp_path / "bundled" / path.name.replace("_0000", ""))
        assert found.same_grid(ours)
        np.testing.assert_array_equal(found.voxels, ours.voxels)
        assert len(np.unique(found.voxels)) == 3


def test_the_bundle_says_what_it_is(bundle: Path, recipe: Recipe, tmp_path: Path) -> None:
    content = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    model = load_model_folder(tmp_path / "teacher", 0)
    assert content["checkpoint_sha256"] == model.sha256
    assert content["axis_codes"] == "RAS"
    outputs = content["network_data_format"]["outputs"]["pred"]
    assert outputs["channel_def"] == {"0": "background", "1": "Front", "2": "Back"}
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert all(part in text for part in (recipe.pack.limits, recipe.pack.weights.license, "axis order RAS"))
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert weights.keys() == model.network.state_dict().keys()


def test_a_failed_export_leaves_the_earlier_bundle(
    bundle: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(ExportError, match=r"cannot write the bundle.*No space left.*free some space"):
        model = load_model_folder(tmp_path / "teacher", 0)
        export_bundle(model, size="x1", axis_codes="RAS", recipe=recipe.pack, into=tmp_path / "bundles")
    assert {path.name: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]
