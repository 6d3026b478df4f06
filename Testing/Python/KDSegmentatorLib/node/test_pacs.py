"""The whole chain with real parts: storescu, Orthanc, a PACS (another Orthanc), killed, down, late, and sent again."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="needs pynetdicom: pip install 'kdsegmentator[node]'")
pytest.importorskip("highdicom", reason="needs highdicom: pip install 'kdsegmentator[dicom]'")
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.io.images import read_volume
from KDSegmentatorLib.node import history
from KDSegmentatorLib.node.orthanc import Intake
from KDSegmentatorLib.node.places import Places
from support.dicom_series import write_series
from support.node_parts import Clock, Parts
from support.orthanc_servers import PASSWORD, USER, OrthancServer, free_port, pacs_configuration, require_orthanc

Make = Callable[..., Places]

SETTINGS = """
[orthanc]
url = "http://127.0.0.1:{http}"
port = {dicom}
stable_seconds = 1
[[orthanc.sender]]
aet = "MR1"
host = "127.0.0.1"
port = 104
[[orthanc.sender]]
aet = "MR9"
host = "127.0.0.9"
port = 104

[[target]]
name = "out"
kind = "folder"
folder = "out"
[[target]]
name = "pacs"
kind = "dicom"
host = "127.0.0.1"
port = {pacs_dicom}
aet = "PACS"
commitment = true
[[target]]
name = "archive"
kind = "dicomweb"
url = "http://127.0.0.1:{pacs_http}/dicom-web"
user = "{user}"
password = "secrets/archive"

[[rule]]
name = "generated"
task = "generated"
modality = ["MR"]
calling_aet = ["MR1"]
least_images = 5
outputs = ["seg", "labels"]
targets = ["out", "pacs", "archive"]
options = {{ engine = "onnxruntime", threads = 1 }}

[limits]
free_gb = 0.1
used_percent = 100
[delivery]
pauses = [10]
timeout_seconds = 5
[page]
port = 0
"""


class Site:
    """A node's Orthanc and a PACS; every test has a queue of its own."""

    def __init__(self, folder: Path) -> None:
        self.ports = {"http": free_port(), "dicom": free_port()}
        known = {"node": {"AET": "KDSEG", "Host": "127.0.0.1", "Port": self.ports["dicom"]}}
        self.pacs = OrthancServer(pacs_configuration(folder / "pacs", {"DicomModalities": known}))
        self.settings = SETTINGS.format(
            **self.ports, pacs_dicom=self.pacs.dicom_port, pacs_http=self.pacs.rest.url.rpartition(":")[2], user=USER
        )
        self.orthanc: OrthancServer | None = None

    def node(self, make: Make) -> Parts:
        """Return a node's parts; the first one's configuration is that of Orthanc."""
        places = make(settings=self.settings)
        (places.secrets / "archive").write_text(PASSWORD)
        (places.secrets / "archive").chmod(0o600)
        if self.orthanc is None:
            self.secret = (places.secrets / "orthanc-password").read_text()
            self.orthanc = OrthancServer(places.orthanc)
            self.orthanc.start()
        (places.secrets / "orthanc-password").write_text(self.secret)
        for series in self.orthanc.rest.series():
            self.orthanc.rest.delete_series(series["ID"])
        for series in self.pacs.rest.series():
            self.pacs.rest.delete_series(series["ID"])
        return Parts(places)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require_orthanc()
    if shutil.which("storescu") is None:
        pytest.skip("needs storescu: apt-get install dcmtk")
    site = Site(tmp_path_factory.mktemp("site"))
    with site.pacs:
        yield site
        if site.orthanc is not None:
            site.orthanc.kill()


@pytest.fixture
def node(site: Site, make: Make) -> Parts:
    return site.node(make)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "series"
    folder.mkdir()
    voxels = np.random.default_rng(3).gamma(2, 100, size=(12, 24, 18)).astype(np.int16)
    volume = Volume(voxels, (1.1, 0.9, 1.7), (12.0, -34.0, 56.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))

    def named(image, number: int) -> None:
        image.SpecificCharacterSet = "ISO_IR 100"
        image.PatientName = "Müller^Anna"
        image.PatientID = "HOSP-4711"

    return write_series(volume, folder, modality="MR", edit=named)


def storescu(site: Site, files: Sequence[Path], *, calling: str = "MR1", called: str = "KDSEG") -> bool:
    """Send files as a scanner does; return whether they were taken."""
    command = ["storescu", "-aet", calling, "-aec", called, "127.0.0.1", str(site.ports["dicom"]), *map(str, files)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def intake(node: Parts) -> Intake:
    assert node.orthanc is not None
    return Intake(node.orthanc, node.settings, node.queue)


def arrived(node: Parts, jobs: int = 1) -> None:
    """Poll until there are so many jobs."""
    end = time.monotonic() + 30
    while len(node.queue.jobs()) < jobs:
        intake(node).poll()
        assert time.monotonic() < end, "the series never became a job"
        time.sleep(0.1)


def confirmed(node: Parts) -> None:
    """Deliver, and ask for commitments, until all jobs are confirmed."""
    assert isinstance(node.clock, Clock)
    end = time.monotonic() + 30
    while set(node.states) != {"confirmed"}:
        node.clock.now += 10
        node.deliver()
        assert time.monotonic() < end, [(job.state, job.reason) for job in node.queue.jobs()]
        time.sleep(0.1)


def test_the_whole_chain_brings_one_segmentation_into_the_pacs_voxel_by_voxel(
    site: Site, node: Parts, images: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    import highdicom
    from pydicom import dcmread

    assert storescu(site, images)
    arrived(node)
    node.segment()
    node.deliver()
    assert node.states == ["delivered"], node.job().reason
    (held,) = site.pacs.instances()  # by C-STORE and by STOW-RS: the same object
    sent = dcmread(node.places.job(1) / "result" / "seg.dcm")
    assert held["MainDicomTags"]["SOPInstanceUID"] == sent.SOPInstanceUID
    assert sent.PatientName == "Müller^Anna"
    labels = read_volume(node.places.job(1) / "result" / "labels.nii.gz")
    content = site.pacs.rest.session.get(f"{site.pacs.rest.url}/instances/{held['ID']}/file", timeout=60).content
    path = node.places.root / "held.dcm"
    path.write_bytes(content)
    assert dcmread(path) == sent  # but for the file's own header, which each archive writes anew
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True, relabel=False)
    series = highdicom.get_volume_from_series([dcmread(image) for image in images])
    assert np.array_equal(volume.match_geometry(series).array, labels_like(labels, series))
    confirmed(node)
    entries = list(history.entries(node.queue.connection))
    (written,) = [entry for entry in entries if entry["event"] == "written"]
    assert written["outputs"]["seg.dcm"]["sop_instance_uid"] == sent.SOPInstanceUID
    everything = "\n".join(map(str, entries)) + caplog.text
    assert not any(part in everything for part in ("Müller", "Anna", "4711"))


def labels_like(labels: Volume, series) -> np.ndarray:
    """Return the voxels of a label map in the order of a series' volume of highdicom."""
    indices = np.indices(series.spatial_shape).reshape(3, -1)
    places = series.affine @ np.vstack([indices, np.ones(indices.shape[1])])
    x, y, z = np.rint((np.linalg.inv(labels.affine) @ places)[:3]).astype(int)
    return labels.voxels[z, y, x].reshape(series.spatial_shape)


@pytest.mark.parametrize(
    ("calling", "called"),
    [("MR1", "kdseg"), ("MR2", "KDSEG"), ("MR9", "KDSEG")],
    ids=["called", "calling", "from another address"],
)
def test_a_wrong_ae_title_or_address_is_rejected(
    site: Site, node: Parts, images: list[Path], calling: str, called: str
) -> None:
    assert not storescu(site, images[:1], calling=calling, called=called)
    assert intake(node).reconcile() == 0


def test_a_series_that_came_just_before_orthanc_was_killed_is_found_and_one_sent_again_is_not_delivered_twice(
    site: Site, node: Parts, images: list[Path]
) -> None:
    assert site.orthanc is not None
    assert storescu(site, images)
    site.orthanc.kill()
    site.orthanc.start()
    end = time.monotonic() + 30
    while not intake(node).reconcile():
        assert time.monotonic() < end
        time.sleep(0.1)
    node.segment()
    node.deliver()
    assert storescu(site, images)
    time.sleep(2)
    assert intake(node).poll() == intake(node).reconcile() == 0
    node.segment()
    node.deliver()
    assert node.states == ["delivered"]
    assert len(site.pacs.instances()) == 1


def test_late_slices_while_the_pacs_is_down_supersede_and_one_result_arrives(
    site: Site, node: Parts, images: list[Path]
) -> None:
    assert storescu(site, images[:8])
    arrived(node)
    node.segment()
    site.pacs.kill()
    try:
        node.deliver()
        assert node.states == ["waiting"]
        assert "pacs: 127.0.0.1" in node.job().reason
        assert storescu(site, images[8:])
        arrived(node, 2)
    finally:
        site.pacs.start()
    node.clock.now += 60
    node.segment()
    node.deliver()
    assert node.states == ["superseded", "delivered"]
    assert len(site.pacs.instances()) == 1
    deliveries = [entry for entry in history.entries(node.queue.connection) if entry["event"] == "delivered to"]
    assert sorted((entry["job"], entry["target"]) for entry in deliveries) == [
        (1, "out"), (2, "archive"), (2, "out"), (2, "pacs")
    ]  # fmt: skip


def test_a_kill_between_stored_and_our_note_of_it_leaves_one_object_in_the_pacs(
    site: Site, node: Parts, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storescu(site, images)
    arrived(node)
    node.segment()

    class KilledError(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(node.deliveries, "succeed", killed)
        node.targets["pacs"].work()
    assert len(site.pacs.instances()) == 1
    after = Parts(node.places)
    after.deliver()
    assert after.states == ["delivered"]
    assert len(site.pacs.instances()) == 1


def test_what_the_pacs_lost_is_found_by_its_commitment_and_sent_again(
    site: Site, node: Parts, images: list[Path]
) -> None:
    assert storescu(site, images)
    arrived(node)
    node.segment()
    for target in node.targets.values():
        target.work()
    for series in site.pacs.rest.series():
        site.pacs.rest.delete_series(series["ID"])
    confirmed(node)
    assert len(site.pacs.instances()) == 1
    lost = [entry for entry in history.entries(node.queue.connection) if entry["event"] == "not delivered"]
    assert "storage commitment" in lost[0]["reason"]


def test_a_series_that_is_deleted_before_its_turn_withdraws_its_job_and_a_localiser_fits_no_rule(
    site: Site, node: Parts, images: list[Path]
) -> None:
    assert site.orthanc is not None
    assert storescu(site, images[:3])
    arrived(node)
    assert node.states == ["refused"]
    assert "it has 3 images" in node.job().reason
    assert storescu(site, images[3:])
    arrived(node, 2)
    for series in site.orthanc.rest.series():
        site.orthanc.rest.delete_series(series["ID"])
    assert intake(node).reconcile() == 0
    assert node.states == ["refused", "withdrawn"]
    node.queue.connection.execute("UPDATE jobs SET state = 'received' WHERE id = 2")  # had its turn come first
    node.segment()
    assert node.states == ["refused", "refused"]
    assert "not in Orthanc any more" in node.job(2).reason
    assert node.queue.suspension() is None


def test_without_orthanc_the_queue_is_suspended_and_goes_on_when_it_answers(
    site: Site, node: Parts, images: list[Path]
) -> None:
    assert site.orthanc is not None
    assert storescu(site, images)
    arrived(node)
    site.orthanc.kill()
    try:
        node.segment()
        suspension = node.queue.suspension()
        assert suspension is not None
        assert suspension.cause == "orthanc"
        node.upkeep.look()
        assert node.queue.suspension() is not None
    finally:
        site.orthanc.start()
    node.upkeep.look()
    node.segment()
    assert node.states == ["written"]
    node.deliver()
    node.clock.now += 8 * 86400
    assert node.upkeep.clean() == 1
    assert site.orthanc.rest.series() == []
