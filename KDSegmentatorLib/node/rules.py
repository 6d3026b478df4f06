"""Which rules fit a scan."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from KDSegmentatorLib.node.settings import Rule, Settings


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What rules ask of a scan.

    Attributes:
        dicom: whether it is a DICOM series.
        modality: empty if it does not say.
        description: of the series; the name of an image file.
        body_part: empty if it does not say.
        calling_aet: who sent it; empty if nobody did.
        images: how many; 1 for an image file.
    """

    dicom: bool
    modality: str = ""
    description: str = ""
    body_part: str = ""
    calling_aet: str = ""
    images: int = 1


def fitting(settings: Settings, facts: Facts) -> tuple[Mapping[str, int], str]:
    """Return name and priority of the rules that fit a scan; if none does, why, without patient data.

    Args:
        settings: with the rules.
        facts: of the scan.
    """
    found: dict[str, int] = {}
    against: list[str] = []
    for rule in settings.rule:
        reason = _against(rule, facts)
        if reason:
            against.append(f"{rule.name}: {reason}")
        else:
            found[rule.name] = rule.priority
    return found, "" if found else f"no rule fits ({'; '.join(against) or 'there is none'})"


def _against(rule: Rule, facts: Facts) -> str:
    """Return what speaks against a rule, empty if nothing does."""
    if facts.dicom or facts.modality:
        if rule.modality and facts.modality not in rule.modality:
            return f"the modality is {facts.modality or 'not given'}"
        if rule.body_part and facts.body_part.upper() not in {part.upper() for part in rule.body_part}:
            return "it is of another body part"
        if facts.images < rule.least_images:
            return f"it has {facts.images} images"
    if rule.calling_aet and facts.calling_aet not in rule.calling_aet:
        return "it comes from another sender"
    if rule.description and not re.search(rule.description, facts.description, re.IGNORECASE):
        return "it has another description"
    return ""
