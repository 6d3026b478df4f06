"""How many threads may be asked for."""

from __future__ import annotations

from KDSegmentatorLib.errors import InvalidSettingsError

MOST_THREADS = 1024
"""More than any machine has cores; beyond it threads cost memory without end."""


def check_threads(threads: int | None) -> None:
    """Check a number of threads; None stands for all that the machine allows.

    Raises:
        InvalidSettingsError: it is not a whole number from 1 to :data:`MOST_THREADS`.
    """
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise InvalidSettingsError(f"threads must be a whole number from 1 to {MOST_THREADS}, got {threads}")
