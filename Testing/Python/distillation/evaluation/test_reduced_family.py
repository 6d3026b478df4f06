"""Which reduced precisions get into a pack: with engines that are made to pass and to fail, and with a real one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

import distillation.evaluation.family as family
import distillation.evaluation.scores as scores_module
from distillation.dataset import RawDataset, read_dataset
from distillation.evaluation.family import FamilyResult, Member, evaluate_family
from distillation.evaluation.reduced_precision import INT8_BODY_NAME, LARGEST_LOSS
from distillation.evaluation.scores import ReducedEngine
from distillation.export.network import split_network
from distillation.export.quantization import to_int8_onnx
from distillation.export.samples import calibration_windows
from distillation.teacher import load_model_folder
from KDSegmentatorLib.analysis.surface_distance import ABSENT, Agreement
from KDSegmentatorLib.engines.onnx_runtime import OnnxRuntimeEngine
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.errors import EngineError, PackError
from KDSegmentatorLib.options import RunOptions
from KDSegmentatorLib.packs.manifest import ReducedFormat, ReducedPrecision
from KDSegmentatorLib.packs.pack import StudentPack, open_pack, verify_pack

MISSING = "this processor has no instructions for it"


@pytest.fixture
def dataset(spheres: Path) -> RawDataset:
    return read_dataset(spheres)


@dataclass
class Altered:
    """The exact network, whose features are multiplied; with 0 everything gets one label."""

    exact: OnnxRuntimeEngine
    precision: ReducedFormat
    factor: float
    name = "altered"
    device = "cpu"

    def run(self, windows: npt.NDArray[np.float32], cancelled: Callable[[], bool]) -> npt.NDArray[np.float32]:
        if np.isnan(self.factor):
            raise EngineError("it broke down")
        features: npt.NDArray[np.float32] = self.exact.run(windows, cancelled) * np.float32(self.factor)
        return features


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[ReducedFormat, float]], None]:
    """A function that makes up a machine: the precisions it has, and by what they multiply the features."""

    def make(factors: Mapping[ReducedFormat, float]) -> None:
        def engine(pack: StudentPack, precision: ReducedFormat, body: bytes, threads: int | None) -> ReducedEngine:
            altered = Altered(OnnxRuntimeEngine(pack.body(), threads=1), precision, factors[precision])
            digest = f"{len(body)} {factors[precision]}"
            return ReducedEngine(engine=altered, precision=precision, body_sha256=digest, probe_agreement=0.99)

        monkeypatch.setattr(family, "missing_for", lambda precision: None if precision in factors else MISSING)
        monkeypatch.setattr(family, "reduced_engine", engine)

    return make


def evaluated(
    pack: StudentPack, dataset: RawDataset, *, int8: bytes | None = None, mirroring: bool = False
) -> tuple[FamilyResult, StudentPack]:
    """Evaluate the pack on its held-out cases; return the result and the pack as it is then."""
    result = evaluate_family(
        [Member(pack=pack, int8_body=int8)],
        dataset.cases[:2],
        dataset="Generated spheres",
        split="two cases",
        into=pack.folder.parent.parent / "evaluation",
        mirroring=mirroring,
        threads=1,
    )
    after = open_pack(pack.folder)
    verify_pack(after)
    return result, after


def precisions(pack: StudentPack) -> list[tuple[str, str]]:
    return [(each.precision, each.body) for each in pack.manifest.network.reduced_precisions]


def notes(pack: StudentPack) -> list[str]:
    found: list[str] = json.loads((pack.folder.parent.parent / "evaluation" / "evaluation.json").read_text())["notes"]
    return found


def test_what_loses_nothing_is_recorded_with_its_numbers(
    teacher_pack: StudentPack, dataset: RawDataset, machine: Callable[..., None]
) -> None:
    machine({"bfloat16": 1.0, "int8": 1.0})
    body = teacher_pack.body()
    result, after = evaluated(teacher_pack, dataset, int8=body)
    assert [(each.precision, each.accepted) for each in result.reduced] == [("bfloat16", True), ("int8", True)]
    assert precisions(after) == [("bfloat16", "body.onnx"), ("int8", INT8_BODY_NAME)]
    assert after.reduced("int8") == ReducedPrecision(
        precision="int8", body=INT8_BODY_NAME, mean_dice_loss=0.0, largest_dice_loss=0.0, cases=2, probe_agreement=0.99
    )
    assert after.body("int8") == body
    assert after.manifest.evaluation is not None
    table = result.table.splitlines()
    row = next(line for line in table if line.startswith("| x1 teacher | int8 |"))
    assert row.startswith("| x1 teacher | int8 | +0.0000 | +0.0000 | +0.0000 | 99.00% |")
    assert row.endswith("| accepted |")
    with (after.folder.parent.parent / "evaluation" / "scores.csv").open() as file:
        counts = [row["precision"] for row in csv.DictReader(file)]
    assert {name: counts.count(name) for name in counts} == {"float32": 4, "bfloat16": 4, "int8": 4}


def test_what_loses_too_much_is_left_out_and_removed(
    teacher_pack: StudentPack, dataset: RawDataset, machine: Callable[..., None]
) -> None:
    machine({"bfloat16": 1.0, "int8": 1.0})
    _, before = evaluated(teacher_pack, dataset, int8=teacher_pack.body())
    machine({"bfloat16": 1.0, "int8": 0.0})
    result, after = evaluated(before, dataset, int8=teacher_pack.body())
    refused = result.reduced[1]
    assert refused.largest_loss > LARGEST_LOSS["int8"]
    assert not refused.accepted
    assert "| refused |" in result.table
    assert precisions(after) == [("bfloat16", "body.onnx")]
    assert not (after.folder / INT8_BODY_NAME).exists()
    with pytest.raises(PackError, match="has no int8 network"):
        after.body("int8")
    content = json.loads((after.folder.parent.parent / "evaluation" / "evaluation.json").read_text())
    assert [each["accepted"] for each in content["reduced_precisions"]] == [True, False]


def test_a_new_int8_network_takes_the_place_of_the_old_one(
    teacher_pack: StudentPack, dataset: RawDataset, machine: Callable[..., None]
) -> None:
    machine({"int8": 1.0})
    old = teacher_pack.body()
    new = old + b"\x1a\x03new"  # a model's producer, given once more
    _, before = evaluated(teacher_pack, dataset, int8=old)
    _, after = evaluated(before, dataset, int8=new)
    assert after.body("int8") == new


def test_without_the_instructions_nothing_is_claimed(
    teacher_pack: StudentPack, dataset: RawDataset, machine: Callable[..., None]
) -> None:
    machine({"int8": 1.0})
    result, after = evaluated(teacher_pack, dataset, int8=teacher_pack.body())
    assert precisions(after) == [("int8", INT8_BODY_NAME)]
    assert [each.precision for each in result.reduced] == ["int8"]
    said = f"bfloat16 was not measured: {MISSING}."
    assert said in result.table
    assert notes(after) == [said]


def test_what_another_machine_measured_stays(
    teacher_pack: StudentPack, dataset: RawDataset, machine: Callable[..., None]
) -> None:
    machine({"bfloat16": 1.0, "int8": 1.0})
    _, before = evaluated(teacher_pack, dataset, int8=teacher_pack.body())
    machine({})
    result, after = evaluated(before, dataset)
    assert result.reduced == ()
    assert len(notes(after)) == 2
    assert after.manifest.network == before.manifest.network
    assert after.body("int8") == teacher_pack.body()


def test_an_engine_that_fails_costs_its_own_precision_only(
    teacher_pack: StudentPack, dataset: RawDataset, machine: Callable[..., None]
) -> None:
    machine({"bfloat16": 1.0, "int8": 1.0})
    _, before = evaluated(teacher_pack, dataset, int8=teacher_pack.body())
    machine({"bfloat16": 1.0, "int8": np.nan})
    result, after = evaluated(before, dataset, int8=teacher_pack.body())
    assert [each.precision for each in result.reduced] == ["bfloat16"]
    assert notes(after) == ["x1 teacher was refused in int8: it broke down."]
    assert precisions(after) == [("bfloat16", "body.onnx")]
    assert after.manifest.evaluation is not None


def test_mirrored_runs_are_of_float32_only(
    teacher_pack: StudentPack, dataset: RawDataset, machine: Callable[..., None]
) -> None:
    machine({"bfloat16": 0.0, "int8": 0.0})
    result, after = evaluated(teacher_pack, dataset, int8=teacher_pack.body(), mirroring=True)
    assert result.reduced == ()
    assert after.manifest == teacher_pack.manifest


def test_finished_cases_are_not_run_again_in_any_precision(
    teacher_pack: StudentPack, dataset: RawDataset, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine({"bfloat16": 1.0, "int8": 1.0})
    first, after = evaluated(teacher_pack, dataset, int8=teacher_pack.body())

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("segmented again")

    monkeypatch.setattr(scores_module, "segment", forbidden)
    again, _ = evaluated(after, dataset, int8=teacher_pack.body())
    assert again == first
    with pytest.raises(AssertionError, match="segmented again"):  # another network is another thing
        evaluated(after, dataset, int8=teacher_pack.body() + b"\x1a\x03new")


def test_a_label_that_no_case_has_is_not_accepted_unmeasured(
    teacher_pack: StudentPack, dataset: RawDataset, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine({"int8": 1.0})
    present = Agreement(first_voxels=9, second_voxels=9, dice=0.9, nsd=0.9, hd95_mm=1.0)
    monkeypatch.setattr(scores_module, "surface_agreement", lambda *volumes, **options: {1: present, 2: ABSENT})
    result, after = evaluated(teacher_pack, dataset, int8=teacher_pack.body())
    assert "| x1 teacher | int8 | +0.0000 | +0.0000 | - |" in result.table
    assert precisions(after) == []


def test_a_real_int8_network_on_both_sides_of_the_limit(
    teacher_pack: StudentPack, dataset: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf", reason="install the extra 'distill'")
    pytest.importorskip("openvino", reason="OpenVINO runs int8")
    model = load_model_folder(tmp_path / "teacher", 0)
    body = to_int8_onnx(
        split_network(model.network).body,
        channels=1,
        patch_size=(16, 16, 16),
        windows=calibration_windows(model, dataset.cases[2:], 4),
    )
    monkeypatch.setitem(LARGEST_LOSS, "int8", 0.2)
    result, after = evaluated(teacher_pack, dataset, int8=body)
    measured = next(each for each in result.reduced if each.precision == "int8")
    assert 0.9 < measured.probe_agreement < 1
    assert 0 < abs(measured.mean_loss) < 0.1
    assert after.reduced("int8") == measured.to_manifest(INT8_BODY_NAME)
    assert after.body("int8") == body

    request = RunOptions(engine="openvino", precision="int8", device="cpu", threads=1)
    chosen = choose_engine(after, request, cache=tmp_path / "cache")  # checks itself with the probe
    assert chosen.engine.precision == "int8"

    monkeypatch.setitem(LARGEST_LOSS, "int8", measured.largest_loss - 1e-6)
    result, after = evaluated(after, dataset, int8=body)
    assert "int8" not in [precision for precision, _ in precisions(after)]
    assert not (after.folder / INT8_BODY_NAME).exists()
