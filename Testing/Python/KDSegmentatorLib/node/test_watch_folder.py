"""A folder in, a folder out: every scan comes out once, and what is wrong with the others is said."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.node import history, outputs
from KDSegmentatorLib.node.job import Job
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.packs.store import PackStore
from support.dicom_series import write_series
from support.generated_family import write_scan
from support.node_parts import Parts

Make = Callable[..., Places]
NAME = "Mueller_Anna_1950"


@pytest.fixture
def node(make: Make) -> Parts:
    return Parts(make())


def other_voxels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2, 100, size=(20, 24, 18)).astype(np.float32)


def test_an_image_file_comes_out_segmented_on_its_own_grid(node: Parts) -> None:
    (node.scans / "study").mkdir()
    scan = write_scan(node.scans / "study" / f"{NAME}.nii.gz")
    assert node.take_in() == 1
    node.segment()
    node.deliver()
    assert node.states == ["delivered"]
    result = node.places.root / "out" / "study" / NAME / "generated"
    assert {path.name for path in result.iterdir()} == {"labels.nii.gz", "statistics.csv", "record.json"}
    assert read_volume(result / "labels.nii.gz", allow_constant=True).same_grid(read_volume(scan))
    assert scan.exists()


def test_a_scan_is_one_job_however_often_the_node_looks_or_starts_again(node: Parts) -> None:
    write_scan(node.scans / "a.nii.gz")
    assert node.take_in() == 1
    assert node.take_in() == 0
    os.utime(node.scans / "a.nii.gz")  # the same content under a new time
    assert Parts(node.places).take_in() == 0


def test_what_is_still_being_copied_is_left_alone(node: Parts) -> None:
    scan = write_scan(node.scans / "a.nii.gz")
    content = scan.read_bytes()
    scan.write_bytes(content[:1000])
    assert node.watched.look() == 0
    scan.write_bytes(content)
    assert node.watched.look() == 0  # it has just changed
    (node.scans / "b.nii.gz.part").write_bytes(content)
    (node.scans / ".hidden.nii.gz").write_bytes(content)
    assert node.take_in() == 1


def test_a_file_that_is_replaced_is_segmented_again_and_the_earlier_job_is_superseded(node: Parts) -> None:
    write_scan(node.scans / "a.nii.gz")
    node.take_in()
    write_scan(node.scans / "a.nii.gz", other_voxels(5))
    node.take_in()
    node.segment()
    assert node.states == ["superseded", "written"]


def test_a_file_that_changes_after_it_was_taken_is_not_segmented_under_the_old_name(node: Parts) -> None:
    write_scan(node.scans / "a.nii.gz")
    node.take_in()
    write_scan(node.scans / "a.nii.gz", other_voxels(5))
    node.segment()
    assert node.job().state == "refused"
    assert "was changed" in node.job().reason
    node.take_in()
    node.segment()
    assert node.states == ["refused", "written"]


def test_a_deleted_file_withdraws_its_job(node: Parts) -> None:
    write_scan(node.scans / "a.nii.gz")
    node.take_in()
    (node.scans / "a.nii.gz").unlink()
    node.take_in()
    assert node.states == ["withdrawn"]


def damaged(path: Path) -> None:
    path.write_bytes(write_scan(path).read_bytes()[:2000])


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        (f"{NAME}.nii.gz", damaged, "cannot"),
        (f"{NAME}.nii.gz", lambda path: write_scan(path, np.ones((8, 8, 8), np.float32)), "every voxel"),
        (f"{NAME}.nii.gz", lambda path: write_scan(path, np.ones((2, 8, 8, 8), np.float32)), "not 3-D"),
        (f"{NAME}.txt", lambda path: path.write_text(f"about {NAME}"), "DICOM"),
        (f"{NAME}.zip", lambda path: path.write_bytes(b"PK no archive"), ""),
    ],
    ids=["damaged", "constant", "4-D", "a text", "no archive"],
)
def test_what_cannot_be_segmented_is_refused_without_a_name_and_the_next_one_goes_on(
    node: Parts, name: str, write: Callable[[Path], object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(node.scans / name)
    write_scan(node.scans / "z.nii.gz")
    node.take_in()
    node.segment()
    assert node.states == ["refused", "written"]
    refused = node.job()
    assert reason in refused.reason
    assert refused.reason
    texts = [refused.reason, caplog.text, *map(str, history.entries(node.queue.connection))]
    assert not any(part in text for text in texts for part in ("Mueller", "Anna"))


@pytest.mark.skipif(sys.platform == "win32", reason="only on Linux and macOS: a link needs a privilege on Windows")
def test_a_link_does_not_lead_out_of_the_folder(node: Parts, tmp_path: Path) -> None:
    write_scan(tmp_path / "secret.nii.gz")
    (node.scans / "a.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    (node.scans / "b").symlink_to(tmp_path)
    assert node.take_in() == 0


def test_a_rule_chooses_by_the_name_and_a_scan_that_none_fits_can_be_run_again_later(make: Make) -> None:
    places = make()
    text = places.settings.read_text().replace('task = "generated"', 'task = "generated"\ndescription = "t1"')
    places.settings.write_text(text)
    node = Parts(places)
    write_scan(node.scans / "a_T1.nii.gz")
    write_scan(node.scans / "b_flair.nii.gz", other_voxels(5))
    node.take_in()
    assert node.states == ["received", "refused"]
    assert "no rule fits" in node.job(2).reason
    places.settings.write_text(text.replace('"t1"', '"t1|flair"'))
    node = Parts(places)
    node.queue.retry(2)
    node.segment()
    assert node.states == ["written", "superseded", "written"]


def test_a_rule_whose_results_would_go_nowhere_refuses_before_it_works(make: Make) -> None:
    places = make('[[target]]\nname = "pacs"\nkind = "dicom"\nhost = "127.0.0.1"\nport = 1\naet = "PACS"\n')
    places.settings.write_text(places.settings.read_text().replace('["out"]', '["out", "pacs"]'))
    node = Parts(places)
    write_scan(node.scans / "a.nii.gz")
    node.take_in()
    node.segment()
    assert node.job().state == "refused"
    assert "an image file has no patient and study" in node.job().reason
    assert node.job().pack == ""


def test_a_job_takes_the_pack_that_is_there_when_it_starts(node: Parts, newer_pack: Path) -> None:
    store = PackStore(node.places.root / "packs")
    old = store.get("generated-x1_4").manifest_sha256
    for number in range(3):
        write_scan(node.scans / f"{number}.nii.gz", other_voxels(number))
    node.take_in()
    node.attempts.do_next()
    new = store.install(newer_pack).manifest_sha256
    node.attempts.do_next()
    store.roll_back("generated-x1_4")
    node.attempts.do_next()
    assert [node.job(number).pack_sha256 for number in (1, 2, 3)] == [old, new, old]


def test_without_a_pack_the_queue_is_suspended_and_goes_on_when_there_is_one(node: Parts, pack: Path) -> None:
    store = PackStore(node.places.root / "packs")
    store.remove("generated-x1_4")
    write_scan(node.scans / "a.nii.gz")
    node.take_in()
    node.segment()
    assert node.states == ["received"]
    suspension = node.queue.suspension()
    assert suspension is not None
    assert suspension.cause == "pack"
    node.upkeep.look()
    assert node.queue.suspension() is not None
    store.install(pack)
    node.upkeep.look()
    node.segment()
    assert node.states == ["written"]


def test_a_full_disk_suspends_the_queue_and_burns_no_job(node: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scan(node.scans / "a.nii.gz")
    node.take_in()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "_write_images", full)
        node.segment()
    suspension = node.queue.suspension()
    assert suspension is not None
    assert suspension.cause == "disk"
    assert node.states == ["received"]
    assert not list(node.places.job(1).glob("**/labels*"))
    node.upkeep.look()  # the disk has space again
    node.segment()
    assert node.states == ["written"]


def test_below_the_watermark_of_the_disk_no_job_is_begun(make: Make) -> None:
    places = make()
    text = places.settings.read_text()
    places.settings.write_text(text.replace("free_gb = 0.1", "free_gb = 1e9"))
    node = Parts(places)
    write_scan(node.scans / "a.nii.gz")
    node.take_in()
    node.upkeep.look()
    node.segment()
    assert node.states == ["received"]
    suspension = node.queue.suspension()
    assert suspension is not None
    assert "less than [limits] free_gb = 1e+09" in suspension.reason
    places.settings.write_text(text)
    again = Parts(places)
    again.upkeep.look()
    again.segment()
    assert again.states == ["written"]


def test_an_unexpected_error_is_tried_again_and_then_fails_without_its_text(
    node: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_scan(node.scans / "a.nii.gz")
    node.take_in()

    def broken(*_: object) -> None:
        raise ValueError(f"cannot convert {NAME}")

    monkeypatch.setattr(outputs, "_write_images", broken)
    node.segment()
    job: Job = node.job()
    assert (job.state, job.attempt) == ("failed", 3)
    assert "ValueError in test_watch_folder.py" in job.reason
    assert NAME not in caplog.text + job.reason


def test_a_target_folder_that_is_not_mounted_is_not_made_but_waited_for(node: Parts) -> None:
    write_scan(node.scans / "a.nii.gz")
    node.take_in()
    node.segment()
    out = node.places.root / "out"
    out.rmdir()
    node.deliver()
    assert node.states == ["waiting"]
    assert not out.exists()
    out.mkdir()
    node.clock.now += 1
    node.deliver()
    assert node.states == ["delivered"]


def test_results_are_deleted_after_their_time_and_the_audit_log_stays(node: Parts) -> None:
    write_scan(node.scans / "a.nii.gz")
    node.take_in()
    node.segment()
    node.deliver()
    before = len(list(history.entries(node.queue.connection)))
    assert node.upkeep.clean() == 0
    node.clock.now += 8 * 86400
    assert node.upkeep.clean() == 1
    assert node.upkeep.clean() == 0
    assert not node.places.job(1).exists()
    assert (node.places.root / "out" / "a" / "generated" / "labels.nii.gz").exists()
    assert len(list(history.entries(node.queue.connection))) == before


def test_what_a_killed_delivery_left_is_deleted_by_the_next(node: Parts) -> None:
    write_scan(node.scans / "a.nii.gz")
    left = node.places.root / "out" / "a" / ".generated-new-0123456789ab"
    left.mkdir(parents=True)
    node.take_in()
    node.segment()
    node.deliver()
    assert [path.name for path in left.parent.iterdir()] == ["generated"]


class TestDicom:
    """Series in sub-folders and archives, and loose."""

    @pytest.fixture
    def node(self, make: Make) -> Parts:
        pytest.importorskip("highdicom", reason="needs highdicom: pip install 'kdsegmentator[dicom]'")
        return self.making(make, "seg", "labels")

    def making(self, make: Make, *outputs: str) -> Parts:
        places = make()
        text = places.settings.read_text()
        places.settings.write_text(text.replace('["labels", "statistics"]', str(list(outputs))))
        return Parts(places)

    def series(self, folder: Path, seed: int = 0, edit: Callable = lambda image, k: None) -> str:
        """Write a series of 8 images of one patient; return its UID."""
        from pydicom import dcmread

        folder.mkdir(exist_ok=True)
        voxels = np.random.default_rng(seed).gamma(2, 100, size=(8, 24, 18)).astype(np.int16)
        volume = Volume(voxels, (1.1, 0.9, 1.7), (12.0, -34.0, 56.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))

        def named(image: Any, k: int) -> None:
            image.PatientName, image.PatientID = "Mueller^Anna", "HOSP-4711"
            edit(image, k)

        return str(dcmread(write_series(volume, folder, modality="MR", edit=named)[0]).SeriesInstanceUID)

    def test_a_folder_with_two_series_is_two_jobs_and_their_results_lie_apart(self, make: Make) -> None:
        node = self.making(make, "seg", "sr", "rtstruct", "labels")
        study = node.scans / "study"
        study.mkdir()
        uids = {self.series(study / "a"), self.series(study / "b", 1)}
        assert node.take_in() == 2
        node.segment()
        node.deliver()
        assert node.states == ["delivered"] * 2
        results = node.places.root / "out" / "study"
        assert {path.name for path in results.iterdir()} == uids
        names = {"labels.nii.gz", "record.json", "rtstruct.dcm", "seg.dcm", "sr.dcm"}
        assert all({path.name for path in each.iterdir()} == names for each in results.glob("*/generated"))

    def test_an_archive_and_loose_files_are_series_too(self, node: Parts, tmp_path: Path) -> None:
        zipped = self.series(tmp_path / "zipped")
        shutil.make_archive(str(node.scans / "archive"), "zip", tmp_path / "zipped")
        loose = self.series(tmp_path / "loose", 1)
        for path in (tmp_path / "loose").iterdir():
            shutil.copy(path, node.scans)
        assert node.take_in() == 2
        node.segment()
        node.deliver()
        assert node.states == ["delivered"] * 2
        found = {
            path.relative_to(node.places.root / "out").as_posix() for path in node.places.root.glob("out/**/seg.dcm")
        }
        assert found == {f"archive/{zipped}/generated/seg.dcm", f"{loose}/generated/seg.dcm"}

    def test_a_slice_that_is_missing_or_of_another_kind_refuses_without_a_name(
        self, node: Parts, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.series(node.scans / f"{NAME}_missing")
        (node.scans / f"{NAME}_missing" / "4.dcm").unlink()

        def inverted(image: Any, k: int) -> None:
            image.PhotometricInterpretation = "MONOCHROME1"

        self.series(node.scans / f"{NAME}_inverted", 1, inverted)
        self.series(node.scans / "zz good", 2)
        node.take_in()
        node.segment()
        assert sorted(node.states) == ["refused", "refused", "written"]
        reasons = [job.reason for job in node.queue.jobs(("refused",))]
        assert any("mm" in reason for reason in reasons)
        everything = "\n".join([*reasons, caplog.text, *map(str, history.entries(node.queue.connection))])
        assert not any(part in everything for part in ("Mueller", "Anna", "4711"))

    def test_a_segmentation_is_no_scan_and_a_run_again_makes_the_same_bytes(self, node: Parts) -> None:
        self.series(node.scans / "a")
        node.take_in()
        node.segment()
        before = (node.places.job(1) / "result" / "seg.dcm").read_bytes()
        (node.scans / "seg").mkdir()
        shutil.copy(node.places.job(1) / "result" / "seg.dcm", node.scans / "seg")
        node.take_in()
        node.segment()
        assert node.states == ["written", "refused"]
        assert "not a CT, MR or PET scan" in node.job(2).reason
        node.deliver()
        node.queue.retry(1)
        node.segment()
        assert (node.places.job(1) / "result" / "seg.dcm").read_bytes() == before

    def test_slices_that_come_late_supersede(self, node: Parts, tmp_path: Path) -> None:
        self.series(tmp_path / "all")
        entry = node.scans / "a"
        entry.mkdir()
        files = sorted((tmp_path / "all").iterdir())
        for path in files[:5]:
            shutil.copy(path, entry)
        assert node.take_in() == 1
        for path in files[5:]:
            shutil.copy(path, entry)
        assert node.take_in() == 1
        node.segment()
        assert node.states == ["superseded", "written"]
