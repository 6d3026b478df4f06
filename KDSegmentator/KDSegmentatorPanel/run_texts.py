"""What the panel says about a run that is done."""

from __future__ import annotations

from KDSegmentatorLib.jobs.messages import Segmented
from KDSegmentatorLib.jobs.run import SizeResult
from KDSegmentatorPanel.segment_view import Message
from KDSegmentatorPanel.translation import tr as _
from KDSegmentatorPanel.wording import duration, for_people


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
    """Return what became of a run: times, sizes that failed, and how many warnings the results have."""
    records = [result.segmentation.record for result in event.results]
    seconds = duration(sum(record.seconds["total"] for record in records))
    count = len(event.results)
    text = _("Done in {time}.") if count == 1 else _("{count} results in {time}.")
    parts = [text.format(time=seconds, count=count)]
    parts += [
        _("{size} failed: {reason}").format(size=failure.size, reason=for_people(failure.error))
        for failure in event.failures
    ]
    warnings = sum(len(record.warnings) for record in records)
    if warnings:
        text = (
            _("There is a warning: read it below.")
            if warnings == 1
            else _("There are {count} warnings: read them below.")
        )
        parts.append(text.format(count=warnings))
    return Message(text=" ".join(parts), level="warning" if warnings or event.failures else "information")
