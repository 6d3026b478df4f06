"""How results get to a target: a folder, a PACS by C-STORE, an archive by STOW-RS."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from KDSegmentatorLib.errors import DeliveryError, InvalidSettingsError
from KDSegmentatorLib.io.files import atomic_folder, is_disk_full, remove_unfinished
from KDSegmentatorLib.node.places import Places
from KDSegmentatorLib.node.secret_files import read_secret
from KDSegmentatorLib.node.settings import DicomTarget, FolderTarget, Target, Tls, WebTarget

if TYPE_CHECKING:
    from pydicom import Dataset

_WARNINGS = (0xB000, 0xB006, 0xB007)
"""Status of a C-STORE that stored the object, with something to say (DICOM PS3.4 B.2.3)."""


class Sender(Protocol):
    """Brings results to one target."""

    def send(self, folder: Path, place: str, /) -> list[str]:
        """Deliver what is in a job's folder of results; what the target has already may be sent again.

        Args:
            folder: of the results.
            place: where results of this scan and rule belong in a folder, with ``/``.

        Returns:
            SOP Instance UIDs of what was stored; none for files.

        Raises:
            DeliveryError: the target did not take all of it.
        """
        ...


def sender(target: Target, places: Places, aet: str, timeout_seconds: float) -> Sender:
    """Return what brings results to a target.

    Args:
        target: from the settings.
        places: the node's folder.
        aet: our AE title, where the target names no other.
        timeout_seconds: for the target to answer.

    Raises:
        InvalidSettingsError: a certificate or a password cannot be read.
    """
    if isinstance(target, FolderTarget):
        return _Folder(places.inside(target.folder))
    if isinstance(target, DicomTarget):
        return _Pacs(target, places, aet, timeout_seconds)
    return _Web(target, places, timeout_seconds)


def tls_context(tls: Tls, places: Places) -> ssl.SSLContext:
    """Return TLS 1.2 or later that believes nobody but those whom the settings name.

    Raises:
        InvalidSettingsError: a certificate or key cannot be read.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(places.inside(tls.ca)))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.certificate:
            context.load_cert_chain(places.inside(tls.certificate), places.inside(tls.key))
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettingsError(f"the certificates of a tls table cannot be read ({error})") from error
    return context


class _Folder:
    """A folder on this machine or in the network."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, folder: Path, place: str, /) -> list[str]:
        target = self._folder.joinpath(*place.split("/"))
        try:
            if not self._folder.is_dir():  # a share that is not mounted must not become a folder of this disk
                raise DeliveryError(f"the folder {self._folder} is not there; mount or make it")
            remove_unfinished(target)
            with atomic_folder(target) as temporary:
                for path in sorted(folder.iterdir()):
                    shutil.copyfile(path, temporary / path.name)
        except OSError as error:
            reason = "its disk is full" if is_disk_full(error) else error.strerror or type(error).__name__
            raise DeliveryError(f"the folder cannot be written: {reason}") from error
        return []


class _Pacs:
    """A PACS, by C-STORE; each delivery is an association of its own."""

    def __init__(self, target: DicomTarget, places: Places, aet: str, timeout_seconds: float) -> None:
        self._target = target
        self._aet = target.calling_aet or aet
        self._timeout = timeout_seconds
        self._tls = None if target.tls is None else tls_context(target.tls, places)

    def send(self, folder: Path, _: str, /) -> list[str]:
        from pydicom import dcmread
        from pynetdicom import AE

        instances = [dcmread(path) for path in dicom_files(folder)]
        ae = AE(ae_title=self._aet)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = self._timeout
        for instance in instances:
            ae.add_requested_context(instance.SOPClassUID, instance.file_meta.TransferSyntaxUID)
        target = self._target
        tls = None if self._tls is None else (self._tls, target.host)
        association = ae.associate(target.host, target.port, ae_title=target.aet, tls_args=tls)
        if not association.is_established:
            how = "refused the association" if association.is_rejected else "does not answer"
            raise DeliveryError(
                f"{target.host}:{target.port} {how}; look whether it knows the AE title {self._aet}"
                + (" and its certificate is signed by whom the settings believe" if self._tls else "")
            )
        try:
            accepted = {context.abstract_syntax for context in association.accepted_contexts}
            for instance in instances:
                self._store(association, instance, accepted)
        finally:
            association.release()
        return [str(instance.SOPInstanceUID) for instance in instances]

    def _store(self, association: Any, instance: Dataset, accepted: set[Any]) -> None:
        name = str(instance.SOPClassUID.name)
        if instance.SOPClassUID not in accepted:
            raise DeliveryError(f"it does not take objects of the class {name}; remove them from the rule's outputs")
        try:
            status = association.send_c_store(instance)
        except (ValueError, RuntimeError) as error:
            raise DeliveryError(f"the association ended while a {name} was sent ({type(error).__name__})") from error
        if "Status" not in status:
            raise DeliveryError(f"it ended the association, or did not answer in time, when a {name} was sent")
        if status.Status != 0 and status.Status not in _WARNINGS:
            said = f": {status.ErrorComment}" if "ErrorComment" in status else ""
            raise DeliveryError(f"it refused a {name} with the status 0x{status.Status:04X}{said}")


class _Web:
    """An archive, by STOW-RS."""

    def __init__(self, target: WebTarget, places: Places, timeout_seconds: float) -> None:
        self._target = target
        self._tls = target.tls
        self._places = places
        self._timeout = timeout_seconds
        self._password = read_secret(places.inside(target.password)) if target.password else ""
        if target.tls is not None:
            tls_context(target.tls, places)  # read once, so that a file that is missing shows at the start

    def send(self, folder: Path, _: str, /) -> list[str]:
        from dicomweb_client.api import DICOMwebClient
        from pydicom import dcmread
        from requests import RequestException, Session

        session = Session()
        session.trust_env = False
        if self._password:
            session.auth = (self._target.user, self._password)
        if self._tls is not None:
            session.verify = str(self._places.inside(self._tls.ca))
            if self._tls.certificate:
                session.cert = (
                    str(self._places.inside(self._tls.certificate)),
                    str(self._places.inside(self._tls.key)),
                )
        client = DICOMwebClient(self._target.url, session=session)
        client.set_http_retry_params(retry=False)
        instances = [dcmread(path) for path in dicom_files(folder)]
        try:
            for instance in instances:
                answer = client.store_instances([instance])
                failed = answer.get("FailedSOPSequence")
                if failed:
                    reason = failed[0].get("FailureReason", "?")
                    raise DeliveryError(f"it refused a {instance.SOPClassUID.name} with the reason {reason}")
        except RequestException as error:
            raise DeliveryError(_web_reason(error)) from error
        finally:
            session.close()
        return [str(instance.SOPInstanceUID) for instance in instances]


def dicom_files(folder: Path) -> Sequence[Path]:
    """Return the DICOM objects among a job's results; a report comes after the segmentation that it refers to.

    Raises:
        DeliveryError: there is none, or the folder is gone.
    """
    found = sorted(folder.glob("*.dcm"), key=lambda path: (path.name == "sr.dcm", path.name))
    if not found:
        raise DeliveryError("the job's folder has no DICOM object (any more); run the job again")
    return found


def _web_reason(error: Exception) -> str:
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import SSLError

    answer = getattr(error, "response", None)
    if answer is not None:
        return f"it answered with the HTTP status {answer.status_code}"
    if isinstance(error, SSLError):
        return "its certificate is not signed by whom the settings believe, or it did not believe ours"
    return "it does not answer" if isinstance(error, NoConnection) else f"it failed ({type(error).__name__})"
