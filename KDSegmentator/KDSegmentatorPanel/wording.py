"""Numbers, progress and errors as the panel says them."""

from __future__ import annotations

from KDSegmentatorLib.errors import ImplausibleVolumeError, KDSegmentatorError
from KDSegmentatorLib.inference.progress import REGION_PREFIX
from KDSegmentatorLib.jobs.messages import Progressed
from KDSegmentatorPanel.translation import tr as _


def duration(seconds: float) -> str:
    """Return an estimated time: ``5 s``, ``2 min``."""
    if seconds < 60:
        return _("{seconds} s").format(seconds=max(1, round(seconds)))
    return _("{minutes} min").format(minutes=round(seconds / 60))


def memory(size: float) -> str:
    """Return bytes as ``0.9 GB`` (1 GB = 10^9 bytes)."""
    return _("{gigabytes} GB").format(gigabytes=f"{max(size / 1e9, 0.1):.1f}")


def progress(event: Progressed, *, runs: bool = True) -> str:
    """Return where a run is: ``window 5 of 8 · 2 s left``.

    Args:
        event: from the job.
        runs: whether to say which of several sizes it is.
    """
    if event.stage in ("windows", "region-windows"):
        text = _("window {done} of {total}").format(done=event.done, total=event.total)
    else:
        text = {
            "load": _("reading pack and volume"),
            "preprocess": _("preparing the volume"),
            "restore": _("putting the labels together"),
            "write": _("handing the result over"),
        }[event.stage.removeprefix(REGION_PREFIX)]
    if event.stage.startswith(REGION_PREFIX):
        text = _("finding the region: {what}").format(what=text)
    if event.seconds_left is not None:
        text = _("{what} · {time} left").format(what=text, time=duration(event.seconds_left))
    if runs and event.runs > 1:
        text = _("size {number} of {count} · {what}").format(number=event.run + 1, count=event.runs, what=text)
    return text


def for_people(error: KDSegmentatorError) -> str:
    """Return an error as a sentence, with the remedies of the panel instead of those of the command line."""
    what = str(error)
    if isinstance(error, ImplausibleVolumeError):
        remedy = _("If it is right, switch off “Check that the volume fits the task” under Advanced.")
        what = f"{error.finding} {remedy}"
    return what[:1].upper() + what[1:]
