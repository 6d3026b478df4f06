from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import distillation.evaluation.scores as module
from distillation.cli import main
from distillation.evaluation.outside_cases import read_outside_cases
from distillation.evaluation.scores import WholeScans, read_scores, score_pack
from distillation.report.validation import validation_page
from KDSegmentatorLib.errors import InvalidSettingsError, TrainingError
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.packs.pack import StudentPack, open_pack
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Segmenter
from support.chained_packs import after_earlier, install_earlier, install_later


@pytest.fixture
def outside(spheres: Path, tmp_path: Path) -> Path:
    """Three of the spheres under other names, without a dataset.json."""
    folder = tmp_path / "hospital"
    for kind, suffix in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
        (folder / f"{kind}Ts").mkdir(parents=True)
        for number in range(3):
            source = spheres / f"{kind}Tr" / f"case_{number:02d}{suffix}"
            shutil.copy(source, folder / f"{kind}Ts" / f"patient_{number}{suffix}")
    return folder


def test_cases_are_found_in_nnunets_layout(outside: Path, teacher_pack: StudentPack) -> None:
    found = read_outside_cases(outside, teacher_pack.manifest.labels)
    assert (found.name, found.labels) == ("hospital", (1, 2))
    assert [case.name for case in found.cases] == ["patient_0", "patient_1", "patient_2"]


def test_only_labels_that_the_references_have_are_scored(outside: Path, teacher_pack: StudentPack) -> None:
    labels = {"background": 0, "other": 1, "BACK": 2}
    (outside / "dataset.json").write_text(json.dumps({"name": "Hospital A", "labels": labels}))
    found = read_outside_cases(outside, teacher_pack.manifest.labels)
    assert (found.name, found.labels) == ("Hospital A", (2,))


def test_what_does_not_fit_is_named(outside: Path, teacher_pack: StudentPack) -> None:
    labels = teacher_pack.manifest.labels

    def refused(message: str) -> None:
        with pytest.raises(TrainingError, match=message):
            read_outside_cases(outside, labels)

    description = outside / "dataset.json"
    description.write_text(json.dumps({"labels": {"background": 0, "Front": 2, "Back": 1}}))
    refused("gives 'Front' the value 2, the packs give it 1")
    description.write_text(json.dumps({"labels": {"background": 0, "liver": 1, "kidney": 2}}))
    refused(r"has no label of the packs \(Front, Back")
    description.write_text("{")
    refused("cannot be read")
    description.unlink()
    with pytest.raises(TrainingError, match=r"patient_0.* has the values \[2\]"):
        read_outside_cases(outside, labels[:1])
    image = outside / "imagesTs" / "patient_1_0000.nii.gz"
    content = image.read_bytes()
    shutil.copy(outside / "imagesTs" / "patient_2_0000.nii.gz", image)
    refused("patient_1.* is not on the grid of")
    image.unlink()
    refused("patient_1_0000.nii.gz is missing")
    image.write_bytes(content)
    shutil.rmtree(outside / "labelsTs")
    refused("holds neither imagesTs and labelsTs nor")


def test_the_command_leaves_the_packs_and_the_held_out_tables_alone(
    outside: Path,
    teacher_pack: StudentPack,
    recipe_text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, work = tmp_path / "spheres.yaml", tmp_path / "work"
    path.write_text(recipe_text)
    command = ["evaluate", str(path), "--workspace", str(work), "--raw", str(tmp_path / "raw")]
    command += ["--packs", str(teacher_pack.folder.parent), "--test", str(outside), "--threads", "1"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "### hospital: cases from outside, which no network was trained on" in out
    assert "n = 3 cases" in out
    assert open_pack(teacher_pack.folder).manifest_sha256 == teacher_pack.manifest_sha256
    assert not (work / "evaluation").exists()
    scores = read_scores(work / "tests" / "hospital" / "scores.csv")
    assert {score.case for score in scores} == {"patient_0", "patient_1", "patient_2"}
    shutil.copytree(work / "tests" / "hospital", work / "evaluation")
    held_out = work / "evaluation" / "evaluation.json"
    held_out.write_text(held_out.read_text().replace("Spheres: hospital", "Spheres"))
    page = validation_page([work])
    assert "## Spheres\n" in page
    assert "## Spheres: hospital\n" in page


def test_whole_scans_go_through_the_pack_of_the_region_once(
    outside: Path, teacher_pack: StudentPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user's do: the result is the Segmenter's."""
    store = PackStore(tmp_path / "user", tmp_path / "shipped")
    install_earlier(store, tmp_path)
    region = after_earlier(margin_mm=1.0)
    cases = read_outside_cases(outside, teacher_pack.manifest.labels).cases
    with pytest.raises(InvalidSettingsError, match="sees whole scans itself; leave --whole out"):
        WholeScans(teacher_pack, store=store)
    later = install_later(store, tmp_path, region=region)
    whole = WholeScans(later, store=store, threads=1)
    calls: list[str] = []
    original = module.find_region
    monkeypatch.setattr(module, "find_region", lambda *a, **o: (calls.append("found"), original(*a, **o))[1])
    found = score_pack(later, "m", cases, [], whole=whole, threads=1)
    again = score_pack(later, "other", cases, [], whole=whole, threads=1)
    assert len(calls) == 3
    assert [row.predicted_voxels for row in found] == [row.predicted_voxels for row in again]
    segmentation = Segmenter("inside", "x1/4", store=store, threads=1)(read_volume(cases[0].image))
    expected = [int((segmentation.volume.voxels == value).sum()) for value in (1, 2, 3)]
    assert [row.predicted_voxels for row in found[:3]] == expected
    given = score_pack(later, "m", cases, found, threads=1)
    assert {row.pack_hash for row in given}.isdisjoint(row.pack_hash for row in found)
