"""What went wrong, in words, whatever it was: nothing that fails may leave the panel as if it were still at work."""

from __future__ import annotations

import logging

from KDSegmentatorLib.engines.memory_failure import is_memory_failure, memory_failure
from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorPanel.translation import tr as _

_log = logging.getLogger(__name__)


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
