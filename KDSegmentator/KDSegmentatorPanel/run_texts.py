"""What the panel says about a run that is done."""

from __future__ import annotations

from KDSegmentatorLib.jobs.messages import Segmented
from KDSegmentatorLib.jobs.run import SizeResult
from KDSegmentatorPanel.segment_view import Message
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import duration, for_people

_SHOWN_WARNINGS = 3


def about_size(result: SizeResult) -> str:
    """Return how one size was run, for the log."""
    record = result.segmentation.record
    reasons = ". ".join(reason for reason in (result.size_reason, result.engine_reason) if reason)
    return _("{size}: {seconds} s with {engine} {precision} on {device}. {reasons}").format(
        size=record.size,
        seconds=f"{record.seconds['total']:.1f}",
        engine=record.engine,
        precision=record.precision,
        device=record.device,
        reasons=reasons,
    )


def done_message(event: Segmented) -> Message:
    """Return what the user has to know about the results: times, sizes that failed, and what is odd about the others.

    Of many warnings the first are shown, which are the most important; the log has all.
    """
    parts = [
        _("{size}: done in {time}.").format(
            size=result.segmentation.record.size, time=duration(result.segmentation.record.seconds["total"])
        )
        for result in event.results
    ]
    problems = [
        _("{size} failed: {reason}").format(size=failure.size, reason=for_people(failure.error))
        for failure in event.failures
    ]
    for result in event.results:
        record = result.segmentation.record
        shown = record.warnings[:_SHOWN_WARNINGS]
        problems += [_("{size}: {warning}").format(size=record.size, warning=each.sentence) for each in shown]
        if more := len(record.warnings) - len(shown):
            problems.append(_("{size}: {count} more warnings in the log.").format(size=record.size, count=more))
    return Message(text=" ".join(parts + problems), level="warning" if problems else "information")
