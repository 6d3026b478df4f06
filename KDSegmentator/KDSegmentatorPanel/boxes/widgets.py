"""What the boxes share: controls that say why they are disabled, messages that are not told by colour alone."""

from __future__ import annotations

from html import escape
from typing import Any

import qt

from KDSegmentatorPanel.segment_view import Message
from KDSegmentatorPanel.translation import tr as _

_DARK = 128
"""Lightness from which on text is light, so that the application's style is a dark one."""


class Enabling:
    """Enables and disables widgets, and swaps their tooltips with it.

    Args:
        widgets: with the tooltips that they have when they are enabled.
    """

    def __init__(self, *widgets: Any) -> None:
        self._widgets = [(widget, widget.toolTip) for widget in widgets]
        self._shown: tuple[bool, str] | None = None

    def set(self, enabled: bool, reason: str) -> None:
        """Enable the widgets, or disable them with a reason."""
        shown = enabled, "" if enabled else reason
        if shown == self._shown:
            return
        self._shown = shown
        for widget, tooltip in self._widgets:
            widget.setEnabled(enabled)
            widget.setToolTip(tooltip if enabled else reason)


def alarm_color(widget: Any) -> str:
    """Return a red that can be read on the widget's background, light or dark."""
    return "#ff8a80" if widget.palette.color(qt.QPalette.WindowText).lightness() >= _DARK else "#b3261e"


def show_message(label: Any, message: Message) -> None:
    """Show a message in a QLabel, which is hidden if there is none."""
    words = {"information": "{text}", "warning": _("Note: {text}"), "error": _("Failed: {text}")}
    styles = {"information": "", "warning": "font-weight: bold", "error": f"color: {alarm_color(label)}"}
    label.setText(words[message.level].format(text=message.text) if message.text else "")
    label.setStyleSheet(styles[message.level])
    label.setVisible(bool(message.text))


def show_warnings(label: Any, warnings: tuple[str, ...]) -> None:
    """Show warnings as a list, the most important first and in red; the label is hidden if there are none."""
    items = [f"<li>{escape(text)}</li>" for text in warnings]
    if items:
        items[0] = f'<li><b style="color: {alarm_color(label)}">{escape(warnings[0])}</b></li>'
    title = _("Look at this before you use the result:")
    label.setText(f'<b>{title}</b><ul style="margin-left: -24px">{"".join(items)}</ul>' if items else "")
    label.setVisible(bool(items))
