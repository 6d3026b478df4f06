"""A recipe in one go: real tiny trainings, then what is skipped, gone on with, refused and made again."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from multiprocessing import dummy
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")
pytest.importorskip("matplotlib", reason="install the extra 'distill'")

import numpy as np
from nnunetv2.experiment_planning import verify_dataset_integrity
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.preprocessing.preprocessors import default_preprocessor
from nnunetv2.training.logging.nnunet_logger import LocalLogger

import distillation.evaluation.family as family
from distillation.cli import main
from distillation.evaluations import Evaluations
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.pack import open_pack
from support.other_programs import run_bundle, stock

pytestmark = pytest.mark.training

OPTIONS = ["--calibration-windows", "0", "--threads", "1"]

SMALLER = {
    "fold: 0}": "fold: 0, maximum_features: 16, memory_target_gb: 0.05}",
    "iterations_per_epoch: 3": "iterations_per_epoch: 1",
    "teacher: {epochs: 2}": "teacher: {epochs: 1}",
    "epochs: 2, methods": "epochs: 1, methods",
}
"""What makes the generated recipe's trainings as short as they can be."""


def with_fewer_samples(original: Callable[..., None]) -> Callable[..., None]:
    """Stock nnU-Net draws a hundred million intensities, however small the dataset is."""

    def init(self: DatasetFingerprintExtractor, *arguments: object, **options: object) -> None:
        original(self, *arguments, **options)
        self.num_foreground_voxels_for_intensitystats = 10_000

    return init


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillation.prepare._processes", lambda: 1)
    original = DatasetFingerprintExtractor.__init__
    monkeypatch.setattr(DatasetFingerprintExtractor, "__init__", with_fewer_samples(original))
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", dummy.Pool)  # a dozen processes for a few file names
    for user in (verify_dataset_integrity, fingerprint_extractor, default_preprocessor):
        # each of its processes would import torch anew
        monkeypatch.setattr(user, "multiprocessing", SimpleNamespace(get_context=lambda _: dummy))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)  # most of the time of a run this short
    monkeypatch.setattr(family, "missing_for", lambda precision: "not in this test")


@pytest.fixture
def command(recipe_text: str, spheres: Path, tmp_path: Path, small: None) -> list[str]:
    for text, smaller in SMALLER.items():
        assert text in recipe_text
        recipe_text = recipe_text.replace(text, smaller)
    (tmp_path / "spheres.yaml").write_text(recipe_text)
    return ["run", str(tmp_path / "spheres.yaml"), "--workspace", str(tmp_path / "work"), "--raw", str(spheres.parent)]


def states(text: str) -> dict[str, str]:
    """Return what a dry run says of every step."""
    return {line.partition(": ")[0]: line.partition(": ")[2].partition(";")[0] for line in text.splitlines()}


def test_a_recipe_from_dataset_to_report(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dry = [*command, *OPTIONS, "--dry-run"]
    assert main(dry) == 0
    said = states(capsys.readouterr().out)
    names = ["prepare", "teacher", "student x1/2 plain", "student x1/2 logit", "evaluate", "export", "report"]
    assert list(said) == names
    assert set(said.values()) == {"to do"}
    assert not (tmp_path / "work").exists()  # a dry run leaves nothing

    _check_preparation(command, tmp_path, capsys)

    # broken off in the middle of the evaluation
    original = Evaluations.measure_efficiency

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Evaluations, "measure_efficiency", interrupted)
    assert main([*command, *OPTIONS]) == 130
    out = capsys.readouterr().out
    assert "[1/7] prepare: nothing changed since it was done; skipped" in out
    assert "[2/7] teacher: time known after its first epoch or case, " in out
    assert "[5/7] evaluate" in out
    monkeypatch.setattr(Evaluations, "measure_efficiency", original)
    assert main(dry) == 0
    said = states(capsys.readouterr().out)
    assert [said[name] for name in names[:4]] == ["done"] * 4
    assert said["evaluate"] == "broken off, goes on"

    assert main([*command, *OPTIONS, "--bundles", str(tmp_path / "bundles")]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"nothing changed since it was done; skipped", out)) == 4
    work = tmp_path / "work"
    assert sorted(path.name for path in (work / "family").iterdir()) == ["spheres-x1", "spheres-x1_2"]
    assert sorted(path.name for path in (tmp_path / "bundles").iterdir()) == ["spheres-x1-monai", "spheres-x1_2-monai"]
    _check_report(work / "report")
    _check_that_the_student_loads_everywhere(tmp_path)

    # nothing is done again, and touched files are the same files
    for path in (tmp_path / "raw").rglob("*.nii.gz"):
        os.utime(path, ns=(0, 0))
    assert main([*command, *OPTIONS, "--bundles", str(tmp_path / "bundles")]) == 0
    assert len(re.findall("skipped", capsys.readouterr().out)) == 7

    _check_changes(command, tmp_path, capsys)


def _check_preparation(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed dataset is prepared again as long as nothing was trained on it."""
    assert main([*command, "--stage", "prepare"]) == 0
    folder = tmp_path / "work" / "preprocessed" / "Dataset901_Spheres"
    splits = (folder / "splits_final.json").read_bytes()
    image = tmp_path / "raw" / "Dataset901_Spheres" / "imagesTr" / "case_00_0000.nii.gz"
    (folder / "left-over").mkdir()
    shutil.copy(image.with_name("case_02_0000.nii.gz"), image)
    shutil.copy(*(image.parents[1] / "labelsTr" / f"case_0{n}.nii.gz" for n in (2, 0)))
    assert main([*command, "--stage", "prepare", "--dry-run"]) == 0
    assert "prepare: to do; " in capsys.readouterr().out
    assert main([*command, "--stage", "prepare"]) == 0
    assert not (folder / "left-over").exists()
    assert (folder / "splits_final.json").read_bytes() == splits
    capsys.readouterr()


def _check_report(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) == 5
    assert all(source.startswith("data:image/") for source in sources)
    for part in ("Table 1.", "Table 1b.", "Table 2.", "Table 3a.", "Table 3c.", "CC0-1.0", "Checkpoint", "x1/2 logit"):
        assert part in text, part
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for picture in re.findall(r"\]\((figures/[^)]*)\)", markdown):
        assert (folder / picture).is_file()
    assert "not tested: n = 2 cases is too small for a test" in markdown


def _check_that_the_student_loads_everywhere(tmp_path: Path) -> None:
    """One trained and distilled student, from image to labels: stock nnU-Net, the MONAI bundle and the pack agree."""
    images = tmp_path / "images"
    images.mkdir()
    image = tmp_path / "raw" / "Dataset901_Spheres" / "imagesTr" / "case_03_0000.nii.gz"
    shutil.copy(image, images)
    results = tmp_path / "work" / "results" / "Dataset901_Spheres"
    (student,) = (path for path in results.iterdir() if "_x1_2_logit_" in path.name)
    stock(student, images, tmp_path / "stock")
    run_bundle(tmp_path / "bundles" / "spheres-x1_2-monai", images, tmp_path / "bundled", "--use_mirroring", "False")
    expected, bundled = (read_volume(tmp_path / where / "case_03.nii.gz") for where in ("stock", "bundled"))
    assert bundled.same_grid(expected)
    np.testing.assert_array_equal(bundled.voxels, expected.voxels)
    pack = open_pack(tmp_path / "work" / "family" / "spheres-x1_2")
    engine = choose_engine(pack, RunOptions(precision="float32", threads=1)).engine
    ours = segment(read_volume(image), pack, engine).volume
    assert ours.same_grid(expected)
    assert np.mean(ours.voxels == expected.voxels) > 0.995  # the pack's weights are float16
    assert len(np.unique(expected.voxels)) > 1


def _check_changes(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, work = tmp_path / "spheres.yaml", tmp_path / "work"
    before = recipe.read_text()

    # a missing output is made again, and only that
    shutil.rmtree(work / "report")
    assert main([*command, *OPTIONS, "--stage", "evaluate-report", "--bundles", str(tmp_path / "bundles")]) == 0
    out = capsys.readouterr().out
    assert out.count("skipped") == 2
    assert (work / "report" / "report.html").is_file()

    # trainings are not thrown away for another recipe
    recipe.write_text(before.replace("weight: 1.0", "weight: 0.5"))
    assert main([*command, *OPTIONS, "--stage", "students"]) == 2
    message = capsys.readouterr().err
    assert re.search(r"x1_2_logit__3d_fullres was trained with other settings than the recipe's", message)
    assert "remove or rename" in message
    folder = next(path for path in (work / "results" / "Dataset901_Spheres").iterdir() if "logit" in path.name)
    folder.rename(tmp_path / "earlier")
    assert main([*command, *OPTIONS, "--stage", "students"]) == 0
    assert folder.is_dir()
    capsys.readouterr()

    # nor for another dataset
    recipe.write_text(before)
    label = tmp_path / "raw" / "Dataset901_Spheres" / "labelsTr" / "case_00.nii.gz"
    shutil.copy(label.with_name("case_01.nii.gz"), tmp_path / "other.nii.gz")
    content = label.read_bytes()
    label.write_bytes((tmp_path / "other.nii.gz").read_bytes())
    assert main([*command, *OPTIONS, "--stage", "prepare"]) == 2
    assert "changed since then: labelsTr/case_00.nii.gz. Networks were trained" in capsys.readouterr().err
    label.write_bytes(content)
    assert main([*command, *OPTIONS, "--stage", "prepare"]) == 0
    assert "skipped" in capsys.readouterr().out
