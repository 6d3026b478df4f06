"""The advisor's estimates beside what segmenting takes."""

from __future__ import annotations

import sys
from pathlib import Path

from estimate_error import default_cases, estimate_errors

from kdbench.results import Advised, Measured
from KDSegmentatorLib.packs.pack import open_pack


def ask_the_advisor(packs: list[str], scans: str, rounds: int) -> Measured:
    """Return what the advisor says of packs on generated scans in every possible way, and what that takes.

    Args:
        packs: folders of packs.
        scans: folder for the scans.
        rounds: runs of each case.
    """
    cases = default_cases([open_pack(Path(pack)) for pack in packs], Path(scans))
    found = estimate_errors(cases, rounds=rounds, say=lambda line: print(line, file=sys.stderr))
    return Measured(
        advised=tuple(
            Advised(
                title=error.case.title,
                windows=error.windows,
                estimated_seconds=error.estimated_seconds,
                measured_seconds=error.measured_seconds,
                estimated_bytes=error.estimated_bytes,
                measured_bytes=error.measured_bytes,
            )
            for error in found
        )
    )
