"""Numbers, volumes, progress and what went wrong, as the panel says them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from KDSegmentatorLib.engines.memory_failure import is_memory_failure, memory_failure
from KDSegmentatorLib.errors import ImplausibleVolumeError, KDSegmentatorError
from KDSegmentatorLib.inference.progress import REGION_PREFIX
from KDSegmentatorLib.jobs.messages import Progressed
from KDSegmentatorPanel.translation import tr as _

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode

_log = logging.getLogger(__name__)


def duration(seconds: float) -> str:
    """Return an estimated time: ``5 s``, ``2 min``."""
    if seconds < 60:
        return _("{seconds} s").format(seconds=max(1, round(seconds)))
    return _("{minutes} min").format(minutes=round(seconds / 60))


def memory(size: float) -> str:
    """Return bytes as ``0.9 GB`` (1 GB = 10^9 bytes)."""
    return _("{gigabytes} GB").format(gigabytes=f"{max(size / 1e9, 0.1):.1f}")


def progress(event: Progressed) -> str:
    """Return where a run of a batch is: ``window 5 of 8 · 2 s left``."""
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
    return text


def volume_text(node: vtkMRMLScalarVolumeNode | None) -> str:
    """Return what tells a volume from others: voxels, spacing, and where another one has its name, its place."""
    image = None if node is None else node.GetImageData()
    if node is None or image is None:
        return ""
    size = " x ".join(str(length) for length in image.GetDimensions())
    spacing = " x ".join(f"{length:.2g}" for length in node.GetSpacing())
    text = _("{size} voxels of {spacing} mm").format(size=size, spacing=spacing)
    scene, kind = node.GetScene(), node.GetClassName()
    count = 0 if scene is None else scene.GetNumberOfNodesByClass(kind)
    nodes = [scene.GetNthNodeByClass(number, kind) for number in range(count)]
    same = [each for each in nodes if each.GetName() == node.GetName()]
    if len(same) < 2:
        return text
    number = same.index(node) + 1
    return _("{text} · number {number} of {count} with this name").format(text=text, number=number, count=len(same))


def for_people(error: KDSegmentatorError) -> str:
    """Return an error as a sentence, with the remedies of the panel instead of those of the command line."""
    what = str(error)
    if isinstance(error, ImplausibleVolumeError):
        remedy = _("If it is right, switch off “Check that the volume fits the task” under Advanced.")
        what = f"{error.finding} {remedy}"
    return what[:1].upper() + what[1:]


def in_words(error: Exception, doing: str) -> KDSegmentatorError:
    """Return an error that can be shown; one that nobody thought of goes to Slicer's log with its traceback.

    Args:
        error: any.
        doing: what failed, to complete "there is not enough memory ...", for example "to compare".
    """
    if isinstance(error, KDSegmentatorError):
        return error
    if is_memory_failure(error):
        return memory_failure(doing)
    _log.error("it did not work %s", doing, exc_info=error)
    return KDSegmentatorError(
        _(
            "it did not work {doing}, for a reason that was not expected ({kind}: {error}); the log has the details"
        ).format(doing=doing, kind=type(error).__name__, error=error)
    )
