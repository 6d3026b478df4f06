"""What the panel says about a run that is done."""

from __future__ import annotations

from KDSegmentatorLib.jobs.events import Segmented, SizeResult
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
    """Return what the user has to know about the results: times, sizes that failed, structures that are missing."""
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
        absent = [row.name for row in result.statistics if row.voxels == 0]
        if absent:
            problems.append(
                _("{size} did not find: {names}. Look at the volume's field of view.").format(
                    size=result.segmentation.record.size, names=", ".join(absent)
                )
            )
    return Message(text=" ".join(parts + problems), level="warning" if problems else "information")
