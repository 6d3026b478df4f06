"""What is odd about a result, for its user and for the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from KDSegmentatorLib.packs.manifest import Manifest

WarningKind = Literal[
    "input", "implausible", "contrast", "empty", "missing", "displaced", "small", "large", "cut off", "asymmetric"
]


@dataclass(frozen=True, kw_only=True)
class ResultWarning:
    """Something about a result that its user should look at before using it.

    Attributes:
        kind: ``input`` is a volume that does not look like what the pack was made for, segmented all the same because
            the check was switched off; ``implausible`` a result that is odd in many of its structures; ``contrast`` one
            whose structures are not bright and dark as in the training images; ``displaced`` says which structures are
            far from their places in the training set, the farthest first; ``cut off`` is a structure that touches
            the edge of the volume and usually does not, or is too small, or much smaller than its other side; with
            less than :data:`KDSegmentatorLib.inference.sanity.CUT_OFF_SHARE` of it left it is ``small``.
        pack_id: the pack that made it, in a chain possibly the earlier one.
        labels: names of the structures, the left one first of a pair; none if it is about all of them.
        found: volume in ml, or the difference ``|L - R| / ((L + R) / 2)`` of a pair; the correlation
            for ``contrast``, None there if all structures are equally bright; the largest distance in mm for
            ``displaced``; None for ``input``, ``implausible``, ``empty`` and ``missing``.
        expected: the smallest and the largest such number in the training set; None where there is none.
        sentence: all of that for people.
    """

    kind: WarningKind
    pack_id: str
    labels: tuple[str, ...] = ()
    found: float | None = None
    expected: tuple[float, float] | None = None
    sentence: str


def input_warning(finding: str, manifest: Manifest) -> ResultWarning:
    """Return the warning that a volume was segmented though it does not look like what the pack was made for.

    Args:
        finding: what would have been the reason to refuse it, one or more sentences.
        manifest: of the pack.
    """
    return ResultWarning(
        kind="input",
        pack_id=manifest.id,
        sentence=f"Segmented without the check of the input, which found: {finding}",
    )
