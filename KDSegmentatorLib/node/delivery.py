"""Delivering: a thread a target takes what is due, tries, and tries again later; no target holds up another."""

from __future__ import annotations

import logging

from KDSegmentatorLib.errors import DeliveryError
from KDSegmentatorLib.node.deliveries import Deliveries, Delivery
from KDSegmentatorLib.node.orthanc import Orthanc, OrthancFaultError
from KDSegmentatorLib.node.places import RESULT, Places
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.scan import decode
from KDSegmentatorLib.node.settings import Delivering, DicomTarget, Target
from KDSegmentatorLib.node.targets import Sender, dicom_files

_ASK_AGAIN_SECONDS = 5.0
"""Between two looks at a storage commitment that is pending."""

_log = logging.getLogger(__name__)


class TargetDelivery:
    """Deliveries to one target.

    Args:
        target: from the settings.
        sender: brings results to it.
        queue: with the jobs.
        deliveries: of the queue.
        places: the node's folder.
        settings: pauses between tries.
        orthanc: asks for storage commitment; None where the target has none.
    """

    def __init__(
        self,
        target: Target,
        sender: Sender,
        queue: Queue,
        deliveries: Deliveries,
        places: Places,
        settings: Delivering,
        orthanc: Orthanc | None = None,
    ) -> None:
        self.name = target.name
        self._sender = sender
        self._queue = queue
        self._deliveries = deliveries
        self._places = places
        self._settings = settings
        self._commits = isinstance(target, DicomTarget) and target.commitment
        self._orthanc = orthanc

    def work(self) -> bool:
        """Deliver what is due next, or ask for a commitment; return whether there was something."""
        delivery = self._deliveries.due(self.name)
        if delivery is not None:
            if self._deliveries.begin(delivery):
                self._deliver(delivery)
            return True
        asked = self._deliveries.unconfirmed(self.name) if self._commits else []
        for each in asked:
            self._ask(each)
        return False

    def _deliver(self, delivery: Delivery) -> None:
        job = self._queue.get(delivery.job)
        assert job is not None  # noqa: S101 - for mypy
        try:
            stored = self._sender.send(self._places.job(job.id) / RESULT, f"{decode(job.source).result}/{job.rule}")
        except DeliveryError as error:
            self._postpone(delivery, str(error))
        except Exception as error:  # of a library; a delivery must not stop all others
            _log.error("job %d to %s: unexpected %s", job.id, self.name, type(error).__name__)
            self._postpone(delivery, f"it failed unexpectedly ({type(error).__name__})")
        else:
            _log.info("job %d is delivered to %s", job.id, self.name)
            self._deliveries.succeed(delivery, commitment=self._commits, stored=stored)

    def _postpone(self, delivery: Delivery, reason: str) -> None:
        pauses = self._settings.pauses
        since = self._queue.clock() - (delivery.first_try or self._queue.clock())
        if since >= self._settings.give_up_hours * 3600:
            _log.error("job %d to %s is given up: %s", delivery.job, self.name, reason)
            self._deliveries.fail(delivery, f"given up after {self._settings.give_up_hours:g} hours: {reason}")
            return
        pause = pauses[min(delivery.tries, len(pauses) - 1)]
        _log.warning("job %d to %s: %s; again in %g s", delivery.job, self.name, reason, pause)
        self._deliveries.postpone(delivery, reason, pause)

    def _ask(self, delivery: Delivery) -> None:
        """Ask a target, through Orthanc, whether it commits to keep what it took."""
        assert self._orthanc is not None  # noqa: S101 - the settings are checked for it
        try:
            if not delivery.receipt:
                receipt = self._orthanc.ask_commitment(self.name, self._instances(delivery.job))
                self._deliveries.ask_later(delivery, _ASK_AGAIN_SECONDS, receipt)
                return
            status, missing = self._orthanc.commitment(delivery.receipt)
        except (OrthancFaultError, DeliveryError) as error:
            _log.warning("job %d: commitment of %s: %s", delivery.job, self.name, error)
            self._deliveries.ask_later(delivery, self._settings.pauses[0], "")
            return
        if status == "Success":
            self._deliveries.confirm(delivery)
        elif status == "Failure":
            reason = f"it does not have {', '.join(missing) or 'all of it'} (storage commitment)"
            self._deliveries.send_again(delivery, reason, self._settings.pauses[0])
        else:
            self._deliveries.ask_later(delivery, _ASK_AGAIN_SECONDS, delivery.receipt)

    def _instances(self, job: int) -> list[tuple[str, str]]:
        from pydicom import dcmread

        found = [dcmread(path, stop_before_pixels=True) for path in dicom_files(self._places.job(job) / RESULT)]
        return [(str(each.SOPClassUID), str(each.SOPInstanceUID)) for each in found]
