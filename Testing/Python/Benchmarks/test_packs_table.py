"""The pages say what the manifests of the shipped packs say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from model_cards import CONTINUED_SEED_OFFSET, model_cards

import packs_table
from KDSegmentatorLib.packs.manifest import Evaluation
from KDSegmentatorLib.packs.pack import StudentPack


def test_the_pages_are_up_to_date() -> None:
    assert packs_table.main(["--check"]) == 0


def test_an_old_table_is_found_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- reduced:begin -->\nold\n<!-- reduced:end -->\nafter\n")
    monkeypatch.setattr(packs_table, "PLACES", ((page, "reduced", packs_table.reduced_precisions),))
    assert packs_table.main(["--check"]) == 1
    assert "page.md does not show the shipped packs" in capsys.readouterr().err
    assert packs_table.main([]) == 0
    assert packs_table.main(["--check"]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("-->\nafter\n")
    assert "old" not in text
    for pack in packs_table.shipped_packs():
        for each in pack.manifest.network.reduced_precisions:
            assert f"`{pack.manifest.id}` | {each.precision} | {each.mean_dice_loss:.4f} |" in text


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- family:begin -->"):
        packs_table.replaced("nothing here", "family", "table")


def shipped(identifier: str) -> StudentPack:
    return next(pack for pack in packs_table.shipped_packs() if pack.manifest.id == identifier)


def measured(**changes: object) -> StudentPack:
    """Return the hippocampus teacher with another evaluation."""
    pack = shipped("hippocampus-x1")
    evaluation = pack.manifest.evaluation
    assert isinstance(evaluation, Evaluation)
    return replace(pack, manifest=replace(pack.manifest, evaluation=replace(evaluation, **changes)))  # type: ignore[arg-type]


def test_a_card_says_how_its_scores_were_measured() -> None:
    text = model_cards([measured(split="two centres", cases=7, nsd_tolerance_mm=1.5, nsd_surface="subvoxel")])
    assert "Task04 Hippocampus, two centres, n = 7, without mirroring." in text
    assert "share of both surfaces (sub-voxel patches by area) within 1.5 mm of each other" in text
    assert "counts as the image's diagonal: never here." in text
    assert "diagonal: 3 times here." in model_cards([measured(hd95_replaced=3)])
    earlier = model_cards([measured(nsd_tolerance_mm=None, nsd_surface=None, hd95_replaced=None)])
    assert "n = 42" in earlier
    assert "NSD (surface Dice)" not in earlier
    assert "diagonal" not in earlier


def test_a_card_says_one_line_for_all_sizes_that_were_measured_alike() -> None:
    packs = [measured(), shipped("hippocampus-x1_2")]
    assert model_cards(packs).count("n = 42,") == 1
    assert "**Measured on** x1: " in model_cards([measured(cases=41), packs[1]])


def trained(method: str, seed: int | None, **versions: str) -> str:
    """Return the card of the hippocampus teacher with another provenance."""
    pack = shipped("hippocampus-x1")
    marked = {name.replace("_export", " (export)"): version for name, version in versions.items()}
    made = replace(pack.manifest.provenance, method=method, seed=seed, created="2027-01-02", versions=marked)
    return model_cards([replace(pack, manifest=replace(pack.manifest, provenance=made))])


def test_only_versions_that_are_known_to_be_the_trainings_are_shown() -> None:
    assert "| Seed | Exported | Trained with |" in trained("teacher", 0)
    both = trained("teacher", 0, torch="2.1", nnunetv2="2.5", torch_export="2.9", onnx_export="1.2")
    assert "| 0 | 2027-01-02 | nnunetv2 2.5, torch 2.1 |" in both
    assert "| 2027-01-02 | not recorded |" in trained("teacher", 0, torch="2.1", nnunetv2="2.5"), "of an earlier export"
    assert "| 2027-01-02 | not recorded |" in trained("teacher", 0, torch_export="2.9"), "a stock teacher"


def test_the_seed_is_the_recipes() -> None:
    students = pytest.importorskip("distillation.students", reason="install the extra 'distill'")
    assert students.CONTINUED_SEED_OFFSET == CONTINUED_SEED_OFFSET
    assert "| 3 | 2027-01-02 |" in trained("logit", 3 + CONTINUED_SEED_OFFSET)
    assert "| 3 | 2027-01-02 |" in trained("plain", 3)
    assert "| 1003 | 2027-01-02 |" in trained("teacher", 1003), "a teacher has no warm-up"
    assert "| not recorded | 2027-01-02 |" in trained("teacher", None)
