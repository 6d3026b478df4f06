"""The Packs box without Qt, on a real store."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.packs.field_of_view import field_of_view_text
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel import pack_card
from KDSegmentatorPanel.pack_card import card
from KDSegmentatorPanel.packs_panel import PacksPanel
from support.generated_family import build_size

SHIPPED = Path(__file__).parents[3] / "Resources" / "Packs"


@pytest.fixture
def store(tmp_path: Path) -> PackStore:
    for size in ("x1/4", "x1"):
        build_size(tmp_path / "shipped" / f"generated-{size.replace('/', '_')}", size)
    return PackStore(tmp_path / "user", tmp_path / "shipped")


def test_families_are_listed_from_the_teacher_down(store: PackStore) -> None:
    view = PacksPanel(store).view()
    assert [row.id for row in view.rows] == ["generated-x1", "generated-x1_4"]
    assert view.rows[0].text == "Generated test pack, x1 (shipped)"
    assert view.chosen == "generated-x1"
    assert view.remove_reason
    assert view.roll_back_reason


def test_install_verify_roll_back_remove(store: PackStore, tmp_path: Path) -> None:
    panel = PacksPanel(store)
    for version in ("1.1.0", "1.2.0"):
        build_size(tmp_path / version / "generated-x1_4", "x1/4", version=version)
        panel.install(tmp_path / version / "generated-x1_4")
        assert panel.view().message.text == f"Installed generated-x1_4 {version}. All hashes are right."
    view = panel.view()
    assert view.chosen == "generated-x1_4"
    assert view.rows[1].text.endswith("(installed)")
    assert (view.remove_reason, view.roll_back_reason) == ("", "")
    panel.verify()
    assert panel.view().message.text == "generated-x1_4 1.2.0: all hashes are right."
    panel.roll_back()
    assert panel.view().message.text == "generated-x1_4 is 1.1.0 again."
    panel.remove()
    assert panel.view().message.text == "Removed generated-x1_4."
    assert panel.view().rows[1].text.endswith("(shipped)")
    panel.choose("generated-x1")
    assert panel.view().message.text == ""


def test_a_file_that_is_no_pack(store: PackStore, tmp_path: Path) -> None:
    (tmp_path / "holiday.kdpack").write_bytes(b"not a zip")
    panel = PacksPanel(store)
    panel.install(tmp_path / "holiday.kdpack")
    message = panel.view().message
    assert message.level == "error"
    assert "holiday.kdpack" in message.text
    assert not store.user_folder.exists() or not any(
        path for path in store.user_folder.iterdir() if not path.name.startswith(".")
    )


def test_a_damaged_pack_says_so(store: PackStore, tmp_path: Path) -> None:
    body = tmp_path / "shipped" / "generated-x1_4" / "body.onnx"
    content = bytearray(body.read_bytes())
    content[-1] ^= 1
    body.write_bytes(content)
    panel = PacksPanel(store)
    panel.choose("generated-x1_4")
    panel.verify()
    assert "body.onnx is not the file that the manifest lists" in panel.view().message.text
    body.unlink()
    view = panel.view()
    assert view.rows[-1].damaged
    assert "body.onnx is missing" in view.card
    assert view.remove_reason


def test_no_packs(tmp_path: Path) -> None:
    view = PacksPanel(PackStore(tmp_path, tmp_path)).view()
    assert (view.rows, view.chosen, view.card) == ((), "", "")


def test_the_method_is_said_in_the_users_language(store: PackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = store.get("generated-x1_4")
    monkeypatch.setattr(pack_card, "_", lambda text: f"<{text}>")
    method = pack.manifest.provenance.method
    assert pack_card._method(method).startswith("<"), f"{method} has words"
    assert pack_card._method("of another recipe") == "of another recipe"


@pytest.mark.parametrize("pack_id", [folder.name for folder in sorted(SHIPPED.iterdir()) if folder.is_dir()])
def test_the_card_says_all_that_a_user_has_to_know(pack_id: str) -> None:
    store = PackStore(SHIPPED / "none", SHIPPED)
    pack = store.get(pack_id)
    page = card(pack)
    manifest = pack.manifest
    assert manifest.evaluation is not None
    assert field_of_view_text(manifest)
    for text in (
        field_of_view_text(manifest),
        manifest.intended_use,
        manifest.limits,
        manifest.weights.license,
        manifest.data.license,
        manifest.evaluation.dataset,
        f"n = {manifest.evaluation.cases}",
        pack.manifest_sha256,
        "Not a medical device",
        *(label.name for label in manifest.labels),
    ):
        assert text.replace("'", "&#x27;") in page
