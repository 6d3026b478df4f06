"""Orthanc beside the node: which series it has, and their images; it receives, and does nothing else.

Its list of changes is polled, because that is quick, and all of its series are looked through every minute, because a
series that came just before Orthanc was killed never appears as stable among the changes (1.10.1 and 1.12.7).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from KDSegmentatorLib.errors import ImageReadError, NodeError
from KDSegmentatorLib.io.files import atomic_folder, remove_unfinished
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.rules import Facts, fitting
from KDSegmentatorLib.node.scan import OrthancSeries, decode, encode
from KDSegmentatorLib.node.settings import Settings

if TYPE_CHECKING:
    from requests import Session

_LAST_CHANGE = "orthanc change"
_CHANGES_AT_ONCE = 100

_log = logging.getLogger(__name__)


class OrthancFaultError(NodeError):
    """Orthanc does not answer, or not as it should: no job could be done."""


class Orthanc:
    """Orthanc's REST interface.

    Args:
        url: for example ``http://127.0.0.1:8042``.
        user: of the interface.
        password: of the user.
        timeout_seconds: for an answer.
    """

    def __init__(self, url: str, user: str, password: str, timeout_seconds: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self._auth = (user, password)
        self._timeout = timeout_seconds
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The connection, with the password."""
        if self._session is None:
            from requests import Session

            self._session = Session()
            self._session.auth = self._auth
            self._session.trust_env = False  # no proxy between us and this machine
        return self._session

    def get(self, path: str, **parameters: str | int) -> Any:
        """Return an answer's JSON.

        Raises:
            OrthancFaultError: there is none.
        """
        return self._ask("GET", path, params=parameters)

    def post(self, path: str, content: object) -> Any:
        """Return the JSON of the answer to some JSON.

        Raises:
            OrthancFaultError: there is none.
        """
        return self._ask("POST", path, json=content)

    def find_series(self, series: str) -> dict[str, Any] | None:
        """Return a series by Orthanc's id, None if it is not there any more.

        Raises:
            OrthancFaultError: Orthanc does not answer.
        """
        found: dict[str, Any] | None = self._ask("GET", f"/series/{series}", missing=True)
        return found

    def sender(self, image: str) -> str:
        """Return the AE title that sent an image; empty if it did not come by DICOM, or is not there any more.

        Raises:
            OrthancFaultError: Orthanc does not answer.
        """
        return str(self._ask("GET", f"/instances/{image}/metadata/RemoteAET", missing=True, text=True) or "")

    def delete_series(self, series: str) -> None:
        """Delete a series; nothing happens if it is not there any more.

        Raises:
            OrthancFaultError: Orthanc does not answer.
        """
        self._ask("DELETE", f"/series/{series}", missing=True)

    def series(self) -> list[dict[str, Any]]:
        """Return all series, each with its tags and images.

        Raises:
            OrthancFaultError: Orthanc does not answer.
        """
        return list(self.get("/series", expand=""))

    def fetch(self, series: OrthancSeries, folder: Path) -> Path:
        """Bring the images of a series into a folder, which appears when all of them are there.

        They come by WADO-RS, which brings compressed ones uncompressed, as far as Orthanc's plugins decode them.

        Raises:
            ImageReadError: the series is not there any more, or has other images by now.
            OrthancFaultError: Orthanc does not answer.
            OSError: they cannot be written.
        """
        if folder.is_dir():
            return folder
        there = self.find_series(series.id)
        if there is None:
            raise ImageReadError("the series is not in Orthanc any more; send it again, then run the job again")
        if len(there["Instances"]) != series.images:
            raise ImageReadError("the series has other images by now; it is taken again as it is now, as a new job")
        from dicomweb_client.api import DICOMwebClient
        from requests import RequestException

        client = DICOMwebClient(f"{self.url}/dicom-web", session=self.session)
        client.set_http_retry_params(retry=False)
        try:
            remove_unfinished(folder)
            with atomic_folder(folder) as temporary:
                for number, image in enumerate(client.iter_series(series.study_uid, series.uid)):
                    image.save_as(temporary / f"{number}.dcm", enforce_file_format=True)
                found = sum(1 for _ in temporary.iterdir())
                if found != series.images:
                    raise OrthancFaultError(
                        f"Orthanc sent {found} of the {series.images} images of a series; its state has changed or its "
                        "storage is damaged"
                    )
        except RequestException as error:
            raise OrthancFaultError(f"Orthanc does not send a series: {_said(error)}") from error
        return folder

    def ask_commitment(self, modality: str, instances: Sequence[tuple[str, str]]) -> str:
        """Ask a PACS of Orthanc's configuration to commit to keep instances; return the transaction.

        Args:
            modality: its name there, which is the target's.
            instances: SOP Class UID and SOP Instance UID of each.

        Raises:
            OrthancFaultError: Orthanc does not answer, or the PACS does not take the request.
        """
        answer = self.post(
            f"/modalities/{modality}/storage-commitment", {"DicomInstances": [list(i) for i in instances]}
        )
        return str(answer["ID"])

    def commitment(self, transaction: str) -> tuple[str, list[str]]:
        """Return ``Pending``, ``Success`` or ``Failure``, and the UIDs of what the PACS does not have.

        Raises:
            OrthancFaultError: Orthanc does not answer, or knows no such transaction (any more).
        """
        answer = self.get(f"/storage-commitment/{transaction}")
        return str(answer["Status"]), [str(each["SOPInstanceUID"]) for each in answer.get("Failures", [])]

    def _ask(self, method: str, path: str, *, missing: bool = False, text: bool = False, **content: Any) -> Any:
        """Return what an answer says; None if there is no such thing, where that may be."""
        from requests import RequestException

        try:
            answer = self.session.request(method, self.url + path, timeout=self._timeout, **content)
            if missing and answer.status_code == 404:
                return None
            answer.raise_for_status()
            return answer.text if text else answer.json()
        except (RequestException, ValueError) as error:
            raise OrthancFaultError(
                f"Orthanc does not answer at {self.url} ({_said(error)}); look whether it runs, and whether user and "
                "password are those of its configuration"
            ) from error


class Intake:
    """Makes jobs of the series that arrive in Orthanc.

    Args:
        orthanc: where they arrive.
        settings: with the rules.
        queue: gets the jobs.
    """

    def __init__(self, orthanc: Orthanc, settings: Settings, queue: Queue) -> None:
        self._orthanc = orthanc
        self._settings = settings
        self._queue = queue

    def poll(self) -> int:
        """Look at what has changed since the last time; return how many jobs were made.

        Raises:
            OrthancFaultError: Orthanc does not answer.
        """
        made = 0
        while True:
            since = int(self._queue.fact(_LAST_CHANGE) or 0)
            answer = self._orthanc.get("/changes", since=since, limit=_CHANGES_AT_ONCE)
            for change in answer["Changes"]:
                if change["ChangeType"] == "StableSeries":
                    series = self._orthanc.find_series(change["ID"])
                    made += 0 if series is None else self._admit(series)
            self._queue.set_fact(_LAST_CHANGE, str(answer["Last"]))
            if answer["Done"] or not answer["Changes"]:
                return made

    def reconcile(self) -> int:
        """Look through all series, and withdraw the jobs of those that were deleted; return how many jobs were made.

        A list of changes that is shorter than what was read of it belongs to another Orthanc: it is read anew.

        Raises:
            OrthancFaultError: Orthanc does not answer.
        """
        last = self._orthanc.get("/changes", last="")["Last"]
        if int(self._queue.fact(_LAST_CHANGE) or 0) > last:
            self._queue.set_fact(_LAST_CHANGE, "0")
        there = self._orthanc.series()
        known = {series["ID"] for series in there}
        for job in self._queue.jobs(("received",)):
            source = decode(job.source)
            if isinstance(source, OrthancSeries) and source.id not in known:
                self._queue.withdraw(source.id, "its series was deleted from Orthanc")
        return sum(self._admit(series) for series in there)

    def _admit(self, series: dict[str, Any]) -> int:
        """Make jobs of a series that nothing came for lately."""
        if not series["IsStable"] or not series["Instances"]:
            return 0
        identity, images = series["ID"], sorted(series["Instances"])
        content = hashlib.sha256("\n".join([identity, *images]).encode()).hexdigest()
        if self._queue.knows(content):
            return 0
        tags = series["MainDicomTags"]
        study = self._orthanc.get(f"/series/{identity}/study")["MainDicomTags"]["StudyInstanceUID"]
        facts = Facts(
            dicom=True,
            modality=tags.get("Modality", ""),
            description=tags.get("SeriesDescription", ""),
            body_part=tags.get("BodyPartExamined", ""),
            calling_aet=self._orthanc.sender(images[0]),
            images=len(images),
        )
        uid = tags["SeriesInstanceUID"]
        source = OrthancSeries(
            facts=facts, result=uid, sha256=content, id=identity, study_uid=study, uid=uid, images=len(images)
        )
        rules, refusal = fitting(self._settings, facts)
        audit = {"series_uid": uid, "study_uid": study, "images": len(images), "calling_aet": facts.calling_aet}
        numbers = self._queue.admit(
            content=content, series=identity, source=encode(source), rules=rules, refusal=refusal, audit=audit
        )
        return len(numbers)


def _said(error: Exception) -> str:
    """Return what an error says in a few words, without the addresses of objects."""
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"HTTP status {answer.status_code}"
    return type(error).__name__
