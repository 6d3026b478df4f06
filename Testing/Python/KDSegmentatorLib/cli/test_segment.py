from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from KDSegmentatorLib.cli import segment as cli_segment
from KDSegmentatorLib.cli.terminal import ProgressLine
from KDSegmentatorLib.engines.selection import choose_engine
from KDSegmentatorLib.inference.pipeline import segment
from KDSegmentatorLib.inference.progress import Progress
from KDSegmentatorLib.inference.segmentation import ResultWarning, RunRecord, Segmentation
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.packs.manifest import Expected, ExpectedLabel
from KDSegmentatorLib.packs.store import PackStore
from KDSegmentatorLib.segmenter import Segmenter
from support.chained_packs import EARLIER, after_earlier, install_earlier, install_later
from support.generated_family import build_size, write_scan
from support.generated_packs import label, write_pack

ROOT = Path(__file__).resolve().parents[4]
COMMAND = [sys.executable, "-m", "KDSegmentatorLib.cli.main"]
PACK = ["--pack", "generated"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def other_outputs(folder: Path) -> list[str | Path]:
    table, picture, record = (folder / name for name in ("table.csv", "picture.png", "record.json"))
    return ["--statistics", table, "--overlay", picture, "--record", record]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_labels_on_the_inputs_grid_as_from_the_library(kdseg: Any, scan: Path, store: PackStore, suffix: str) -> None:
    output = scan.with_name(f"labels{suffix}")
    code, out, err = kdseg("segment", scan, output, *PACK, "--size", "x1/2")
    assert code == 0, err
    volume, pack = read_volume(scan), store.get("generated-x1_2")
    chosen = choose_engine(pack)
    expected = segment(volume, pack, chosen.engine).volume
    written = read_volume(output)
    np.testing.assert_array_equal(written.voxels, expected.voxels)
    assert written.same_grid(volume)
    before, after = SimpleITK.ReadImage(str(scan)), SimpleITK.ReadImage(str(output))
    assert after.GetDirection() == pytest.approx(before.GetDirection(), abs=1e-6)
    assert after.GetOrigin() == pytest.approx(before.GetOrigin(), abs=1e-4)
    for text in (
        "Structure",
        "structure 1",
        "ml",
        "GB at the peak",
        f"Engine  {chosen.reason}",
        "generated-x1_2 1.0.0",
        str(output),
    ):
        assert text in out
    assert names(scan.parent) == sorted([scan.name, output.name])


def test_sizes_give_their_own_results(kdseg: Any, scan: Path) -> None:
    results = []
    for size in ("x1", "x1/4"):
        assert kdseg("segment", scan, scan.with_name("labels.nii"), *PACK, "--size", size)[0] == 0
        results.append(read_volume(scan.with_name("labels.nii")).voxels)
    assert (results[0] != results[1]).any()


def test_auto_takes_the_largest_size_that_fits_and_says_why(kdseg: Any, scan: Path) -> None:
    code, out, _ = kdseg("segment", scan, scan.with_name("labels.nii"), *PACK, "--size", "auto")
    assert code == 0
    assert "generated-x1 1.0.0" in out
    assert "x1 is the largest size expected to finish within 10 s" in out


def test_all_outputs(kdseg: Any, scan: Path) -> None:
    labels, table, picture = (scan.with_name(name) for name in ("labels.nii.gz", "table.csv", "picture.png"))
    code, out, err = kdseg("segment", scan, labels, *PACK, "--statistics", table, "--overlay", picture)
    assert code == 0, err
    voxels = read_volume(labels).voxels
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label_name"] for row in rows] == ["structure 1", "structure 2", "structure 3"]
    for row in rows:
        count = int((voxels == int(row["label_value"])).sum())
        assert int(row["voxels"]) == count
        assert float(row["volume_ml"]) == pytest.approx(count * 1.1 * 0.9 * 1.7 / 1000, rel=1e-4)
        assert f"{float(row['volume_ml']):.2f}" in out
    assert "mean_intensity_image_units" in rows[0]
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
    assert names(scan.parent) == sorted([scan.name, "labels.nii.gz", "table.csv", "picture.png"])


def test_the_record_has_what_it_takes_to_repeat_the_run(kdseg: Any, scan: Path, store: PackStore) -> None:
    record = scan.with_name("record.json")
    code, out, err = kdseg(
        "segment", scan, scan.with_name("labels.nii"), *PACK, "--size", "x1/2", "--labels", "3", "--record", record
    )
    assert code == 0, err
    content = json.loads(record.read_text(encoding="utf-8"))
    assert content.pop("input") == scan.name
    assert content.pop("input_sha256") == hashlib.sha256(scan.read_bytes()).hexdigest()
    assert content.pop("input_frame") is None
    assert content.pop("input_series") is None
    assert content.pop("engine_reason") == choose_engine(store.get("generated-x1_2")).reason
    assert content.pop("region_given") is False
    assert content.pop("labels") == [{"value": 3, "name": "structure 3"}]
    assert RunRecord(**content).pack_sha256 == store.get("generated-x1_2").manifest_sha256
    assert (content["pack_id"], content["pack_version"], content["size"]) == ("generated-x1_2", "1.0.0", "x1/2")
    assert str(record) in out


@pytest.mark.parametrize("chosen", [("--labels", "3", "1"), ("--labels", "3", "--labels", "structure 1")])
def test_labels_may_be_given_at_once_or_one_by_one(kdseg: Any, scan: Path, chosen: tuple[str, ...]) -> None:
    record = scan.with_name("record.json")
    code, _, err = kdseg("segment", scan, scan.with_name("labels.nii"), *PACK, *chosen, "--record", record)
    assert code == 0, err
    assert [label["value"] for label in json.loads(record.read_text(encoding="utf-8"))["labels"]] == [1, 3]


@pytest.mark.parametrize("options", [[], ["--quiet"]])
def test_warnings_are_printed_and_kept(
    kdseg: Any, scan: Path, store: PackStore, tmp_path: Path, options: list[str]
) -> None:
    labels = tuple(
        ExpectedLabel(value=value, cases=20, at_edge=20, smallest_ml=low, largest_ml=100.0)
        for value, low in ((1, 0.001), (2, 50.0), (3, 0.001))
    )
    expected = Expected(cases=20, smallest_ml=0.1, largest_ml=100.0, labels=labels, pairs=())
    changed = replace(store.get("generated-x1_4").manifest, version="2.0.0", expected=expected)
    store.install(write_pack(tmp_path / "changed", manifest=changed).folder)
    record = scan.with_name("record.json")
    code, out, err = kdseg(
        "segment", scan, scan.with_name("labels.nii"), *PACK, "--size", "x1/4", "--record", record, *options
    )
    assert code == 0, err
    printed, other = (err, out) if options else (out, err)
    assert "Warning" not in other
    (line,) = [line for line in printed.splitlines() if line.startswith("Warning")]
    assert line.startswith("Warning: structure 2 is cut off at the edge of the volume: ")
    (kept,) = json.loads(record.read_text(encoding="utf-8"))["warnings"]
    assert (kept["kind"], kept["pack_id"], kept["labels"]) == ("cut off", "generated-x1_4", ["structure 2"])
    assert kept["expected"] == [50.0, 100.0] and 0 < kept["found"] < 25
    assert line == f"Warning: {kept['sentence']}"


@pytest.mark.parametrize(("count", "printed"), [(0, 0), (8, 8), (9, 9), (30, 9)])
def test_very_many_warnings_do_not_hide_the_gravest(count: int, printed: int) -> None:
    warnings = tuple(
        ResultWarning(kind="small", pack_id="brain", sentence=f"Number {number}.") for number in range(count)
    )
    result = cast("Segmentation", SimpleNamespace(record=SimpleNamespace(warnings=warnings)))
    lines = cli_segment.warning_lines(result)
    assert len(lines) == printed
    assert lines[:8] == [f"Warning: Number {number}." for number in range(min(count, 8))]
    assert lines[8:] == [f"Warning: {count - 8} more warnings; --record FILE keeps all {count}"] * (count > 8)


@pytest.mark.parametrize(
    ("name", "shown"), [("=1+1", "'=1+1"), ("+a", "'+a"), ("-a", "'-a"), ("@a", "'@a"), ("a=", "a=")]
)
def test_a_spreadsheet_does_not_run_a_label(
    kdseg: Any, scan: Path, store: PackStore, tmp_path: Path, name: str, shown: str
) -> None:
    pack = store.get("generated-x1_4")
    labels = (label(1, name), *pack.manifest.labels[1:])
    changed = replace(pack.manifest, version="2.0.0", labels=labels)
    store.install(write_pack(tmp_path / "changed", manifest=changed).folder)
    table = scan.with_name("table.csv")
    code, _, err = kdseg("segment", scan, scan.with_name("a.nii"), *PACK, "--size", "x1/4", "--statistics", table)
    assert code == 0, err
    with table.open(encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["label_name"] == shown


def test_only_some_labels(kdseg: Any, scan: Path) -> None:
    output = scan.with_name("labels.nii")
    code, out, _ = kdseg("segment", scan, output, *PACK, "--labels", "STRUCTURE 3", "1")
    assert code == 0
    assert set(np.unique(read_volume(output).voxels)) == {0, 1, 3}
    assert "structure 2" not in out


def test_mirroring_and_threads(kdseg: Any, scan: Path) -> None:
    code, out, _ = kdseg("segment", scan, scan.with_name("a.nii"), *PACK, "--mirroring", "--threads", "1")
    assert code == 0
    assert "mirroring" in out


def test_quiet_prints_nothing(kdseg: Any, scan: Path) -> None:
    assert kdseg("segment", scan, scan.with_name("a.nii"), *PACK, "--quiet") == (0, "", "")


def test_progress_goes_to_standard_error(kdseg: Any, scan: Path) -> None:
    _, out, err = kdseg("segment", scan, scan.with_name("a.nii"), *PACK)
    assert "Segmenting 0/" in err
    assert "Segmenting 0/" not in out


def test_an_existing_output_is_replaced(kdseg: Any, scan: Path) -> None:
    output = scan.with_name("labels.nii")
    output.write_text("something else", encoding="utf-8")
    assert kdseg("segment", scan, output, *PACK)[0] == 0
    assert read_volume(output).voxels.any()


def test_paths_with_spaces_and_other_letters(kdseg: Any, scan: Path) -> None:
    folder = scan.parent / "Gehirn Müller"
    folder.mkdir()
    code, _, err = kdseg("segment", scan, folder / "Ergebnis ß.nii.gz", *PACK, "--overlay", folder / "Bild ß.png")
    assert code == 0, err
    assert names(folder) == ["Bild ß.png", "Ergebnis ß.nii.gz"]


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("labels.txt", [], "must end with .nii.gz or .nii"),
        ("labels", [], "must end with"),
        ("missing/labels.nii", [], "there is no folder"),
        ("folder.nii", [], "is a folder"),
        ("scan.nii.gz", [], "same file as INPUT"),
        ("../work/scan.nii.gz", [], "same file as INPUT"),
        ("labels.nii", ["--statistics", "table.txt"], "--statistics table.txt: the name must end with .csv"),
        ("labels.nii", ["--statistics", "missing/table.csv"], "there is no folder"),
        ("labels.nii", ["--overlay", "picture.jpg"], "must end with .png"),
        ("x" * 300 + ".nii", [], "cannot be written"),
        ("labels.nii", ["--record", "record.txt"], "must end with .json"),
        ("labels.nii", ["--size", "x1/8"], "sizes: x1, x1/2, x1/4"),
        ("labels.nii", ["--size", "large"], "give 'x1', 'x1/2', 'x1/4'"),
        ("labels.nii", ["--labels", "spleen"], "structure 1 (1)"),
        ("labels.nii", ["--labels", "9"], "structure 1 (1)"),
        ("labels.nii", ["--threads", "0"], "at least 1"),
        ("labels.nii", ["--threads", "many"], "at least 1"),
        ("labels.nii", ["--engine", "abacus"], "abacus"),
        ("labels.nii", ["--pack", "spleen"], "no pack for the task 'spleen'"),
        ("labels.nii", ["--pack", "spleen", "--size", "x1"], "no pack for the task 'spleen'"),
        ("labels.nii", ["--nonsense"], "nonsense"),
    ],
)
def test_bad_options_are_found_before_the_work(
    kdseg: Any, scan: Path, monkeypatch: pytest.MonkeyPatch, output: str, options: list[str], message: str
) -> None:
    (scan.parent / "folder.nii").mkdir()
    monkeypatch.chdir(scan.parent)
    before = names(scan.parent), scan.read_bytes()
    code, out, err = kdseg("segment", scan.name, output, *PACK, *options)
    assert code == 2
    assert message in err
    assert out == ""
    assert (names(scan.parent), scan.read_bytes()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights that users have on Linux and macOS")
def test_a_link_to_the_input_is_the_input(kdseg: Any, scan: Path) -> None:
    link = scan.with_name("link.nii")
    link.symlink_to(scan)
    code, _, err = kdseg("segment", scan, link, *PACK)
    assert code == 2
    assert "same file as INPUT" in err


@pytest.mark.skipif(sys.platform == "win32", reason="folders are protected otherwise than on Linux and macOS")
def test_a_folder_without_permission(kdseg: Any, scan: Path) -> None:
    folder = scan.parent / "protected"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # the superuser may write everywhere; a file system without writing may not
        folder = Path("/proc")
    code, _, err = kdseg("segment", scan, folder / "labels.nii", *PACK)
    assert code == 2
    assert "cannot be written" in err


def test_a_damaged_pack_is_not_used(kdseg: Any, scan: Path, store: PackStore) -> None:
    body = store.get("generated-x1").folder / "body.onnx"
    content = bytearray(body.read_bytes())
    content[len(content) // 2] ^= 1
    body.write_bytes(content)
    for size in ("auto", "x1"):
        code, _, err = kdseg("segment", scan, scan.with_name("labels.nii"), *PACK, "--size", size)
        assert code == 2
        assert "not the file that the manifest lists" in err
    assert names(scan.parent) == [scan.name]


def test_a_size_whose_manifest_is_damaged_is_named(kdseg: Any, scan: Path, store: PackStore) -> None:
    (store.get("generated-x1_4").folder / "manifest.json").write_text("{}", encoding="utf-8")
    code, _, err = kdseg("segment", scan, scan.with_name("labels.nii"), *PACK, "--size", "x1/4")
    assert code == 2
    assert "manifest.json" in err
    assert names(scan.parent) == [scan.name]


@pytest.mark.parametrize("options", [[], ["--quiet"]])
def test_a_damaged_size_is_named_when_another_is_taken(
    kdseg: Any, scan: Path, store: PackStore, options: list[str]
) -> None:
    (store.get("generated-x1").folder / "manifest.json").write_text("{}", encoding="utf-8")
    code, out, err = kdseg("segment", scan, scan.with_name("labels.nii"), *PACK, *options)
    assert code == 0, err
    assert "kdseg: generated-x1 is left out: " in err
    assert "manifest.json" in err
    if not options:
        assert "generated-x1_4 1.0.0" in out


def test_a_task_whose_packs_are_all_damaged_is_named(kdseg: Any, scan: Path, store: PackStore) -> None:
    for pack in store.packs():
        (pack.folder / "manifest.json").write_text("{}", encoding="utf-8")
    code, _, err = kdseg("segment", scan, scan.with_name("labels.nii"), *PACK)
    assert code == 2
    assert "manifest.json" in err


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process exist on Linux and macOS")
@pytest.mark.parametrize("limit", [100, 12_000])
def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(store: PackStore, scan: Path, limit: int) -> None:
    """The smaller limit stops the labels, the larger one the picture, after the labels were written."""

    def nearly_full() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    (scan.parent / "labels.nii.gz").write_text("old", encoding="utf-8")
    done = subprocess.run(
        [*COMMAND, "segment", "scan.nii.gz", "labels.nii.gz", *PACK, "--overlay", "picture.png"],
        cwd=scan.parent,
        env=environment(),
        preexec_fn=nearly_full,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    message = done.stderr.splitlines()[-1]
    assert message.startswith("kdseg: cannot write ")
    assert "free some space" in message
    assert ".kdseg-" not in message
    assert names(scan.parent) == ["labels.nii.gz", "scan.nii.gz"]
    assert (scan.parent / "labels.nii.gz").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize(("stage", "done"), [("preprocess", 1), ("windows", 0), ("windows", 2), ("restore", 0)])
def test_ctrl_c_stops_at_the_next_step_and_leaves_nothing(
    kdseg: Any, scan: Path, monkeypatch: pytest.MonkeyPatch, stage: str, done: int
) -> None:
    seen: list[Progress] = []

    class Pressing(ProgressLine):
        def __call__(self, progress: Progress) -> None:
            seen.append(progress)
            if (progress.stage, progress.done) == (stage, done):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("KDSegmentatorLib.cli.segment.ProgressLine", Pressing)
    code, out, err = kdseg(
        "segment", scan, scan.with_name("labels.nii"), *PACK, "--statistics", scan.with_name("a.csv")
    )
    assert code == 130
    assert err == "kdseg: cancelled; nothing was written\n"
    assert out == ""
    states = [(progress.stage, progress.done) for progress in seen]
    assert len(states) - 1 - states.index((stage, done)) <= 1  # the step that was under way is reported, no other
    assert seen[-1].stage == stage
    assert names(scan.parent) == [scan.name]


@pytest.mark.parametrize("option", ["--statistics", "--overlay", "--record"])
def test_ctrl_c_while_an_output_is_written_leaves_nothing(
    kdseg: Any, scan: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    function = {"--statistics": "write_statistics", "--overlay": "write_overlay", "--record": "write_record"}[option]
    original = getattr(cli_segment, function)

    def pressing(*arguments: Any, **named: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        original(*arguments, **named)

    monkeypatch.setattr(cli_segment, function, pressing)
    code, out, err = kdseg("segment", scan, scan.with_name("labels.nii"), *PACK, "--quiet", *other_outputs(scan.parent))
    assert (code, out, err) == (130, "", "kdseg: cancelled; nothing was written\n")
    assert names(scan.parent) == [scan.name]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent to processes otherwise than on Linux and macOS")
def test_ctrl_c_stops_a_program_in_the_middle(store: PackStore, scan: Path, tmp_path: Path) -> None:
    """The pack is slow enough to be still at its first windows; how fast it stops is the other test's matter."""
    store.install(build_size(tmp_path / "slow", "x1/4", version="2.0.0", layers=120).folder)
    write_scan(scan, np.random.default_rng(0).gamma(2, 100, size=(60, 80, 70)).astype(np.float32))
    process = subprocess.Popen(
        [*COMMAND, "segment", "scan.nii.gz", "labels.nii", *PACK, "--size", "x1/4", "--statistics", "table.csv"],
        cwd=scan.parent,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Segmenting"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "kdseg: cancelled; nothing was written"
    assert "Restoring" not in err
    assert names(scan.parent) == ["scan.nii.gz"]


def test_as_a_program(store: PackStore, scan: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "segment", "scan.nii.gz", "labels.nii.gz", *PACK],
        cwd=scan.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Wrote labels.nii.gz" in done.stdout
    assert read_volume(scan.with_name("labels.nii.gz")).same_grid(read_volume(scan))


def test_a_region_that_is_given_is_not_looked_for(kdseg: Any, scan: Path, store: PackStore, tmp_path: Path) -> None:
    install_earlier(store, tmp_path)
    install_later(store, tmp_path, region=after_earlier())
    labels, record = scan.with_name("labels.nii.gz"), scan.with_name("record.json")
    command = ["segment", scan, labels, "--engine", "onnxruntime", "--threads", "1", "--record", record]
    chained = ["--pack", "inside", "--size", "x1/4"]
    code, out, err = kdseg(*command, *chained)
    assert code == 0, err
    assert f"Region  {EARLIER} 1.0.0" in out
    assert "Region: segmenting" in err
    assert json.loads(record.read_text(encoding="utf-8"))["region_given"] is False
    found = read_volume(labels).voxels

    code, out, err = kdseg(*command, *chained, "--region", "given")
    assert code == 0, err
    assert f"Region  given: {EARLIER} was left out" in out
    assert "Region: " not in err
    content = json.loads(record.read_text(encoding="utf-8"))
    assert (content["region"], content["region_given"]) == (None, True)
    given = Segmenter("inside", "x1/4", engine="onnxruntime", threads=1, store=store, region="given")
    expected = given(read_volume(scan)).volume.voxels
    np.testing.assert_array_equal(read_volume(labels).voxels, expected)
    assert (found != expected).any()


def test_a_region_cannot_be_given_to_a_pack_without_an_earlier_stage(kdseg: Any, scan: Path) -> None:
    labels = scan.with_name("labels.nii.gz")
    code, _, err = kdseg("segment", scan, labels, *PACK, "--size", "x1/4", "--region", "given")
    assert code == 2
    assert "generated-x1_4 has no earlier stage that could be left out" in err
    assert not labels.exists()


def test_statistics_for_programs_and_one_file_for_every_structure(kdseg: Any, scan: Path) -> None:
    folder = scan.parent / "structures"
    folder.mkdir()
    code, _, err = kdseg(
        "segment", scan, scan.parent / "labels.nii.gz", "--pack", "generated", "--size", "x1/4",
        "--statistics", scan.parent / "volumes.json", "--split", folder,
    )  # fmt: skip
    assert code == 0, err
    found = json.loads((scan.parent / "volumes.json").read_text(encoding="utf-8"))
    assert (found["pack_id"], found["size"]) == ("generated-x1_4", "x1/4")
    labels = read_volume(scan.parent / "labels.nii.gz").voxels
    for row in found["structures"]:
        mask = read_volume(folder / f"{row['name'].replace(' ', '-')}.nii.gz", allow_constant=True).voxels
        assert np.array_equal(mask == 1, labels == row["value"])
        assert int(mask.sum()) == row["voxels"]


def test_pack_and_size_stand_in_the_table(kdseg: Any, scan: Path) -> None:
    table = scan.parent / "volumes.csv"
    assert kdseg("segment", scan, scan.parent / "a.nii", "--pack", "generated", "--statistics", table)[0] == 0
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert {(row["pack_id"], row["size"]) for row in rows} == {("generated-x1_4", "x1/4")}  # the smallest, by default


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux only")
def test_the_record_of_a_scan_whose_name_is_not_utf_8(kdseg: Any, scan: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(scan.parent) + b"/sc\xe4n.nii.gz"))
    scan.rename(odd)
    record = scan.parent / "record.json"
    code, _, err = kdseg("segment", odd, scan.parent / "a.nii", "--pack", "generated", "--record", record)
    assert code == 0, err
    assert json.loads(record.read_text(encoding="utf-8"))["input"] == "sc\\xe4n.nii.gz"
