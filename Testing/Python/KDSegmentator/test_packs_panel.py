"""The Packs box without Qt, on a real store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs onnx to build a network: pip install onnx")
from KDSegmentatorLib.packs.field_of_view import field_of_view_text
from KDSegmentatorLib.packs.manifest import Interval
from KDSegmentatorLib.packs.pack import StudentPack
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorPanel import pack_card
from KDSegmentatorPanel.pack_card import card
from KDSegmentatorPanel.packs_panel import PacksPanel
from support.chained_packs import EARLIER, after_earlier, install_earlier, install_later
from support.generated_family import build_size
from support.panel_doubles import AtOnce

SHIPPED = Path(__file__).parents[3] / "Resources" / "Packs"


@pytest.fixture
def store(tmp_path: Path) -> PackStore:
    for size in ("x1/4", "x1"):
        build_size(tmp_path / "shipped" / f"generated-{size.replace('/', '_')}", size)
    return PackStore(tmp_path / "user", tmp_path / "shipped")


def test_families_are_listed_from_the_teacher_down(store: PackStore) -> None:
    view = PacksPanel(store, AtOnce()).view()
    assert [row.id for row in view.rows] == ["generated-x1", "generated-x1_4"]
    assert view.rows[0].text == "Generated test pack, x1 (shipped)"
    assert view.chosen == "generated-x1"
    assert view.remove_reason
    assert view.roll_back_reason


def test_install_verify_roll_back_remove(store: PackStore, tmp_path: Path) -> None:
    panel = PacksPanel(store, AtOnce())
    for version in ("1.1.0", "1.2.0"):
        build_size(tmp_path / version / "generated-x1_4", "x1/4", version=version)
        panel.install(tmp_path / version / "generated-x1_4")
        assert panel.poll()
        assert panel.view().message.text == f"Installed generated-x1_4 {version}. All hashes are right."
    view = panel.view()
    assert view.chosen == "generated-x1_4"
    assert view.rows[1].text.endswith("(installed)")
    assert (view.remove_reason, view.roll_back_reason) == ("", "")
    panel.verify()
    assert panel.poll()
    assert panel.view().message.text == "generated-x1_4 1.2.0: all hashes are right."
    panel.roll_back()
    assert panel.poll()
    assert panel.view().message.text == "generated-x1_4 is 1.1.0 again."
    panel.remove()
    assert panel.poll()
    assert panel.view().message.text == "Removed generated-x1_4."
    assert panel.view().rows[1].text.endswith("(shipped)")
    panel.choose("generated-x1")
    assert panel.view().message.text == ""


def test_the_user_is_not_held_up(store: PackStore) -> None:
    background = AtOnce(later=True)
    panel = PacksPanel(store, background)
    panel.choose("generated-x1")
    panel.verify()
    view = panel.view()
    assert (panel.busy, view.message.text) == (True, "Checking generated-x1 …")
    assert view.busy_reason == view.remove_reason == view.roll_back_reason == "Wait until this has ended."
    panel.choose("generated-x1_4")
    panel.remove()
    assert not panel.poll()
    background.run()
    assert panel.poll()
    assert not panel.busy
    assert panel.view().message.text == "generated-x1 1.0.0: all hashes are right.", "the one that was chosen"


def test_the_box_follows_the_task(tmp_path: Path) -> None:
    panel = PacksPanel(PackStore(tmp_path, SHIPPED), AtOnce())
    assert panel.follow("hippocampus")
    assert panel.view().chosen.startswith("hippocampus-")
    panel.choose("hippocampus-x1_4")
    assert not panel.follow("hippocampus")
    assert panel.view().chosen == "hippocampus-x1_4", "what the user chose stays"
    assert panel.follow("brain-t1")
    assert panel.view().chosen.startswith("brain-t1-")
    assert panel.follow("a task without packs")
    assert panel.view().chosen.startswith("brain-t1-")


def test_a_file_that_is_no_pack(store: PackStore, tmp_path: Path) -> None:
    (tmp_path / "holiday.kdpack").write_bytes(b"not a zip")
    panel = PacksPanel(store, AtOnce())
    panel.install(tmp_path / "holiday.kdpack")
    assert panel.poll()
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
    panel = PacksPanel(store, AtOnce())
    panel.choose("generated-x1_4")
    panel.verify()
    assert panel.poll()
    assert "body.onnx is not the file that the manifest lists" in panel.view().message.text
    body.unlink()
    view = panel.view()
    assert view.rows[-1].damaged
    assert "body.onnx is missing" in view.card
    assert view.remove_reason


def test_no_packs(tmp_path: Path) -> None:
    view = PacksPanel(PackStore(tmp_path, tmp_path), AtOnce()).view()
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


def with_surface_scores(pack: StudentPack) -> StudentPack:
    evaluation = pack.manifest.evaluation
    assert evaluation is not None
    first, *others = evaluation.labels
    scores = replace(
        evaluation,
        mean_nsd=Interval(mean=0.9612, low=0.9512, high=0.9712),
        mean_hd95_mm=Interval(mean=1.234, low=1.034, high=1.534),
        nsd_tolerance_mm=1.5,
        nsd_surface="subvoxel",
        hd95_replaced=3,
        teacher_mean_nsd=0.9777,
        teacher_mean_hd95_mm=1.1,
        labels=(replace(first, nsd=Interval(mean=0.5, low=0.4, high=0.6)), *others),
    )
    return replace(pack, manifest=replace(pack.manifest, evaluation=scores))


def test_the_card_shows_nsd_with_its_tolerance_and_hd95_where_they_were_measured() -> None:
    pack = PackStore(SHIPPED / "none", SHIPPED).get("hippocampus-x1_4")
    page = card(with_surface_scores(pack))
    for text in (
        "NSD (1.5 mm)", "0.961&nbsp;", "[0.951, 0.971]", "HD95 (mm)", "1.23&nbsp;", "[1.03, 1.53]", "[0.400, 0.600]",
        "within 1.5 mm of each other", "sub-voxel patches by area", "3 times", "NSD 0.978, HD95 1.10 mm",
    ):  # fmt: skip
        assert text in page
    rows = [row.count("<td>") for row in page[page.index("NSD (1.5") :].split("</table>")[0].split("<tr>")[1:]]
    assert set(rows) == {7}
    evaluation = pack.manifest.evaluation
    assert evaluation is not None
    plain = card(
        replace(pack, manifest=replace(pack.manifest, evaluation=replace(evaluation, mean_nsd=None, mean_hd95_mm=None)))
    )
    assert "NSD (" not in plain
    assert "HD95 (" not in plain


def test_the_table_of_the_readme_shows_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "Benchmarks"))
    import packs_table

    pack = PackStore(SHIPPED / "none", SHIPPED).get("hippocampus-x1_4")
    evaluation = pack.manifest.evaluation
    assert evaluation is not None
    plain = replace(
        pack,
        manifest=replace(pack.manifest, size="x1/2", evaluation=replace(evaluation, mean_nsd=None, mean_hd95_mm=None)),
    )
    text = packs_table.tables([plain, with_surface_scores(pack)])
    assert "| Mean NSD | Mean HD95 in mm | n |" in text
    assert "| 0.9612 [0.9512, 0.9712] | 1.23 [1.03, 1.53] | 42 |" in text
    assert "| - | - | 42 |" in text
    assert "NSD is the share of both surfaces (sub-voxel patches by area) within 1.5 mm of each other." in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "NSD" not in packs_table.tables([plain])


def test_a_pack_without_the_one_that_is_run_before_it_says_so(tmp_path: Path) -> None:
    store = PackStore(tmp_path / "user", tmp_path / "none shipped")
    later = install_later(store, tmp_path, region=after_earlier())
    panel = PacksPanel(store, AtOnce())
    panel.install(later.folder)
    assert panel.poll()
    message = panel.view().message
    assert message.level == "warning"
    assert f"Inside-x1_4 needs {EARLIER} 1.0.0 or later" in message.text
    panel.verify()
    assert panel.poll()
    assert f"install {EARLIER}" in panel.view().message.text
    assert f"{EARLIER} 1.0.0 or later" in panel.view().card
    panel.install(install_earlier(store, tmp_path).folder)
    assert panel.poll()
    assert panel.view().message.level == "information"
    panel.remove()
    assert panel.poll()
    message = panel.view().message
    assert message.text.startswith(f"Removed {EARLIER}. Inside-x1_4 needs {EARLIER}")
    assert message.level == "warning"
