"""A line that says what happened, and what to do."""

from __future__ import annotations

from typing import Any

from KDSegmentatorPanel.segment_view import Message

_STYLES = {"information": "", "warning": "font-weight: bold", "error": "color: #c0392b; font-weight: bold"}


def show_message(label: Any, message: Message) -> None:
    """Show a message in a QLabel, which is hidden if there is none."""
    label.setText(message.text)
    label.setStyleSheet(_STYLES[message.level])
    label.setVisible(bool(message.text))
