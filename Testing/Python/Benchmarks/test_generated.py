"""The generated networks: the paper's own sizes, and packs that are what an export at full size would give."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench.families import ABDOMEN_CT, BRAIN_MR, CONFIGURATION, FamilyPlan, plans

torch = pytest.importorskip("torch", reason="install the extra 'distill'")
pytest.importorskip("nnunetv2", reason="install the extra 'distill'")
pytest.importorskip("nncf", reason="install the extra 'distill'")

from distillation.export.network import split_network, to_onnx, with_stored_weights  # noqa: E402
from distillation.network_cost import network_cost  # noqa: E402
from distillation.plans import (  # noqa: E402
    alpha_of,
    resolve_configuration,
    scale_features,
)
from distillation.teacher import load_model_folder  # noqa: E402
from kdbench.arithmetic import body_flops, profile_body  # noqa: E402
from kdbench.generated import (  # noqa: E402
    make_family_member,
    make_pack_with_other_head,
    small_patch,
    with_patch_size,
)
from KDSegmentatorLib.engines.selection import choose_engine  # noqa: E402
from KDSegmentatorLib.errors import ExportError  # noqa: E402
from KDSegmentatorLib.options import RunOptions  # noqa: E402
from KDSegmentatorLib.packs.pack import StudentPack, verify_pack  # noqa: E402
from KDSegmentatorLib.packs.store import PackStore  # noqa: E402


def as_arguments(family: FamilyPlan) -> dict[str, Any]:
    """Return a family as it reaches a worker."""
    arguments: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(family)))
    return arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated")


@pytest.fixture(scope="module")
def store(folder: Path, family: FamilyPlan) -> PackStore:
    packs = str(folder / "packs")
    make_family_member(as_arguments(family), "x1/4", str(folder / "models"), packs)
    make_pack_with_other_head("tiny-brain-x1_4", "tiny-brain-3", 3, packs)
    return PackStore(user_folder=packs)


@pytest.fixture(params=["tiny-brain-x1_4", "tiny-brain-3-x1_4"])
def pack(request: pytest.FixtureRequest, store: PackStore) -> StudentPack:
    return store.get(request.param)


@pytest.mark.parametrize("family", [BRAIN_MR, ABDOMEN_CT], ids=lambda family: family.task)
@pytest.mark.parametrize("size", ["x1", "x1/2", "x1/4"])
def test_the_papers_families_have_its_parameters(family: FamilyPlan, size: str) -> None:
    configuration = resolve_configuration(plans(family), CONFIGURATION)
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = scale_features(arguments["features_per_stage"], alpha_of(size))
    cost = network_cost(configuration, channels=1, labels=family.outputs)
    assert cost.parameters == family.parameters[size]


def test_another_number_of_parameters_than_the_papers_is_refused(family: FamilyPlan, tmp_path: Path) -> None:
    other = replace(family, parameters={"x1/4": 19_061})
    with pytest.raises(ExportError, match="19,060 parameters, the paper's has 19,061"):
        make_family_member(as_arguments(other), "x1/4", str(tmp_path / "models"), str(tmp_path / "packs"))


def test_packs_are_whole_and_run_in_every_number_format(pack: StudentPack) -> None:
    verify_pack(pack)
    assert {reduced.precision for reduced in pack.manifest.network.reduced_precisions} == {"bfloat16", "int8"}
    head = pack.head()
    assert head.weight.shape == (len(pack.manifest.labels) + 1, pack.manifest.network.features)
    patch = pack.manifest.windows.patch_size
    window = np.random.default_rng(3).normal(size=(1, 1, *patch)).astype(np.float32)
    exact = choose_engine(pack, RunOptions(precision="float32", device="cpu")).engine.run(window, lambda: False)
    assert exact.shape == (1, pack.manifest.network.features, *patch)
    coarse = choose_engine(pack, RunOptions(precision="int8", device="cpu")).engine.run(window, lambda: False)
    assert 0 < np.abs(coarse - exact).mean() < 0.2 * exact.std()


def test_packs_know_what_they_cost(pack: StudentPack) -> None:
    """OpenVINO's own graph has the operations that torch's hooks counted."""
    profile = profile_body(str(pack.folder), "float32", 1)
    assert profile.details["flops"] == body_flops(pack.manifest) > 0
    resolutions = {operation.coarseness for operation in profile.operations if operation.kind == "Convolution"}
    assert resolutions == {1, 2}
    assert all(operation.bytes > 0 for operation in profile.operations)


def test_parameters_follow_the_head(store: PackStore) -> None:
    source, other = (store.get(name).manifest for name in ("tiny-brain-x1_4", "tiny-brain-3-x1_4"))
    assert source.network.parameters - other.network.parameters == 17 * (source.network.features + 1)
    assert body_flops(source) == body_flops(other)


def test_a_small_export_says_the_same_as_one_at_full_size(folder: Path, store: PackStore, family: FamilyPlan) -> None:
    body = with_stored_weights(
        split_network(load_model_folder(folder / "models" / "tiny-brain-x1_4", 0).network).body, "float16"
    )
    small = to_onnx(body, channels=1, patch_size=small_patch(family), storage="float16")
    full = to_onnx(body, channels=1, patch_size=family.patch_size, storage="float16")
    assert small_patch(family) != family.patch_size
    assert with_patch_size(small, family.patch_size) == with_patch_size(full, family.patch_size)
    assert store.get("tiny-brain-x1_4").body() == with_patch_size(full, family.patch_size)
