import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import distillation.evaluation.family as family  # noqa: E402
import distillation.evaluation.scores as scores_module  # noqa: E402
from distillation.dataset import read_dataset  # noqa: E402
from distillation.evaluation.family import Member, evaluate_family  # noqa: E402
from distillation.evaluation.scores import SurfaceSettings, pack_hash, read_scores, score_pack, write_scores  # noqa: E402
from distillation.export import export_pack  # noqa: E402
from distillation.export.pack_folder import with_evaluation  # noqa: E402
from distillation.plans import student_plans  # noqa: E402
from distillation.teacher import load_model_folder  # noqa: E402
from distillation.training_settings import TrainingSettings  # noqa: E402
from KDSegmentatorLib.analysis.surface_distance import surface_agreement  # noqa: E402
from KDSegmentatorLib.engines.selection import choose_engine  # noqa: E402
from KDSegmentatorLib.errors import ExportError, InvalidSettingsError  # noqa: E402
from KDSegmentatorLib.inference.pipeline import segment  # noqa: E402
from KDSegmentatorLib.io.images import read_volume, write_volume  # noqa: E402
from KDSegmentatorLib.options import RunOptions  # noqa: E402
from KDSegmentatorLib.packs.manifest import Evaluation, Interval  # noqa: E402
from KDSegmentatorLib.packs.pack import open_pack  # noqa: E402
from support.scores import score  # noqa: E402


@pytest.fixture(autouse=True)
def float32_only(monkeypatch):
    """Reduced precisions have tests of their own; which of them this machine has shall not matter here."""
    monkeypatch.setattr(family, "missing_for", lambda precision: "not in this test")


@pytest.fixture
def dataset(spheres):
    return read_dataset(spheres)


@pytest.fixture
def members(plans, model_folder, dataset, recipe, distillation, tmp_path):
    """Teacher, plain and distilled x1/2 with random weights, as packs."""
    teacher_folder = model_folder(plans())
    teacher = load_model_folder(teacher_folder, 0)
    packs = [
        export_pack(
            teacher, size="x1", teacher=None, recipe=recipe.pack, dataset=dataset, into=tmp_path / "packs" / "teacher"
        ).pack
    ]
    for seed, method in enumerate(("plain", "logit"), start=1):
        settings = TrainingSettings(epochs=1, distillation=None if method == "plain" else distillation(teacher_folder))
        content = student_plans(plans(), "3d_fullres", alpha=0.5, name=method, settings=settings)
        student = load_model_folder(model_folder(content, name=method, seed=seed), 0)
        pack = export_pack(
            student, size="x1/2", teacher=teacher, recipe=recipe.pack, dataset=dataset, into=tmp_path / "packs" / method
        ).pack
        packs.append(pack)
    return [Member(pack=pack) for pack in packs]


def evaluate(members, dataset, into, **options):
    return evaluate_family(
        members, dataset.cases[:3], dataset="Generated spheres", split="three cases", into=into, threads=1, **options
    )


def test_a_family_is_evaluated_resumed_and_written(members, dataset, tmp_path, monkeypatch):
    into = tmp_path / "evaluation"
    seen = []
    result = evaluate(members, dataset, into, progress=lambda *state: seen.append(state[:3]))
    assert seen[:3] == [("x1 teacher", n, 3) for n in (1, 2, 3)]
    assert len(seen) == 9
    assert [model.model for model in result.models] == ["x1 teacher", "x1/2 plain", "x1/2 logit"]
    assert [(each.better, each.baseline) for each in result.comparisons] == [("x1/2 logit", "x1/2 plain")] * 3
    assert [each.metric for each in result.comparisons] == ["dice", "nsd", "hd95_mm"]

    with (into / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 3 * 2
    table = (into / "evaluation.md").read_text(encoding="utf-8")
    assert table == result.table
    assert "n = 3 cases" in table
    assert "Recovered loss" in table
    content = json.loads((into / "evaluation.json").read_text(encoding="utf-8"))
    assert [model["model"] for model in content["models"]] == [model.model for model in result.models]

    for member, model in zip(members, result.models, strict=True):
        evaluation = open_pack(member.pack.folder).manifest.evaluation
        assert evaluation.mean_dice.mean == pytest.approx(model.mean("dice"), abs=1e-6)
        assert evaluation.teacher_mean_dice == pytest.approx(result.models[0].mean("dice"), abs=1e-6)
        assert (evaluation.cases, evaluation.mirroring) == (3, False)

    # a second run, on packs whose manifests changed, segments nothing again
    def forbidden(*_, **__):
        raise AssertionError("segmented again")

    monkeypatch.setattr(scores_module, "segment", forbidden)
    again = evaluate([Member(pack=open_pack(member.pack.folder)) for member in members], dataset, into)
    assert again == result

    # mirrored results are something else, and would not overwrite the manifests
    with pytest.raises(AssertionError, match="segmented again"):
        evaluate(members, dataset, into, mirroring=True)


def test_images_of_one_subject_are_averaged_first(members, dataset, tmp_path):
    into = tmp_path / "evaluation"
    subjects = {"case_00": "a", "case_01": "a", "case_02": "c", "case_05": "a"}
    result = evaluate(members[1:], dataset, into, subjects=subjects)
    plain = result.models[0]
    dice = plain.metrics["dice"].cases
    assert plain.mean("dice") == pytest.approx(((dice["case_00"] + dice["case_01"]) / 2 + dice["case_02"]) / 2)
    assert "3 images of 2 subjects, n = 2; each mean with its 95 % interval" in result.table
    assert "then over the cases of a subject, then over subjects." in result.table
    assert "paired by case, averaged by subject;" in result.table
    assert "| HD95 (mm) | Subjects |" in result.table
    content = json.loads((into / "evaluation.json").read_text(encoding="utf-8"))
    assert content["subjects"] == {"case_00": "a", "case_01": "a", "case_02": "c"}
    assert not any("subjects" in model for model in content["models"])
    assert {each["p_value"] for each in content["comparisons"]} == {None}
    evaluation = open_pack(members[1].pack.folder).manifest.evaluation
    assert evaluation.split == "three cases (3 images of 2 subjects; means and intervals over subjects)"
    assert evaluation.cases == 3
    with pytest.raises(InvalidSettingsError, match="all 3 held-out cases are of one subject"):
        evaluate(members[1:], dataset, tmp_path / "other", subjects=dict.fromkeys(subjects, "a"))
    assert not (tmp_path / "other").exists()


def test_without_a_teacher_there_is_no_share_of_it(members, dataset, tmp_path):
    table = evaluate(members[1:], dataset, tmp_path / "students").table
    shares = [line.split("|")[-3].strip() for line in table.splitlines() if line.startswith("| x1/2")][:2]
    assert shares == ["-", "-"]
    table = evaluate(members[:1], dataset, tmp_path / "teacher").table
    teacher = next(line for line in table.splitlines() if line.startswith("| x1 teacher |"))
    assert teacher.split("|")[-3].strip() == "100.0%"


def test_an_interrupted_run_keeps_its_cases(members, dataset, tmp_path, monkeypatch):
    into = tmp_path / "evaluation"
    original, calls = scores_module.segment, []

    def interrupted(*arguments, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(scores_module, "segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(members[:1], dataset, into)
    assert {score.case for score in read_scores(into / "scores.csv")} == {"case_00", "case_01"}
    calls.clear()
    monkeypatch.setattr(scores_module, "segment", lambda *a, **o: (calls.append(1), original(*a, **o))[1])
    evaluate(members[:1], dataset, into)
    assert len(calls) == 1


def test_hash_is_of_what_changes_results(members):
    pack = members[0].pack
    interval = Interval(mean=0.5, low=0.4, high=0.6)
    evaluation = Evaluation(
        dataset="D", split="S", cases=2, mirroring=False, mean_dice=interval, labels=(), teacher_mean_dice=None
    )
    assert pack_hash(with_evaluation(pack, evaluation)) == pack_hash(pack)
    assert pack_hash(members[1].pack) != pack_hash(members[2].pack)


def test_scores_survive_the_file(tmp_path):
    rows = [
        score(mirroring=True, case="a,b", dice=1 / 3, hd95_mm=math.inf, nsd_tolerance_mm=0.1, seconds=0.5),
        score(case="c", label=2, dice=math.nan, seconds=0.25),
    ]
    path = tmp_path / "scores.csv"
    assert read_scores(path) == []
    write_scores(path, rows)
    found = read_scores(path)
    assert found[0] == rows[0]
    assert all(math.isnan(value) for value in (found[1].dice, found[1].nsd, found[1].hd95_mm))
    path.write_text("model,dice\nm,1\n")
    with pytest.raises(ExportError, match="not a table of scores"):
        read_scores(path)


def test_a_table_that_has_dice_only_is_measured_again(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("model,precision,pack_hash,mirroring,case,label,dice,seconds\nm,float32,h,False,a,1,0.5,1.0\n")
    assert read_scores(path) == []


def test_scores_are_those_of_the_surface_metrics(members, dataset):
    surface = SurfaceSettings(tolerance_mm=1.5, surface="subvoxel")
    pack, case = members[0].pack, dataset.cases[0]
    found = score_pack(pack, "x1 teacher", [case], [], surface=surface, threads=1)
    reference = read_volume(case.label)
    engine = choose_engine(pack, RunOptions(precision="float32", threads=1)).engine
    result = segment(read_volume(case.image), pack, engine).volume
    expected = surface_agreement(reference, result, (1, 2), tolerance_mm=1.5, surface="subvoxel")
    for row in found:
        agreement = expected[row.label]
        assert (row.dice, row.nsd, row.hd95_mm) == (agreement.dice, agreement.nsd, agreement.hd95_mm)
        assert (row.reference_voxels, row.predicted_voxels) == (agreement.first_voxels, agreement.second_voxels)
        assert row.diagonal_mm == pytest.approx(np.linalg.norm(np.array(reference.size) * reference.spacing))
    # another definition is another score
    again = score_pack(pack, "x1 teacher", [case], found, threads=1)
    assert [row.nsd_surface for row in again] == ["voxels", "voxels"]


@pytest.fixture
def empty_case(dataset, tmp_path):
    case = dataset.cases[0]
    reference = read_volume(case.label)
    empty = tmp_path / "empty.nii.gz"
    write_volume(reference.with_voxels(reference.voxels * 0), empty)
    return replace(case, label=empty)


def predicting(monkeypatch, voxels_of):
    """Let packs predict ``voxels_of(pack, voxels)`` instead of what their random weights do."""
    original = scores_module.segment

    def changed(image, pack, *arguments, **options):
        result = original(image, pack, *arguments, **options)
        voxels = voxels_of(pack, result.volume.voxels)
        return replace(result, volume=result.volume.with_voxels(voxels.astype(np.uint8)))

    monkeypatch.setattr(scores_module, "segment", changed)


def test_a_case_without_any_label_is_scored(members, empty_case, monkeypatch):
    def only_label_1(_, voxels):
        found = np.zeros_like(voxels)
        found[:2, :2, :2] = 1
        return found

    predicting(monkeypatch, only_label_1)
    first, second = score_pack(members[0].pack, "x1 teacher", [empty_case], [], threads=1)
    assert (first.label, first.reference_voxels, first.predicted_voxels) == (1, 0, 8)
    assert (first.dice, first.nsd, first.hd95_mm) == (0, 0, math.inf)
    assert (second.label, second.reference_voxels, second.predicted_voxels) == (2, 0, 0)
    assert all(math.isnan(value) for value in (second.dice, second.nsd, second.hd95_mm))


def test_a_family_is_compared_where_only_one_network_finds_nothing(members, dataset, empty_case, tmp_path, monkeypatch):
    def nothing_by_logit(pack, voxels):
        found = np.zeros_like(voxels)
        if pack.manifest.provenance.method != "logit" or len(seen) % 3:
            found[:2, :2, :2] = 1
        seen.append(pack)
        return found

    seen = []
    predicting(monkeypatch, nothing_by_logit)
    cases = [empty_case, *dataset.cases[1:3]]
    into = tmp_path / "evaluation"
    result = evaluate_family(members, cases, dataset="Spheres", split="three cases", into=into, threads=1)
    assert [model.case_count for model in result.models] == [3, 3, 2]
    dice = result.comparisons[0]
    assert "n = 3 cases (2 for x1/2 logit" in result.table
    teacher = next(line for line in result.table.splitlines() if line.startswith("| x1 teacher |"))
    assert teacher.split("|")[-3].strip() == "-"  # there is no share of nothing
    assert dice.difference.mean == pytest.approx(1 / 3)  # agreement against a false label, and no other difference
    json.loads(
        (into / "evaluation.json").read_text(encoding="utf-8"),
        parse_constant=lambda name: pytest.fail(f"{name} is not JSON"),
    )
