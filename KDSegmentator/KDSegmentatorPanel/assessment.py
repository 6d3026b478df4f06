"""What each task means for a volume: whether it fits, how long each size takes here, and which one is advised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace as with_fields

from KDSegmentatorLib.errors import KDSegmentatorError
from KDSegmentatorLib.geometry import Volume
from KDSegmentatorLib.inference import plausibility
from KDSegmentatorLib.jobs.advise import outline_of
from KDSegmentatorLib.jobs.messages import Advised, Outline, TaskAdvice
from KDSegmentatorLib.packs.catalogue import Family
from KDSegmentatorLib.packs.manifest import Manifest
from KDSegmentatorPanel.wording import for_people

Assessment = dict[str, TaskAdvice]
"""By task: why it does not fit, else what each of its sizes takes here."""


@dataclass(frozen=True, kw_only=True)
class CheckedVolume:
    """What there is to know of a volume's voxels, without them.

    Attributes:
        outline: decides how long a run takes.
        unusable: why no pack can segment it; empty if one can.
        unlikely: why it does not look like a scan for the family, by task; empty if it does. No task if ``unusable``.
    """

    outline: Outline
    unusable: str
    unlikely: dict[str, str]


def check(volume: Volume, families: Sequence[Family]) -> CheckedVolume:
    """Look at the voxels, once; all that the user can choose is asked of the result.

    Args:
        volume: the scan.
        families: of the installed packs.
    """
    unusable = _problem(plausibility.check_finite, volume)
    scans: dict[tuple[str, float | None], str] = {}  # each look at all voxels once
    for family in [] if unusable else families:
        kind = _kind_of_scan(family.packs[0].manifest)
        if kind not in scans:
            look = partial(plausibility.check_intensities, cut_off=kind[1])
            scans[kind] = _problem(look, volume, kind[0])
    return CheckedVolume(
        outline=outline_of(volume),
        unusable=unusable,
        unlikely={
            family.task: scans[_kind_of_scan(manifest)] or _size_problem(volume, manifest, families)
            for family in ([] if unusable else families)
            for manifest in [family.packs[0].manifest]
        },
    )


def assess(checked: CheckedVolume, families: Sequence[Family], *, check_input: bool) -> Assessment:
    """Return whether each family fits the volume; the estimates come later.

    Args:
        checked: the volume.
        families: those that it was checked for.
        check_input: whether the volume has to be of the packs' modality and field of view.
    """
    problems = {
        family.task: checked.unusable or (checked.unlikely[family.task] if check_input else "") for family in families
    }
    return {task: TaskAdvice(problem=problem) for task, problem in problems.items()}


def with_advice(assessment: Assessment, advised: Advised) -> Assessment:
    """Return the assessment with the estimates of the families that there are some of."""
    found = {
        task: with_fields(each, problem=each.problem[:1].upper() + each.problem[1:])
        for task, each in advised.tasks.items()
        if task in assessment
    }
    return assessment | found


def _kind_of_scan(manifest: Manifest) -> tuple[str, float | None]:
    return manifest.modality, plausibility.cut_off(manifest)


def _size_problem(volume: Volume, manifest: Manifest, families: Sequence[Family]) -> str:
    """Return why the field of view does not fit a pack, or the one that is run before it; empty if it does."""
    region = manifest.region
    if region is None:
        return _problem(plausibility.check_field_of_view, volume, manifest)
    earlier = [pack.manifest for family in families for pack in family.packs if pack.manifest.id == region.pack]
    problems = [_problem(plausibility.check_field_of_view, volume, each) for each in earlier]
    problems.append(_problem(partial(plausibility.check_field_of_view, region_known=False), volume, manifest))
    return next((problem for problem in problems if problem), "")


def _problem(look: Callable[..., None], volume: Volume, *wanted: object) -> str:
    try:
        look(volume, *wanted)
    except KDSegmentatorError as error:
        return for_people(error).replace("he pack", "his task")  # the library's word for what users know as a task
    return ""
