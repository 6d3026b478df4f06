"""Tables of texts, as high as their rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt

_MOST_ROWS = 12
"""Rows that are seen at once; more are scrolled."""


def show_table(
    table: Any,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    tooltip: Callable[[int], str],
    numbers: int,
    most_rows: int = _MOST_ROWS,
) -> None:
    """Fill a QTableWidget: the first column takes the place that is left, the others what they need.

    Args:
        table: to fill.
        columns: titles; they may have two lines.
        rows: texts of the cells.
        tooltip: of a row, by its number.
        numbers: how many columns at the end are numbers, which are aligned to the right.
        most_rows: that are seen at once.
    """
    table.setColumnCount(len(columns))
    table.setRowCount(len(rows))
    table.setHorizontalHeaderLabels(list(columns))
    table.verticalHeader().setVisible(False)
    header = table.horizontalHeader()
    header.setHighlightSections(False)
    for column in range(len(columns)):
        mode = qt.QHeaderView.Stretch if column == 0 else qt.QHeaderView.ResizeToContents
        header.setSectionResizeMode(column, mode)
    for number, texts in enumerate(rows):
        for column, text in enumerate(texts):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(tooltip(number) or text)
            if column >= len(columns) - numbers:
                item.setTextAlignment(int(qt.Qt.AlignRight | qt.Qt.AlignVCenter))
            table.setItem(number, column, item)
    row_height = table.rowHeight(0) if rows else 0
    frame = 2 * table.frameWidth
    table.setFixedHeight(header.sizeHint.height() + min(len(rows), most_rows) * row_height + frame)
