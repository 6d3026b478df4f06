"""Tables and figures as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

UNKNOWN = "-"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> list[str]:
    """Return the lines of a table; columns after the first ``texts`` are aligned to the right."""
    marks = ["---"] * texts + ["---:"] * (len(header) - texts)
    return [_row(header), _row(marks), *(_row(row) for row in rows)]


def seconds(value: float | None) -> str:
    """Return a time with three significant digits: ``0.533``, ``27.2``, ``459``."""
    return UNKNOWN if value is None else _three_digits(value)


def gigabytes(value: float | None) -> str:
    """Return bytes in GB (10^9) with two decimals."""
    return UNKNOWN if value is None else f"{value / 1e9:.2f}"


def times(value: float | None) -> str:
    """Return a ratio: ``52x``, ``3.14x``, ``0.98x``."""
    return UNKNOWN if value is None else f"{value:.2f}x" if value < 9.995 else f"{value:.0f}x"


def percent(value: float | None, digits: int = 0) -> str:
    """Return a share in percent."""
    return UNKNOWN if value is None else f"{value:.{digits}%}"


def count(value: float | None) -> str:
    """Return a whole number with its thousands apart."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def shape(lengths: Iterable[float]) -> str:
    """Return lengths as ``160 x 192 x 160``."""
    return " x ".join(f"{length:g}" for length in lengths)


def ratio(first: float | None, second: float | None) -> float | None:
    """Return the first over the second, None if one is not known."""
    return None if first is None or not second else first / second


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _three_digits(value: float) -> str:
    """Return a positive number with three significant digits, small ones with three decimals at most."""
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:.{decimals}f}"
