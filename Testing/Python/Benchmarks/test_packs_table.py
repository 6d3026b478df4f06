"""The pages say what the manifests of the shipped packs say."""

from __future__ import annotations

from pathlib import Path

import pytest

import packs_table


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
