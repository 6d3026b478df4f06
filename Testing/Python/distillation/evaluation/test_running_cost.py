from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")

from distillation.dataset import read_dataset
from distillation.evaluation.efficiency import measure_family, read_efficiency, write_efficiency
from distillation.evaluation.running_cost import running_cost
from distillation.network_cost import network_cost
from distillation.plans import read_plans, resolve_configuration
from KDSegmentatorLib.errors import ExportError
from KDSegmentatorLib.packs.pack import StudentPack


def test_a_family_is_measured_and_kept(teacher_pack: StudentPack, spheres: Path, tmp_path: Path) -> None:
    cases = read_dataset(spheres).cases[:3]
    configuration = resolve_configuration(read_plans(tmp_path / "teacher" / "plans.json"), "3d_fullres")
    (row,) = measure_family([(teacher_pack, configuration)], cases, threads=1)
    cost = network_cost(configuration, channels=1, labels=3)
    assert row.model == "x1 teacher"
    assert (row.parameters, row.flops, row.paper_flops) == (cost.parameters, cost.flops, cost.paper_flops)
    assert row.running.rounds == 3
    assert row.running.seconds > 0
    # Python with numpy, SimpleITK and an engine, but no torch, whose import alone takes over 300 MB more
    assert row.running.peak_bytes is None or 50e6 < row.running.peak_bytes < 450e6
    path = tmp_path / "evaluation" / "efficiency.json"
    write_efficiency(path, [row])
    assert read_efficiency(path) == [row]
    path.write_text('[{"model": "x"}]')
    with pytest.raises(ExportError, match="not a table of costs"):
        read_efficiency(path)
    assert read_efficiency(tmp_path / "nowhere.json") == []


def test_a_run_that_fails_says_why(teacher_pack: StudentPack, spheres: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"run of spheres-x1 on .*missing\.nii\.gz could not be measured:.*no such file"
    ):
        running_cost(teacher_pack, tmp_path / "missing.nii.gz")
    damaged = replace(teacher_pack, folder=tmp_path)
    with pytest.raises(ExportError, match=r"could not be measured: .*manifest\.json"):
        running_cost(damaged, read_dataset(spheres).cases[0].image)
